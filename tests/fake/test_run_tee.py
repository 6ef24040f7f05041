# SPDX-License-Identifier: GPL-2.0-only
"""``gmem run --guest snp|tdx|plain`` on made-up hosts, through every way that it can end: verdict, exit code, sentence.

No SNP or TDX is here: what these tests show is what the harness does with what it is told, not that hardware says so.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from run_bench import Runs, serving

from harness.native.build import build_program

ROOT = Path(__file__).parents[2]
PRELUDE = """
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import harness.cli.main, harness.cli.run, pytest
from tests.fake.tee import bench
real = harness.cli.main.main
def planted():
    bench.plant(Path({relay!r}))
    return real()
harness.cli.main.main = planted
"""
THERE_AND_BACK = """
def test_back(gmem):
    page = G0[0:600]
    gmem.run(
        Convert(page, Side.PRIVATE), Populate(page), Check(page, "pattern"), Convert(page, Side.SHARED),
    )
"""
REST = "def test_rest(gmem):\n    gmem.run(Empty())\n"
QEMU_LINE = "g0-qemu.txt"
SECONDS = 10.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    relay = tmp_path_factory.mktemp("relay")
    build_program("relay", relay)
    with serving(PRELUDE.format(root=str(ROOT), relay=str(relay))) as server:
        yield server


@dataclass(frozen=True)
class Told:
    """What a run told."""

    code: int
    verdicts: list[str]
    sentence: str
    """Of its first case."""
    folder: Path

    def file(self, name: str) -> str:
        """The text of a file of its evidence; of several, the first."""
        return sorted(self.folder.rglob(name))[0].read_text()

    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        return found


Go = Callable[..., Told]


@pytest.fixture
def go(server: subprocess.Popen[str], tmp_path: Path) -> Go:
    runs = Runs(server, tmp_path)

    def run(
        kind: str,
        host: str = "",
        *words: str,
        suite: str = THERE_AND_BACK,
        fault: str = "",
        came: str = "",
        firmware: str = "",
        file: str = "",
    ) -> Told:
        """``came``: the kind of what comes up."""
        for name in ("world", "root"):
            (tmp_path / name).mkdir(exist_ok=True)
        config = tmp_path / "lab.yaml"
        config.write_text(
            f"schema: 1\nname: lab1\ntransport: ssh\nssh: {{host: lab1}}\n{file}\n"
            f"qemu: {{binary: {tmp_path}/qemu-system-x86_64}}\n"
        )
        ended = runs.run(
            runs.suite(suite), "--host", config, "--guest", kind, "--out", "out", *words,
            GMEM_TEST_HOST=host or f"{kind}-ready", GMEM_TEST_FAULT=fault, GMEM_TEST_KIND=came or kind,
            GMEM_TEST_WORLD=str(tmp_path / "world"), GMEM_TEST_ROOT=str(tmp_path / "root"), GMEM_TEST_FIRMWARE=firmware,
        )  # fmt: skip
        assert "Traceback" not in ended.stdout + ended.stderr
        assert (tmp_path / "out" / "results.jsonl").exists(), ended.stderr
        results = runs.results()
        assert runs.info()["exit_code"] == ended.code
        left = [path.name for path in (tmp_path / "root").glob("testbed-*")]
        assert not left, "everything is given back"
        end = time.monotonic() + SECONDS
        while any((Path("/proc") / guest.name).exists() for guest in (tmp_path / "world").glob("[0-9]*")):
            assert time.monotonic() < end, "a guest outlives the run"
            time.sleep(0.01)
        return Told(ended.code, [one["verdict"] for one in results], results[0]["sentence"], tmp_path / "out")

    return run


class TestItRuns:
    @pytest.mark.parametrize(
        ("kind", "says", "line"),
        [
            ("snp", "SEV-SNP guest", "sev-snp-guest,id=cgs0,reduced-phys-bits=1,policy=0x30000,cbitpos=51"),
            ("tdx", "TDX guest", '{"qom-type":"tdx-guest","id":"cgs0"}'),
        ],
    )
    def test_a_confidential_guest(self, go: Go, kind: str, says: str, line: str) -> None:
        told = go(kind, suite=THERE_AND_BACK + REST)
        assert (told.code, told.verdicts) == (0, ["pass", "pass"]), told.sentence
        assert told.info()["guest_kind"] == says
        assert told.info()["qemu"] == {"version": "QEMU 12.0.1"}
        qemu = told.file(QEMU_LINE)
        assert line in qemu
        assert "pipe,id=agent,path=" in qemu
        assert "gmem.tag=0" in qemu
        assert "accept_memory=eager" in qemu
        assert told.file("g0-kind.txt").startswith(f"proven: proven to be a {says}, by the host and by the guest\n")
        assert "==== command dmesg" in told.file("host.txt"), "what the host said is kept"

    def test_a_plain_guest(self, go: Go) -> None:
        told = go("plain", "snp-ready", suite=REST)
        assert (told.code, told.verdicts) == (0, ["pass"]), told.sentence
        assert "confidential" not in told.file(QEMU_LINE)

    def test_a_plain_guest_has_nothing_to_convert(self, go: Go) -> None:
        told = go("plain", "snp-ready")
        assert (told.code, told.verdicts) == (5, ["skip"])
        assert told.sentence == (
            "step 0 (convert g0.r0[0:600] to private) takes private memory, and an ordinary guest has none: no page of"
            " it is converted"
        )


class TestTheHostLacksIt:
    @pytest.mark.parametrize(
        ("kind", "host", "said"),
        [
            ("snp", "snp-iommu-pt", ["passthrough", "fix:"]),
            ("snp", "snp-nosnp", ["nosnp"]),
            ("snp", "snp-parameter-on-cmdline", ["sev_snp"]),
            ("snp", "snp-rmp-not-reserved", ["RMP", "BIOS"]),
            ("snp", "snp-old-qemu", ["qemu sev-snp-guest is no"]),
            ("snp", "tdx-ready", ["the CPU is of GenuineIntel, SEV-SNP is for AuthenticAMD"]),
            ("tdx", "snp-ready", ["the CPU is of AuthenticAMD"]),
            ("tdx", "tdx-hibernation", ["hibernation is possible, which TDX does not allow", "boot with nohibernate"]),
            ("tdx", "tdx-parameter-off", ["kvm_intel.tdx"]),
            ("tdx", "tdx-off-in-bios", ["BIOS"]),
            ("tdx", "tdx-debian-stable-qemu", ["qemu tdx-guest is no"]),
            ("tdx", "tdx-no-qemu", ["qemu"]),
        ],
    )
    def test_each_reason_is_a_skip_with_its_own_sentence(self, go: Go, kind: str, host: str, said: list[str]) -> None:
        told = go(kind, host, suite=THERE_AND_BACK + REST)
        assert (told.code, told.verdicts) == (5, ["skip", "skip"])
        assert told.sentence.startswith(f"host lab1 is not ready, tee {kind}: ")
        assert all(word in told.sentence for word in said), told.sentence
        assert not list(told.folder.rglob(QEMU_LINE)), "nothing was started"

    def test_required_it_is_infra(self, go: Go) -> None:
        told = go("snp", "snp-iommu-pt", "--require")
        assert (told.code, told.verdicts) == (3, ["infra"])
        assert told.sentence.startswith("required, and skipped: host lab1 is not ready, tee snp: ")

    @pytest.mark.parametrize(
        ("file", "said"),
        [
            (
                "kernel_cmdline: {must: [mitigations=off]}",
                "kernel_cmdline.must: the kernel was booted without mitigations=off; fix: boot with mitigations=off",
            ),
            ("requires: {kernel_min: 9.9}", "requires.kernel_min: the kernel is 7.3.4-amd64, wanted 9.9"),
            ("requires: {min_free_memory: 900T}", "requires.min_free_memory: 241 GiB is available, wanted 900T"),
        ],
    )
    def test_what_the_file_requires(self, go: Go, file: str, said: str) -> None:
        told = go("snp", file=file)
        assert (told.code, told.verdicts) == (5, ["skip"])
        assert told.sentence == f"host lab1 is not ready, {said}"

    @pytest.mark.parametrize(("kind", "metadata"), [("snp", "SEV"), ("tdx", "TDX")])
    def test_firmware_without_metadata(self, go: Go, kind: str, metadata: str) -> None:
        told = go(kind, firmware="none")
        assert (told.code, told.verdicts) == (5, ["skip"])
        assert f"/usr/share/ovmf/OVMF.fd has no {metadata} metadata" in told.sentence

    def test_a_kernel_that_converts_in_place(self, go: Go) -> None:
        told = go("snp", fault="in-place")
        assert (told.code, told.verdicts) == (5, ["skip"])
        assert "the host's kernel converts in place" in told.sentence


class TestTheGuestDoesNotStart:
    @pytest.mark.parametrize(
        ("words", "code", "verdict", "sentence"),
        [
            ("vm-type SEV-SNP not supported by KVM", 5, "skip", "host has no SNP: SNP needs "),
            ("could not load PC BIOS 'x.fd'", 4, "usage", "the firmware x.fd is not there"),
            ("cannot set up guest memory 'ram0': Cannot allocate memory", 3, "infra", "the host has not enough memory"),
            ("it is broken", 3, "infra", "QEMU ended with status 1; its last words: "),
        ],
    )
    def test_qemu_refuses(self, go: Go, words: str, code: int, verdict: str, sentence: str) -> None:
        told = go("snp", fault=f"refuses:{words}")
        assert (told.code, told.verdicts) == (code, [verdict])
        assert sentence in told.sentence

    def test_it_never_comes_up(self, go: Go) -> None:
        told = go("snp", fault="hangs", suite=THERE_AND_BACK + REST)
        assert (told.code, told.verdicts) == (3, ["infra", "skip"])
        assert told.sentence == (
            "guest g0 did not start: it did not come up within 3 s; the console of g0 ends with: BdsDxe: starting the"
            " kernel"
        )

    def test_it_comes_up_and_never_answers(self, go: Go) -> None:
        told = go("tdx", fault="silent-agent")
        assert (told.code, told.verdicts) == (3, ["infra"])
        assert "agent of g0" in told.sentence
        assert told.sentence.endswith("the console of g0 ends with: [    1.0] gmem: guest g0 is up: 7.3.4")


class TestTheWrongKind:
    def test_a_plain_vm_in_place_of_a_confidential_one(self, go: Go) -> None:
        told = go("snp", came="plain", suite=REST + THERE_AND_BACK)
        assert (told.code, told.verdicts) == (3, ["infra", "skip"]), "neither a pass nor a skip of the run"
        assert told.sentence == (
            "guest g0 is contradicted: a plain VM in place of a confidential one: asked for was a SEV-SNP guest"
        )

    @pytest.mark.parametrize(
        ("kind", "came", "sentence"),
        [
            ("snp", "tdx", "a TDX guest in place of a SEV-SNP guest"),
            ("tdx", "snp", "a SEV-SNP guest in place of a TDX guest"),
        ],
    )
    def test_another_confidential_one(self, go: Go, kind: str, came: str, sentence: str) -> None:
        told = go(kind, came=came)
        assert (told.code, told.verdicts) == (3, ["infra"])
        assert told.sentence == f"guest g0 is contradicted: {sentence}"

    def test_the_sides_do_not_agree(self, go: Go) -> None:
        told = go("snp", fault="guest-says-plain")
        assert (told.code, told.verdicts) == (3, ["infra"])
        assert told.sentence.startswith("guest g0 is contradicted: host and guest do not agree on a SEV-SNP guest: ")

    def test_a_guest_that_cannot_tell(self, go: Go) -> None:
        """Its log has lost the boot, and nothing but the log shows that a guest is an ordinary one."""
        told = go("plain", "snp-ready", fault="log-lost", suite=REST)
        assert (told.code, told.verdicts) == (3, ["infra"])
        assert told.sentence.startswith("guest g0 is not provable: ")


class TestItDeviates:
    def test_a_conversion_that_qemu_did_not_make(self, go: Go) -> None:
        told = go("snp", fault="loses-a-page")
        assert (told.code, told.verdicts) == (1, ["deviates"])
        assert "the guest asked for 0x8000000+600 pages to private, and QEMU did not convert it" in told.sentence

    def test_a_page_that_stays(self, go: Go) -> None:
        told = go("tdx", fault="keeps-a-page")
        assert (told.code, told.verdicts) == (1, ["deviates"])
        assert told.sentence.startswith("gmem/g0: predicted -600, observed -599 after step 3")

    def test_memory_that_is_still_there_after_the_guests(self, go: Go) -> None:
        """Every counter was right in every step; what shows it is the count after the end."""
        told = go("snp", fault="memory-stays")
        assert told.code == 1
        assert "5 pages of guest_memfd are still there although all guests ended" in told.sentence

    def test_a_host_that_cannot_be_counted_afterwards_is_no_pass(self, go: Go) -> None:
        told = go("snp", fault="census-fails")
        assert told.code == 3
        assert "did not say what was left of the guests' memory" in told.sentence


class TestAHostThatIsNotGivenBack:
    def test_a_run_that_passes_is_infra(self, go: Go) -> None:
        told = go("snp", fault="not-given-back")
        assert (told.code, told.verdicts) == (3, ["pass", "infra"])
        assert "swappiness is 33 and was 60" in (told.folder / "results.jsonl").read_text()


@pytest.mark.parametrize("kind", ["snp", "tdx"])
def test_the_bundled_smoke_suite(go: Go, kind: str) -> None:
    _, _, suite = (ROOT / "suites/smoke/test_smoke.py").read_text().partition("from __future__ import annotations\n")
    told = go(kind, suite=suite)
    assert (told.code, told.verdicts) == (0, ["pass"] * 5), told.sentence


class TestWhatSuchGuestsCannotDo:
    @pytest.mark.parametrize(
        ("kind", "steps", "sentence"),
        [
            ("snp", "Convert(G0[0:1], Side.SHARED)", "converts pages that are shared already"),
            ("tdx", "Convert(G0[0:2], Side.PRIVATE), Convert(G0[1:3], Side.PRIVATE)", "pages that are private already"),
            (
                "snp",
                "Convert(G0[0:2], Side.PRIVATE), PunchHole(G0[0:1])",
                "takes memory away from under a SEV-SNP",
            ),
            ("snp", "Convert(G0[0:2], Side.PRIVATE), Check(G0[0:1], 'zero')", "reads them deciphered"),
        ],
    )
    def test_it_is_skipped(self, go: Go, kind: str, steps: str, sentence: str) -> None:
        told = go(kind, suite=f"def test_x(gmem):\n    gmem.run({steps})\n")
        assert (told.code, told.verdicts) == (5, ["skip"])
        assert sentence in told.sentence

    def test_not_in_the_emulated_host(self, server: subprocess.Popen[str], tmp_path: Path) -> None:
        runs = Runs(server, tmp_path)
        environment = {"GMEM_TEST_ROOT": str(tmp_path / "root"), "GMEM_TEST_HOST": "snp-ready"}
        ended = runs.run(runs.suite(REST), "--guest", "snp", **environment)
        assert ended.code == 4
        assert "a SEV-SNP guest is one of a host with a KVM of its own" in ended.sentence
