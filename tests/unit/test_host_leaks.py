# SPDX-License-Identifier: GPL-2.0-only
"""What a test left on a host, and the kernel's log from a cursor on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.host.knobs.kernel_log import Cursor, LogPart, parse_dmesg, parse_kmsg
from harness.host.knobs.leaks import HostSnapshot, leaks
from harness.host.knobs.processes import Ours

POOLS = {
    ("", 2048, "nr"): 8, ("", 2048, "free"): 8, ("", 2048, "resv"): 0,
    ("node0", 2048, "nr"): 8, ("node0", 2048, "free"): 8, ("node0", 2048, "surplus"): 0,
}  # fmt: skip
BEFORE = HostSnapshot(POOLS, {"Unevictable": 400, "Mlocked": 400}, 1 << 12, ())


def log(*lines: str, lost: int = 0) -> LogPart:
    return LogPart(lines, Cursor(9), lost)


def test_nothing_left() -> None:
    gone = Ours(7, "qemu g0", alive=False)
    after = replace(BEFORE, meminfo={"Unevictable": 480, "Mlocked": 480}, processes=(gone,))
    assert leaks(BEFORE, after, log("[    1.000000] all is well")) == []


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (replace(BEFORE, pools=POOLS | {("node0", 2048, "free"): 5}), "3 huge pages of 2048 kB on node0 are not free"),
        (replace(BEFORE, pools=POOLS | {("node0", 2048, "nr"): 6}), "2048 kB on node0 shrank from 8 to 6"),
        (replace(BEFORE, pools=POOLS | {("node0", 2048, "surplus"): 2}), "2 surplus huge pages of 2048 kB on node0"),
        (replace(BEFORE, pools=POOLS | {("", 2048, "resv"): 1}), "1 reserved huge pages of 2048 kB stayed"),
        (replace(BEFORE, meminfo={"Unevictable": 2448, "Mlocked": 400}), "512 pages more are unevictable"),
        (replace(BEFORE, processes=(Ours(7, "qemu g0", alive=True),)), "process 7 (qemu g0) of ours still runs"),
        (replace(BEFORE, tainted=1 << 12 | 1 << 9), "a warning was printed (WARN) (bit 9)"),
    ],
)
def test_each_leak(after: HostSnapshot, said: str) -> None:
    (sentence,) = leaks(BEFORE, after)
    assert said in sentence


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[  9.1] SEV: Leaking PFN range 0x100-0x101", "until the next boot: SEV: Leaking PFN range 0x100-0x101"),
        ("[  9.1] kvm_intel: tdh_mng_key_freeid() failed. HKID 33 is leaked.", "HKID 33 is leaked"),
        ("[  9.1] WARNING: CPU: 1 PID: 7 at virt/kvm/guest_memfd.c:99 f+0x1/0x2", "the kernel printed WARN"),
        ("[  9.1] kernel BUG at mm/page_alloc.c:1!", "the kernel printed BUG"),
    ],
)
def test_the_kernel_says_so(line: str, said: str) -> None:
    (sentence,) = leaks(BEFORE, BEFORE, log(line))
    assert said in sentence


def test_lost_lines_are_told() -> None:
    assert leaks(BEFORE, BEFORE, log(lost=7)) == ["the kernel's log overwrote 7 records before they were read"]


MARK = "gmem-harness: mark 1"
KMSG = (
    "6,10,1000000,-;first; with a semicolon\n"
    " SUBSYSTEM=pci\n"
    "4,11,1500000,-,caller=T1;second\n"
    "7,12,1600000,-;gmem-harness: mark 0, end\n"
    f"7,13,2000000,-;{MARK}\n"
)


def test_kmsg() -> None:
    part = parse_kmsg(KMSG, Cursor(10), MARK)
    assert part == LogPart(("[    1.000000] first; with a semicolon", "[    1.500000] second"), Cursor(14))


def test_kmsg_overwritten() -> None:
    part = parse_kmsg(KMSG, Cursor(4), MARK)
    assert part is not None
    assert part.lost == 6


def test_kmsg_cut_off() -> None:
    assert parse_kmsg(KMSG[:-5], Cursor(10), MARK) is None  # the mark is missing: read again
    part = parse_kmsg(KMSG[:90], Cursor(10), MARK, full=True)
    assert part is not None
    assert part.more
    assert part.cursor == Cursor(12)


def test_dmesg() -> None:
    part = parse_dmesg("[1.0] a\n[2.0] b\n", Cursor())
    assert (part.lines, part.cursor) == (("[1.0] a", "[2.0] b"), Cursor(last="[2.0] b"))
    part = parse_dmesg("[1.0] a\n[2.0] b\n[3.0] c\n", part.cursor)
    assert (part.lines, part.lost) == (("[3.0] c",), 0)
    part = parse_dmesg("[9.0] z\n", part.cursor)
    assert (part.lines, part.lost) == (("[9.0] z",), -1)
    assert "is not known" in part.notice
