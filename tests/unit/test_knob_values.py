# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel prints against what was asked for."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.host.knobs.values import check_path, followers, same, selected


@pytest.mark.parametrize(
    ("wanted", "printed"),
    [
        ("madvise", "always [madvise] never"),
        ("always [madvise] never", "always [madvise] never\n"),
        ("defer+madvise", "always defer [defer+madvise] madvise never"),
        ("1", "Y"), ("on", "Y"), ("N", "N"), ("0", "N"),
        ("256 256 32", "256\t256\t32\n"),
        ("7", "0x0007"),
        ("10", "10 \n"),
        ("", "\n"),
    ],
)  # fmt: skip
def test_the_same(wanted: str, printed: str) -> None:
    assert same(wanted, printed)


@pytest.mark.parametrize(
    ("wanted", "printed"),
    [
        ("never", "always [madvise] never"),
        ("always", "always [madvise] never"),
        ("1", "N"), ("0", "Y"), ("Y", "1"), ("2", "Y"),
        ("256 256", "256\t256\t32"),
        ("10", "100"), ("010", "10"), ("10", ""),
    ],
)  # fmt: skip
def test_not_the_same(wanted: str, printed: str) -> None:
    assert not same(wanted, printed)


def test_selected() -> None:
    assert selected("always [madvise] never\n") == "madvise"
    assert selected("[none]") == "none"
    assert selected("a [b] [c]\n") == "a [b] [c]"  # no selection
    assert selected("|/usr/lib/core %p [x]y\n") == "|/usr/lib/core %p [x]y"


@pytest.mark.parametrize("path", ["/etc/passwd", "/sys/../etc/passwd", "/proc/sys//vm/x", "sys/x", "/sys/a\nb"])
def test_no_knob(path: str) -> None:
    with pytest.raises(UsageError, match="is no knob"):
        check_path(path)


def test_followers() -> None:
    thp = "/sys/kernel/mm/transparent_hugepage"
    assert followers(f"{thp}/hugepages-2048kB/enabled") == ("/proc/sys/vm/min_free_kbytes",)
    assert followers(f"{thp}/khugepaged/defrag") == ()
    assert followers("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages") == (
        "/sys/devices/system/node/node*/hugepages/hugepages-2048kB/nr_hugepages",
    )
