# SPDX-License-Identifier: GPL-2.0-only
"""Bare guest_memfds of this machine's kernel: real counters, faults that are planted and caught, and nothing is left.

Where KVM makes no guest_memfd the tests that need one are skipped with the reason that a run would give.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.cache import ContentCache
from harness.counters.sample import Sample
from harness.errors import NothingRanError
from harness.guest.launch import BARE
from harness.host.emulated.prepare import Clock
from harness.host.emulated.state import TestbedSpec
from harness.host.local.beds import LocalBeds
from harness.host.local.cgroups import NAME, place
from harness.host.local.testbed import LocalTestbed
from harness.model.designs import design_named
from harness.run.facts import host_facts
from harness.run.result import CaseResult
from harness.run.runner import CaseName, run_scenario
from harness.run.verdict import Verdict
from harness.scenario.region import G0
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Check, Close, Populate, PunchHole, Step

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "suites" / "bare"
GMEM = [sys.executable, "-m", "harness.cli.main", "run", "--host", "local", "--guest", "bare"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
CASE = Scenario("case", (Populate(G0[0:100]), Check(G0[0:100], "pattern"), PunchHole(G0[10:20])), chunks=1)


def cgroups() -> set[str]:
    """Our cgroups that exist."""
    folder, _ = place()
    return {path.name for path in folder.iterdir() if path.name.startswith(NAME)} if folder else set()


@pytest.fixture(scope="module")
def beds(tmp_path_factory: pytest.TempPathFactory) -> LocalBeds:
    made = LocalBeds(ContentCache(tmp_path_factory.mktemp("cache")))
    try:
        made.saved(TestbedSpec.of(launch=BARE), tmp_path_factory.mktemp("saved"), Clock())
    except NothingRanError as error:
        pytest.skip(str(error))
    return made


@dataclass
class Planted:
    """Testbeds with a fault in them."""

    beds: LocalBeds
    plant: Callable[[LocalTestbed], None] = lambda testbed: None
    made: list[LocalTestbed] = field(default_factory=list)

    def saved(self, spec: TestbedSpec, evidence: Path, clock: Clock) -> Path:
        return self.beds.saved(spec, evidence, clock)

    def restored(self, spec: TestbedSpec, saved: Path, evidence: Path, clock: Clock) -> Any:
        testbed = self.beds.restored(spec, saved, evidence, clock)
        assert isinstance(testbed, LocalTestbed)
        self.plant(testbed)
        self.made.append(testbed)
        return testbed


def run(
    beds: LocalBeds, folder: Path, plant: Callable[[Any], None] = lambda testbed: None, scenario: Scenario = CASE
) -> CaseResult:
    """The scenario's result on a testbed with that fault."""
    testbeds = Planted(beds, plant)
    spec = TestbedSpec.of(launch=BARE, chunks=scenario.chunks, guests=scenario.guests)
    saved = testbeds.saved(spec, folder, Clock())
    facts = {"ncpu": str(os.cpu_count()), "slab.radix_tree_node": "28,4"}
    evidence = folder / "evidence"
    evidence.mkdir()
    return run_scenario(
        testbeds, saved, spec, scenario, design_named("order0"), host_facts(facts, spec),
        name=CaseName("bare", "case", ""), evidence=evidence, relative="evidence",
    )  # fmt: skip


def test_without_a_fault_it_passes_and_gives_everything_back(beds: LocalBeds, tmp_path: Path) -> None:
    before = cgroups()
    result = run(beds, tmp_path)
    assert result.verdict is Verdict.PASS, result.sentence
    found = {finding.counter: finding for finding in result.steps[0].findings}
    wanted = ["gmem/g0"] + (
        ["memcg/g0/file", "memcg/g0/file_mapped", "memcg/g0/unevictable"] if beds.kit.cgroups else []
    )
    assert sorted(found) == wanted, "machine-wide counters are not judged"
    assert all((one.low, one.high, one.observed, one.noise) == (100, 100, 100, 0) for one in found.values())
    assert "nr_file_pages" in msgspec.json.decode((tmp_path / "evidence/samples/start.json").read_bytes())["values"]
    assert cgroups() <= before


class TestFaults:
    """Each is planted where a kernel could have it, and the real counters or contents show it."""

    def test_a_hole_that_leaves_a_page(self, beds: LocalBeds, tmp_path: Path) -> None:
        def plant(testbed: Any) -> None:
            real = testbed.fallocate
            testbed.fallocate = lambda guest, mode, offset, length, **more: real(
                guest, mode, offset, length - 4096, **more
            )

        result = run(beds, tmp_path, plant)
        assert result.verdict is Verdict.DEVIATES
        assert result.sentence.startswith("gmem/g0: predicted -10, observed -9 after step 2 (punch hole g0.r0[10:20])")

    def test_a_neighbour_that_is_allocated_too(self, beds: LocalBeds, tmp_path: Path) -> None:
        def plant(testbed: Any) -> None:
            agent = testbed.channels.agents["g0"]
            real = agent.touch
            agent.touch = lambda region, start, count, **more: (
                real(region, start, count + 1, **more) and count  # says what was asked for
            )

        result = run(beds, tmp_path, plant)
        assert result.verdict is Verdict.DEVIATES
        assert result.sentence.startswith("gmem/g0: predicted +100, observed +101 after step 0")

    def test_contents_that_are_lost(self, beds: LocalBeds, tmp_path: Path) -> None:
        """A page is taken and given again between two steps: no counter shows it."""

        def plant(testbed: Any) -> None:
            agent = testbed.channels.agents["g0"]
            real = agent.touch

            def touch(*words: Any, **more: Any) -> int:
                touched: int = real(*words, **more)
                testbed.fallocate("g0", "punch", 7 * 4096, 4096, timeout=5)
                real(0, 7, 1, stride=1, write=False, gen=0, timeout=5)
                return touched

            agent.touch = touch

        result = run(beds, tmp_path, plant)
        assert result.verdict is Verdict.DEVIATES
        assert "contents: 1 of the 100 pages of g0.r0[0:100] do not hold the pattern of generation 1" in result.sentence
        assert "page 7, word 0: zero" in result.sentence

    def test_pages_that_stay_behind_when_the_process_ends(self, beds: LocalBeds, tmp_path: Path) -> None:
        """Somebody else keeps the file: its own descriptor of it is no longer watched, the cgroup still is."""
        if beds.kit.cgroups is None:
            pytest.skip("no memory cgroups here")
        kept: list[int] = []

        def plant(testbed: Any) -> None:
            real = testbed.end_guest

            def end_guest(name: str, *, timeout: float) -> None:
                pid = testbed.guest(name).pid
                folder = Path(f"/proc/{pid}/fd")
                links = {int(path.name): str(path.readlink()) for path in folder.iterdir()}
                number = next(fd for fd, link in links.items() if "guest_memfd" in link or "kvm-gmem" in link)
                kept.append(take(pid, number))
                real(name, timeout=timeout)

            testbed.end_guest = end_guest

        scenario = Scenario("close", (Populate(G0[0:30]), Close("g0")), chunks=1)
        result = run(beds, tmp_path, plant, scenario)
        os.close(kept[0])
        assert result.verdict is Verdict.DEVIATES
        assert result.sentence.startswith("memcg/g0/file: predicted -30, observed +0 after step 1 (close g0)")

    def test_a_corrupted_sample(self, beds: LocalBeds, tmp_path: Path) -> None:
        def plant(testbed: Any) -> None:
            real = testbed.fetch

            def fetch(slot: int) -> Sample:
                sample: Sample = real(slot)
                off = {"gmem/g0": sample.values["gmem/g0"] ^ (slot == 1)}
                return Sample({**sample.values, **off}, sample.raw, sample.time_ns)

            testbed.fetch = fetch

        result = run(beds, tmp_path, plant)
        assert result.verdict is not Verdict.PASS
        assert "gmem/g0: predicted +100, observed +101" in result.sentence

    def test_a_process_that_is_killed_is_no_verdict_on_the_kernel(self, beds: LocalBeds, tmp_path: Path) -> None:
        def plant(testbed: Any) -> None:
            real = testbed.fallocate

            def fallocate(*words: Any, **more: Any) -> None:
                os.kill(testbed.guest("g0").pid, signal.SIGKILL)
                real(*words, **more)

            testbed.fallocate = fallocate

        result = run(beds, tmp_path, plant)
        assert result.verdict is Verdict.INFRA
        assert "the process with the guest_memfd ended by signal 9" in result.sentence


def take(pid: int, number: int) -> int:
    """A descriptor of another process, as our own (pidfd_getfd)."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    fd = int(libc.syscall(438, pidfd, number, 0))
    os.close(pidfd)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd


def test_unaligned_bytes_are_refused_by_the_kernel_and_said(beds: LocalBeds, tmp_path: Path) -> None:
    def plant(testbed: Any) -> None:
        real = testbed.fallocate
        testbed.fallocate = lambda guest, mode, offset, length, **more: real(guest, mode, offset + 1, length, **more)

    result = run(beds, tmp_path, plant)
    assert result.verdict is Verdict.DEVIATES
    assert "the kernel refused fallocate(punch) at 0xa000+0xa000: EINVAL" in result.sentence


class TestHostsThatLack:
    def test_no_kvm(self, tmp_path: Path) -> None:
        if os.geteuid():
            pytest.skip("without root another lack is told first")
        beds = LocalBeds(ContentCache(tmp_path / "cache"), kvm=tmp_path / "kvm")
        with pytest.raises(NothingRanError, match=rf"no guest_memfd for --guest bare: {tmp_path}/kvm: No such file"):
            beds.saved(TestbedSpec.of(launch=BARE), tmp_path, Clock())

    def test_what_is_no_kvm(self, tmp_path: Path) -> None:
        if os.geteuid():
            pytest.skip("without root another lack is told first")
        beds = LocalBeds(ContentCache(tmp_path / "cache"), kvm=Path("/dev/null"))
        with pytest.raises(NothingRanError, match="/dev/null makes no VM: Inappropriate ioctl"):
            beds.saved(TestbedSpec.of(launch=BARE), tmp_path, Clock())

    def test_without_cgroups_the_pages_alone_are_judged(self, beds: LocalBeds, tmp_path: Path) -> None:
        (tmp_path / "mounts").write_text("proc /proc proc rw 0 0\n")
        bare = LocalBeds(ContentCache(tmp_path / "cache"), mounts=tmp_path / "mounts")
        result = run(bare, tmp_path)
        assert result.verdict is Verdict.PASS, result.sentence
        assert [finding.counter for finding in result.steps[0].findings] == ["gmem/g0"]


def test_cgroups_that_a_killed_run_left_are_removed_by_the_next(beds: LocalBeds, tmp_path: Path) -> None:
    folder = beds.kit.cgroups
    if folder is None:
        pytest.skip("no memory cgroups here")
    with subprocess.Popen(["true"]) as dead:
        pass
    old = folder / f"{NAME}{dead.pid}-0-g0"
    old.mkdir()
    assert LocalBeds(ContentCache(tmp_path / "cache")).kit.cgroups == folder
    assert not old.exists()


class TestEnds:
    """The harness goes away in the middle of a case: processes and cgroups go too."""

    @pytest.fixture
    def running(self, beds: LocalBeds, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
        steps: tuple[Step, ...] = (Populate(G0[0:4096]), PunchHole(G0[0:4096])) * 500
        (tmp_path / "long.yaml").write_text(Scenario("long", steps).to_yaml())
        process = subprocess.Popen(
            [*GMEM, "long.yaml"],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=ENVIRONMENT,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def left(self, harness: int) -> list[str]:
        """Programs of that harness, and its cgroups."""
        found = [name for name in cgroups() if name.startswith(f"{NAME}{harness}-")]
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if f"{NAME}{harness}-".encode() in path.read_bytes():
                    found.append(path.parent.name)
            except OSError:
                continue
        return found

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_nothing_is_left(self, running: subprocess.Popen[bytes], number: signal.Signals) -> None:
        if not place()[0]:
            pytest.skip("no memory cgroups here")
        end = time.monotonic() + 60
        while not self.left(running.pid):
            assert running.poll() is None, "the run ended before its first case"
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.5)
        running.send_signal(number)
        code = running.wait(30)
        assert code == (2 if number is signal.SIGINT else -signal.SIGKILL)
        end = time.monotonic() + 20
        while self.left(running.pid):
            assert time.monotonic() < end, self.left(running.pid)
            time.sleep(0.05)


def test_the_suite_passes_on_this_machine(beds: LocalBeds, tmp_path: Path) -> None:
    """At least eight cases, on real counters."""
    command = [*GMEM, "--require", "--json", "--out", "out", str(SUITE)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300, env=ENVIRONMENT)
    told = msgspec.json.decode(done.stdout)
    assert (done.returncode, told["run"]["verdict"]) == (0, "pass"), told["run"]["sentence"]
    assert told["run"]["counts"]["pass"] == len(told["cases"]) >= 8
    assert told["run"]["guest_kind"] == "bare"


def test_with_kvm_hidden_the_run_skips_with_the_reason(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if os.geteuid() or unshare is None or not Path("/dev/kvm").exists():
        pytest.skip("needs root, unshare and a /dev/kvm to hide")
    hide = 'mount --bind /dev/null /dev/kvm && exec "$@"'
    command = [unshare, "-m", "sh", "-c", hide, "sh", *GMEM, "--out", "out", str(SUITE)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    if "mount:" in done.stderr:
        pytest.skip(f"/dev/kvm cannot be hidden here: {done.stderr.strip()}")
    assert done.returncode == 5
    why = "this machine has no guest_memfd for --guest bare: /dev/kvm makes no VM"
    assert f"nothing-ran (exit code 5): every case was skipped: {why}" in done.stdout
