# SPDX-License-Identifier: GPL-2.0-only
"""memory.stat of cgroups of either version."""

from __future__ import annotations

import pytest

from harness.counters.lines import CounterFormatError
from harness.counters.memcg import parse
from harness.counters.registry import find

V1 = "cache 8192\nrss 184320\nmapped_file 4096\nunevictable 8192\ntotal_cache 999\nhierarchical_memory_limit 9\n"
V2 = "anon 4096\nfile 8192\nkernel 100\nfile_mapped 4096\nunevictable 8192\n"


@pytest.mark.parametrize("text", [V1, V2], ids=["v1", "v2"])
def test_both_versions_say_the_same(text: str) -> None:
    values = parse(text, "g1")
    assert values == {"memcg/g1/file": 2, "memcg/g1/file_mapped": 1, "memcg/g1/unevictable": 2}
    assert all(find(name) for name in values)


def test_what_the_kernel_lacks_is_missing_and_not_zero() -> None:
    assert parse("file 4096\n", "g0") == {"memcg/g0/file": 1}


@pytest.mark.parametrize("text", ["file\n", "file -4096\n", "file 4097\n", " 1\n"])
def test_what_the_kernel_does_not_print_is_an_error(text: str) -> None:
    with pytest.raises(CounterFormatError, match=r"memory\.stat, line 1"):
        parse(text, "g0")
