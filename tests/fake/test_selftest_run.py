# SPDX-License-Identifier: GPL-2.0-only
"""Selftests on testbeds made of paper: who is blamed when something breaks, and what is written down."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.cli.main import main
from harness.errors import CrashError, InfraError, NoBootError
from harness.guest.console import find_crash
from harness.host.frames import ChannelTimeout
from harness.run import selftest_run
from harness.run.selftest_list import load_selftests
from harness.run.selftest_run import bounded, deliver
from harness.run.session import Session

PANIC = "[    9.1] Kernel panic - not syncing: Fatal exception"
CALM = "[    2.0] kvm_amd: Nested Virtualization enabled"


@dataclass
class FakeControl:
    """Programs that end after some polls, with a status and an output."""

    ends: str = "exited with status 0"
    output: bytes = b""
    polls: int = 2
    gone: bool = False
    puts: dict[str, bytes] = field(default_factory=dict)
    scripts: list[list[str]] = field(default_factory=list)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self.puts[path] = data

    def check(self, arguments: list[str], timeout: float = 10.0) -> str:
        self.scripts.append(arguments)
        return ""

    def run(self, arguments: list[str], timeout: float = 10.0) -> Any:
        return SimpleNamespace(code=0, output="kvm_vcpu_block R 5 9\n")

    def spawn(self, arguments: list[str], environment: dict[str, str], log: str) -> int:
        return 7

    def status(self, pid: int) -> str:
        if self.gone:
            raise ChannelTimeout("control did not answer within 5 s")
        self.polls -= 1
        return "running" if self.polls >= 0 else self.ends

    def get(self, path: str, limit: int = 0) -> bytes:
        return self.output[:limit]


@dataclass
class FakeTestbed:
    evidence: Path
    control: FakeControl
    console: str = CALM
    running: bool = True

    @property
    def channels(self) -> Any:
        return SimpleNamespace(control=self.control)

    @property
    def machine(self) -> Any:
        return SimpleNamespace(running=self.running, last_words=lambda: "QEMU ended with status 0: it printed nothing")

    def check_consoles(self) -> None:
        crash = find_crash(self.console)
        if crash:
            raise CrashError(f"the kernel under test printed: {crash.title} (line {crash.line} of host-console.txt)")


@dataclass
class Host:
    """What happens to each test: made per test by ``make``; ``source`` says which the tree has."""

    make: Callable[[str, Path], FakeTestbed] = lambda test, folder: FakeTestbed(folder, FakeControl())
    design: str = "order0"
    absent: tuple[str, ...] = ()
    broken: dict[str, str] = field(default_factory=dict)
    boot: Exception | None = None


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    made = Host()

    def build(store: object, kernel: object, test: str) -> Path | None:
        if test in made.broken:
            raise InfraError(made.broken[test])
        return None if test in made.absent else Path(f"/{test}")

    class FakeLab:
        @contextmanager
        def restored(self, spec: Any, saved: Path, folder: Path, clock: object) -> Iterator[FakeTestbed]:
            assert spec.guests == ()
            yield made.make(folder.name.removeprefix("selftests-"), folder)

    class FakeSession(Session):
        def _make_lab(self) -> Any:
            self.kernel = cast(Any, SimpleNamespace(name="7.3", describe=lambda: {"name": "7.3"}, patches=()))
            return FakeLab()

        def ready(self, spec: Any) -> Any:
            if made.boot is not None:
                raise made.boot
            self.design = made.design
            return SimpleNamespace(saved=Path("/saved"))

    monkeypatch.setattr(selftest_run, "build_selftest", build)
    monkeypatch.setattr(selftest_run, "deliver", lambda control, program, path: None)
    monkeypatch.setattr("harness.cli.selftests.Session", FakeSession)
    monkeypatch.chdir(tmp_path)
    return made


@dataclass
class Ended:
    code: int
    cases: dict[str, tuple[str, str]]
    out: Path
    text: str


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Ended:
    out = Path("out")
    code = main(["selftests", "--out", str(out), *words])
    lines = (out / "results.jsonl").read_text().splitlines()
    cases = {case["case"]: (case["verdict"], case["sentence"]) for case in map(json.loads, lines)}
    return Ended(code, cases, out, capsys.readouterr().out)


def test_all_pass(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.absent = ("x86/guest_memfd_conversions_test",)
    ended = run(capsys)
    assert ended.code == 0
    assert ended.cases["guest_memfd_test"] == ("pass", "exit status 0")
    assert ended.cases["x86/guest_memfd_conversions_test"] == ("skip", "absent: 7.3 has no such test")
    info = json.loads((ended.out / "run.json").read_text())
    assert (info["verdict"], info["sentence"]) == ("pass", "all 5 cases pass")
    assert info["guest_kind"] == selftest_run.GUEST_KIND
    for name in ("junit.xml", "results.ktap", "report.html", "started"):
        assert (ended.out / name).is_file()
    assert "selftests/guest_memfd_test" in ended.text
    assert (ended.out / "evidence/selftests-guest_memfd_test/output.txt").is_file()


def test_none_of_them_is_there(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.absent = ("guest_memfd_test",)
    ended = run(capsys, "-k", "guest_memfd_test")
    assert ended.code == 5


def only(host: Host, control: FakeControl, **testbed: Any) -> tuple[str, ...]:
    """Arguments that run one test, which goes as ``control`` says."""
    host.make = lambda test, folder: FakeTestbed(folder, control, **testbed)
    return ("-k", "guest_memfd_test")


def test_results_are_cases_of_their_own(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    output = b"TAP version 13\n1..2\nok 1 gmem.one\n# broke\nnot ok 2 gmem.\x1b[31m<two>\n"
    ended = run(capsys, *only(host, FakeControl("exited with status 1", output)))
    assert ended.code == 1
    assert ended.cases["guest_memfd_test:gmem.one"] == ("pass", "ok")
    assert [verdict for verdict, _ in ended.cases.values()] == ["deviates", "pass", "deviates"]
    assert "\x1b" not in ended.text
    assert "<two>" not in (ended.out / "report.html").read_text()
    assert "not ok 3 selftests/guest_memfd_test:gmem.<two>" in (ended.out / "results.ktap").read_text()


def test_an_expected_failure_in_every_report(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path("selftests.yaml")
    place.write_text(
        "tests: {guest_memfd_test: files}\n"
        "fails:\n"
        "  - {designs: [inplace-thp-noop], test: guest_memfd_test, shows: 'a.c:3', because: holes are whole windows}\n"
    )
    monkeypatch.setattr("harness.cli.selftests.load_selftests", lambda: load_selftests(place))
    host.design = "inplace-thp-noop"
    output = b"==== Test Assertion Failure ====\n  a.c:3: x\n  pid=1 tid=1 errno=0 - Success\n  no zeroes\n"
    ended = run(capsys, *only(host, FakeControl("exited with status 254", output)))
    assert ended.code == 0
    verdict, sentence = ended.cases["guest_memfd_test"]
    assert verdict == "xfail"
    assert sentence.startswith("as design inplace-thp-noop means it: holes are whole windows (exit status 254: a.c:3")
    assert "holes are whole windows" in ended.text
    assert "ok 1 selftests/guest_memfd_test # XFAIL as design" in (ended.out / "results.ktap").read_text()
    assert '<skipped message="as design inplace-thp-noop' in (ended.out / "junit.xml").read_text()
    assert "holes are whole windows" in (ended.out / "report.html").read_text()
    assert "0 cases pass, 1 fail as the design means it" in ended.text


def test_an_oops_is_a_crash_even_if_the_program_is_content(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, *only(host, FakeControl(), console="[    9.1] BUG: kernel NULL pointer dereference\n"))
    assert ended.code == 8
    assert ended.cases["guest_memfd_test"][0] == "crash"
    assert "kernel NULL pointer dereference" in ended.cases["guest_memfd_test"][1]


def test_a_panic_explains_the_silence(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, *only(host, FakeControl(gone=True), console=PANIC, running=False))
    assert (ended.code, ended.cases["guest_memfd_test"][0]) == (8, "crash")


def test_a_machine_that_is_gone_is_infra(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, *only(host, FakeControl(gone=True), running=False))
    assert ended.code == 3
    assert ended.cases["guest_memfd_test"][1].endswith("; QEMU ended with status 0: it printed nothing")


def test_a_hang_names_its_deadline_and_keeps_the_output(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    hanging = FakeControl(polls=10_000, output=b"Testing MOVE of in-use region\n")
    ended = run(capsys, "--deadline", "1", *only(host, hanging))
    assert ended.code == 3
    assert ended.cases["guest_memfd_test"] == ("infra", "it did not end within 1 s, its deadline")
    kept = ended.out / "evidence/selftests-guest_memfd_test/output.txt"
    assert kept.read_text() == "Testing MOVE of in-use region\n"
    assert "kvm_vcpu_block" in kept.with_name("hung.txt").read_text()


def test_one_that_cannot_be_built_leaves_the_others(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.broken["guest_memfd_test"] = "the selftest guest_memfd_test of kernel 7.3 cannot be built: error (log: /l)"
    ended = run(capsys, "-k", "guest_memfd_test or memory")
    assert ended.code == 3
    assert ended.cases["guest_memfd_test"] == ("infra", host.broken["guest_memfd_test"])
    assert ended.cases["pre_fault_memory_test"][0] == "pass"


def test_a_kernel_that_does_not_come_up_is_told_once(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.boot = NoBootError("the kernel under test did not come up")
    ended = run(capsys, "-k", "memory")
    assert ended.code == 7
    assert list(ended.cases.values()) == [
        ("no-boot", "the kernel under test did not come up"),
        ("skip", "no testbed: see selftests/set_memory_region_test"),
    ]


def test_interrupted(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(test: str, folder: Path) -> FakeTestbed:
        if test.startswith("pre_fault"):
            raise KeyboardInterrupt
        return FakeTestbed(folder, FakeControl())

    host.make = stop
    ended = run(capsys, "-k", "memory")
    assert (ended.code, list(ended.cases)) == (2, ["set_memory_region_test"])
    assert json.loads((ended.out / "run.json").read_text())["sentence"] == "interrupted after 1 cases"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("-k", "nothing_like_it"), 5, "no selftest was selected"),
        (("-k", "guest and"), 4, "-k 'guest and' is wrong at its end"),
        (("-k", "(guest"), 4, "-k '(guest' is wrong at its end"),
        (("-k", "guest memfd"), 4, "-k 'guest memfd' is wrong at 'memfd'"),
        (("--design", "order1"), 4, "unknown gmem design 'order1'"),
        (("--deadline", "0"), 4, "Invalid value for '--deadline'"),
        (("--kernel", "bzImage"), 4, "--kernel bzImage is an image"),
    ],
)
def test_mistakes(
    host: Host, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, sentence: str
) -> None:
    Path("bzImage").write_bytes(b"\x7f")
    assert main(["selftests", *words]) == code
    assert sentence in capsys.readouterr().err
    assert not Path("gmem-out").exists()


def test_the_list(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftests", "--list", "-k", "guest_memfd or not x86"]) == 0
    told = capsys.readouterr().out
    assert "guest_memfd_test: " in told
    assert "x86/private_mem_kvm_exits_test" not in told
    assert main(["selftests", "--list", "-k", "none"]) == 5
    assert main(["selftests", "--list", "--json"]) == 0
    assert "guest_memfd_test" in json.loads(capsys.readouterr().out.partition("\n")[2])["tests"]


def shell(tmp_path: Path, script: str, limit: int = 1000) -> tuple[int, bytes]:
    """Run a program as the emulated host does, in the shell that it has."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    words = bounded(str(program), str(tmp_path / "output"), limit)
    code = subprocess.run(["busybox", *words], check=False, timeout=60).returncode
    return code, (tmp_path / "output").read_bytes()


@pytest.mark.parametrize(
    ("script", "code", "output"),
    [
        ("echo one; echo two >&2", 0, b"one\ntwo\n"),
        ("echo why; exit 4", 4, b"why\n"),
        ("exit 254", 254, b""),
        ("kill -SEGV $$", 139, b""),
        ("read word && echo got", 1, b""),
    ],
)
def test_status_and_output_of_a_program(tmp_path: Path, script: str, code: int, output: bytes) -> None:
    assert shell(tmp_path, script) == (code, output)


def test_a_flood_is_cut_and_its_writer_not_killed(tmp_path: Path) -> None:
    code, output = shell(tmp_path, "head -c 3000000 /dev/zero; exit 3")
    assert (code, output) == (3, bytes(1000))


def test_a_program_is_delivered_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest_run, "_PIECE", 1000)
    program = tmp_path / "program"
    program.write_bytes(bytes(range(256)) * 40 + b"".join(bytes([n * n % 251]) * n for n in range(1, 200)))
    control = FakeControl()
    target = tmp_path / "there"
    deliver(cast(Any, control), program, str(target))
    for path, data in control.puts.items():
        Path(path).write_bytes(data)
    assert len(control.puts) > 1
    assert max(map(len, control.puts.values())) <= 1000
    subprocess.run(["busybox", *control.scripts[0]], check=True, timeout=60)
    assert target.read_bytes() == program.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o755
    assert not list(tmp_path.glob("there.*"))
