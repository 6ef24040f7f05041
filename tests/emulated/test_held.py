# SPDX-License-Identifier: GPL-2.0-only
"""Folios that somebody refers to, on a demonstrator kernel: what the hook does, and faults that only it brings out."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.host.emulated.prepare import Clock
from harness.host.probe import PAGE, ProbeClient, ProbeError
from harness.report.store import OutDir
from harness.run.options import RunOptions
from harness.run.session import Session
from tests.emulated.conftest import Gmem
from tests.planted.faults import FAULTS

SUITE = Path(__file__).parents[2] / "suites" / "c05_held_folio"
KERNEL = "7.3-thp-discard"
WINDOW = 512 * PAGE


def test_lost_data_is_caught(gmem_cli: Gmem) -> None:
    """The pages are kept and what was in them is lost, which only the guest can tell."""
    patch = str(FAULTS / "held-folio-zeroed.patch")
    cases = "test_nobody_refers or (stays_whole and written)"
    ended = gmem_cli.run(str(SUITE), "-k", cases, "--kernel", KERNEL, "--patch", patch)
    assert ended.code == 1, ended.stdout + ended.stderr
    assert {case["case"]: case["verdict"] for case in ended.cases} == {
        "nobody_refers_to_it": "pass",
        "a_folio_that_was_touched_stays_whole[written]": "deviates",
    }
    assert "do not hold the pattern of generation 1" in "\n".join([ended.said(), *map(str, ended.findings())])


def refused(probe: ProbeClient, pid: int, mode: str, offset: int, length: int) -> str:
    with pytest.raises(ProbeError) as caught:
        probe.refer(pid, mode, offset, length)
    return caught.value.code


def allocated(probe: ProbeClient) -> int:
    """Pages of guest_memfds that are allocated, in a file or not; what else is unevictable here does not move."""
    probe.settle()
    probe.sample(0)
    return probe.fetch(0).values["nr_unevictable"]


def test_the_hook(tmp_path: Path) -> None:
    """It takes and gives back what it is asked for, nothing else, and all that it has when its descriptor is closed."""
    out = OutDir.create(tmp_path / "out")
    session = Session(RunOptions(kernel=KERNEL), evidence=out.evidence, relative=out.relative, notice=print)
    ready = session.ready(session.spec(guests=1, chunks=8))
    with session.lab.restored(ready.spec, ready.saved, out.evidence("hook"), Clock()) as testbed:
        probe, guest = testbed.channels.probe, testbed.guest("g0")
        ram = ready.spec.guests[0].memory_bytes
        pid, start = guest.pid, guest.chunks[0]
        for mode in ("take", "drop"):
            for offset, length in ((start + 1, PAGE), (start, 1), (start, 0), ((1 << 64) - PAGE, 2 * PAGE)):
                assert refused(probe, pid, mode, offset, length) == "EINVAL"
        assert refused(probe, pid, "take", ram - PAGE, 2 * PAGE) == "EINVAL"
        assert probe.refer(pid, "take", start, WINDOW) == 0, "nothing is there yet"
        probe.fallocate(pid, "alloc", start, WINDOW)
        full = allocated(probe)
        assert probe.refer(pid, "take", start, 3 * PAGE) == 3
        assert probe.refer(pid, "take", start + 2 * PAGE, 2 * PAGE) == 4, "a page is held once"
        assert probe.refer(pid, "drop", start, 2 * PAGE) == 2
        assert probe.refer(pid, "drop", start, 2 * PAGE) == 2
        probe.fallocate(pid, "punch", start, WINDOW)
        assert probe.cachestat(pid, start, WINDOW) == 0
        assert allocated(probe) == full, "a folio that left the file stays"
        assert probe.refer(pid, "drop", start, WINDOW) == 0
        assert allocated(probe) == full - 512

        probe.fallocate(pid, "alloc", 0, 8193 * PAGE)
        assert refused(probe, pid, "take", 0, 8193 * PAGE) == "ENOSPC"
        assert probe.refer(pid, "drop", 0, ram) == 0, "all or nothing"
        assert probe.refer(pid, "take", 0, 8192 * PAGE) == 8192
        probe.fallocate(pid, "punch", 0, 8193 * PAGE)
        kept = allocated(probe)
        probe.unwatch(pid)
        assert allocated(probe) == kept - 8192
