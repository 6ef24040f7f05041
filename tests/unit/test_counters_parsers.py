# SPDX-License-Identifier: GPL-2.0-only
"""Each kernel interface: this machine's own file, small texts with every oddity, round trips, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.counters import buddyinfo, meminfo, pagetypeinfo, vmstat, zoneinfo
from harness.counters.lines import CounterFormatError, number, single_number

counts = st.integers(0, (1 << 63) - 1)
names = st.from_regex(r"[a-z][a-z0-9_]{0,30}", fullmatch=True)
zone_names = st.sampled_from(["DMA", "DMA32", "Normal", "Movable"])

ZONEINFO = """\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 96790
      nr_hugetlb   0
  pages free     3840
        boost    0
        min      39
        promo    66
        managed  3840
        cma      0
        protection: (0, 3019, 6347, 6347, 6347)
      nr_free_pages 3840
  pagesets
    cpu: 0
              count:    5
              high:     24
              batch:    1
              high_min: 24
              high_max: 240
  vm stats threshold: 4
    cpu: 1
              count:    7
              high:     24
              batch:    1
              high_min: 24
              high_max: 240
  vm stats threshold: 4
  node_unreclaimable:  0
  start_pfn:           1
Node 0, zone  Movable
  pages free     0
        min      32
        managed  0
        protection: (0, 0, 0, 0, 0)
"""

PAGETYPEINFO = """\
Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1      2 \n\
Node    0, zone      DMA, type    Unmovable      1      2      3 \n\
Node    0, zone      DMA, type      Movable      0      0      1 \n\
Node    0, zone   Normal, type    Unmovable      4      0      0 \n\
Node    0, zone   Normal, type      Movable >100000      1      1 \n\

Number of blocks type     Unmovable      Movable \n\
Node 0, zone      DMA            1            7 \n\
Node 0, zone   Normal           73         1450 \n\
"""

MIXED = """
Number of mixed blocks    Unmovable      Movable \n\
Node 0, zone      DMA            0            2 \n\
Node 0, zone   Normal            5            0 \n\
"""


class TestNumbers:
    @given(st.integers(-(1 << 63), (1 << 63) - 1))
    def test_a_negative_counter_comes_back_from_its_unsigned_print(self, value: int) -> None:
        assert number(str(value % (1 << 64)), "f", 1) == value

    @pytest.mark.parametrize("text", ["", "1 ", "+1", "0x1", "1e3", "١", str(1 << 64), "9" * 30])
    def test_what_the_kernel_does_not_print_is_refused(self, text: str) -> None:
        with pytest.raises(CounterFormatError, match="f, line 3"):
            number(text, "f", 3)

    def test_a_file_of_one_number(self) -> None:
        assert single_number("12\n", "thp/x") == 12

    @pytest.mark.parametrize("text", ["", "12", "12\n13\n", "\n", "always [never]\n"])
    def test_a_file_of_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(CounterFormatError, match="thp/x, line"):
            single_number(text, "thp/x")


class TestVmstat:
    def test_reads_this_machine(self) -> None:
        text = Path("/proc/vmstat").read_text()
        values = vmstat.parse(text)
        assert len(values) == text.count("\n") > 50
        assert values["nr_free_pages"] > 0
        assert values["pgfault"] > 0

    @given(st.dictionaries(names, counts, min_size=1))
    def test_keeps_every_name_known_or_not(self, values: dict[str, int]) -> None:
        assert vmstat.parse("".join(f"{name} {value}\n" for name, value in values.items())) == values

    @pytest.mark.parametrize("line", ["pgfree", "pgfree 1 2", "pgfree  1", "pgfree x", "PgFree 1", "", "nr_a 3"])
    def test_a_strange_line_is_named(self, line: str) -> None:
        with pytest.raises(CounterFormatError, match="vmstat, line 2") as caught:
            vmstat.parse(f"nr_a 1\n{line}\n")
        assert caught.value.line == 2

    def test_a_file_cut_within_a_number_is_refused(self) -> None:
        with pytest.raises(CounterFormatError, match="ends within this line"):
            vmstat.parse("nr_a 1\nnr_b 12")


class TestMeminfo:
    def test_reads_this_machine(self) -> None:
        values = meminfo.parse(Path("/proc/meminfo").read_text())
        assert values["MemTotal"] > values["MemFree"] > 0
        assert "Active(anon)" in values

    @pytest.mark.parametrize("line", ["MemFree 1 kB", "MemFree: 1 MB", "MemFree: kB", "MemTotal: 2 kB"])
    def test_a_strange_line_is_named(self, line: str) -> None:
        with pytest.raises(CounterFormatError, match="meminfo, line 2"):
            meminfo.parse(f"MemTotal:  1 kB\n{line}\n")


class TestBuddyinfo:
    def test_reads_this_machine(self) -> None:
        zones = buddyinfo.parse(Path("/proc/buddyinfo").read_text())
        pages = sum(blocks << order for order, blocks in enumerate(buddyinfo.free_per_order(zones)))
        assert len(zones[0].free) >= 10
        assert pages > 0

    @given(st.lists(st.tuples(st.integers(0, 9), zone_names, st.lists(counts, min_size=11, max_size=11)), min_size=1))
    def test_round_trip(self, rows: list[tuple[int, str, list[int]]]) -> None:
        text = "".join(
            f"Node {node}, zone {zone:>8} " + "".join(f"{blocks:6d} " for blocks in free) + "\n"
            for node, zone, free in rows
        )
        assert [(zone.node, zone.zone, list(zone.free)) for zone in buddyinfo.parse(text)] == rows

    def test_zones_of_different_length_are_refused(self) -> None:
        with pytest.raises(CounterFormatError, match="buddyinfo, line 2: 1 orders after a zone with 2"):
            buddyinfo.parse("Node 0, zone      DMA      1      2 \nNode 0, zone   Normal      1 \n")

    def test_per_order_sums_go_over_zones(self) -> None:
        zones = buddyinfo.parse("Node 0, zone      DMA      1      2 \nNode 1, zone   Normal     10     20 \n")
        assert buddyinfo.free_per_order(zones) == (11, 22)


class TestZoneinfo:
    def test_reads_this_machine(self) -> None:
        zones = zoneinfo.parse(Path("/proc/zoneinfo").read_text())
        populated = [zone for zone in zones if zone.values["managed"]]
        assert {pageset.cpu for pageset in populated[0].pagesets} >= {0}
        assert all(zone.free <= zone.values["present"] for zone in zones)

    def test_every_kind_of_line(self) -> None:
        dma, movable = zoneinfo.parse(ZONEINFO)
        assert (dma.node, dma.zone, dma.free, dma.pcp) == (0, "DMA", 3840, 12)
        assert dma.values["managed"] == 3840
        assert dma.values["nr_inactive_anon"] == 96790
        assert dma.values["start_pfn"] == 1
        assert dma.protection == (0, 3019, 6347, 6347, 6347)
        assert dma.pagesets[1].limits == {"count": 7, "high": 24, "batch": 1, "high_min": 24, "high_max": 240}
        assert (movable.zone, movable.free, movable.pagesets) == ("Movable", 0, ())

    @pytest.mark.parametrize(
        ("old", "new", "line"),
        [
            ("Node 0, zone      DMA\n", "", 1),
            ("  pages free     3840\n", "", 1),
            ("              count:    7\n", "", 1),
            ("count:    5", "count:    x", 15),
            ("count:    5", "count     :5", 15),
            ("        min      39\n", "        min      39\n        min      39\n", 8),
            ("  pagesets\n", "  pagesets?\n", 13),
        ],
    )
    def test_damage_is_named(self, old: str, new: str, line: int) -> None:
        assert old in ZONEINFO
        with pytest.raises(CounterFormatError, match=f"zoneinfo, line {line}"):
            zoneinfo.parse(ZONEINFO.replace(old, new, 1))

    @given(st.lists(st.lists(counts, max_size=4), min_size=1, max_size=4))
    def test_per_cpu_counts_round_trip(self, zones: list[list[int]]) -> None:
        text = ""
        for free, pagesets in enumerate(zones):
            text += f"Node 0, zone   Normal\n  pages free     {free}\n"
            text += "  pagesets\n" if pagesets else ""
            for cpu, count in enumerate(pagesets):
                text += f"    cpu: {cpu}\n              count:    {count}\n  vm stats threshold: 4\n"
        parsed = zoneinfo.parse(text)
        assert [[pageset.count for pageset in zone.pagesets] for zone in parsed] == zones
        assert [zone.free for zone in parsed] == list(range(len(zones)))


class TestPagetypeinfo:
    def test_sums_and_unknown_counts(self) -> None:
        info = pagetypeinfo.parse(PAGETYPEINFO)
        assert info.pages_per_block == 512
        assert info.free_pages() == {"Unmovable": 1 + 4 + 12 + 4}, "a Movable count is unknown, so its sum is"
        assert info.block_counts() == {"Unmovable": 74, "Movable": 1457}
        assert info.free[3].free == (None, 1, 1)
        assert info.mixed == ()

    def test_page_owner_adds_a_table(self) -> None:
        info = pagetypeinfo.parse(PAGETYPEINFO + MIXED)
        assert [dict(row.blocks) for row in info.mixed] == [
            {"Unmovable": 0, "Movable": 2},
            {"Unmovable": 5, "Movable": 0},
        ]
        assert info.block_counts() == {"Unmovable": 74, "Movable": 1457}

    def test_reads_this_machine_when_it_may(self) -> None:
        try:
            text = Path("/proc/pagetypeinfo").read_text()
        except PermissionError:  # root only; the probe's own tests then see it missing
            text = PAGETYPEINFO
        info = pagetypeinfo.parse(text)
        assert {"Unmovable", "Movable"} <= set(info.block_counts())

    @pytest.mark.parametrize(
        ("old", "new", "problem"),
        [
            ("Page block order: 9\n", "", "a heading or a whole table is missing"),
            ("Pages per block:  512", "Pages per block:  256", "the block sizes disagree"),
            ("      1      2      3 \n", "      1      2 \n", "line 5: 2 counts, 3 orders"),
            ("Number of blocks type     Unmovable      Movable \n", "", "line 10: 2 counts under 0 types"),
            ("           73         1450 \n", "           73 \n", "line 12: 1 counts under 2 types"),
            ("Node    0, zone      DMA, type", "Node    0, zone      DMA; type", "line 5: a line of no known kind"),
            (">100000", "100>000", "line 8: expected a number"),
        ],
    )
    def test_damage_is_named(self, old: str, new: str, problem: str) -> None:
        assert old in PAGETYPEINFO
        with pytest.raises(CounterFormatError, match=problem):
            pagetypeinfo.parse(PAGETYPEINFO.replace(old, new, 1))

    @given(st.lists(st.tuples(st.sampled_from(["Unmovable", "Movable"]), st.lists(st.none() | st.integers(0, 99999),
           min_size=3, max_size=3)), min_size=1))  # fmt: skip
    def test_a_sum_is_known_only_if_each_count_is(self, rows: list[tuple[str, list[int | None]]]) -> None:
        head, _, rest = PAGETYPEINFO.partition("Node    0")
        tail = rest[rest.index("\nNumber") :]
        shown = [[">100000" if count is None else f"{count:6d}" for count in free] for _, free in rows]
        lines = [
            f"Node    0, zone   Normal, type {name:>12} {' '.join(words)} \n"
            for (name, _), words in zip(rows, shown, strict=True)
        ]
        sums = pagetypeinfo.parse(head + "".join(lines) + tail).free_pages()
        for name in ("Unmovable", "Movable"):
            mine = [free for type_, free in rows if type_ == name]
            known = bool(mine) and all(count is not None for free in mine for count in free)
            assert (name in sums) == known
            if known:
                assert sums[name] == sum((count or 0) << order for free in mine for order, count in enumerate(free))
