# SPDX-License-Identifier: GPL-2.0-only
"""Samples: the sealed blob, the vocabulary, the derived counters, differences and the registry."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.counters.lines import CounterFormatError
from harness.counters.registry import COUNTERS, Exactness, Kind, find
from harness.counters.sample import build_sample, difference
from harness.counters.sections import SampleFormatError, decode_sections, encode_sections

VMSTAT = {
    "nr_free_pages": 1000,
    "nr_file_pages": 300,
    "nr_anon_pages": 200,
    "nr_slab_reclaimable": 40,
    "nr_slab_unreclaimable": 50,
    "nr_page_table_pages": 7,
    "nr_sec_page_table_pages": 3,
    "nr_kernel_stack": 1600,
    "nr_vmalloc": 17,
    "pgalloc_dma": 1,
    "pgalloc_normal": 20,
    "pgfree": 4,
    "some_new_counter": 9,
}
SECTIONS: Mapping[str, str] = {
    "vmstat": "".join(f"{name} {value}\n" for name, value in VMSTAT.items()),
    "zoneinfo": "Node 0, zone   Normal\n  pages free     1000\n  pagesets\n"
    "    cpu: 0\n              count:    11\n    cpu: 1\n              count:    22\n",
    "buddyinfo": "Node 0, zone   Normal      5      6 \n",
    "gmem/4711": "resident=12 size=4194304\n",
    "gmem/9": "resident=1 size=4096\n",
    "kvm/4711-12/pages_4k": "13\n",
    "thp/enabled": "always [madvise] never\n",
    "thp/hugepages-2048kB/stats/split": "2\n",
    "hugetlb/2048kB/nr_hugepages": "8\n",
    "meminfo": "MemTotal:  4000 kB\n",
    "pagetypeinfo": "Page block order: 9\nPages per block:  512\n\n"
    "Free pages count per migrate type at order       0      1 \n"
    "Node    0, zone   Normal, type    Unmovable      3      1 \n"
    "Node    0, zone   Normal, type      Movable     10     20 \n\n"
    "Number of blocks type     Unmovable      Movable \nNode 0, zone   Normal            2            4 \n",
    "time": "start=100 end=250 steady=1\n",
}
GUESTS = {4711: "g0"}


def sections_without(*names: str) -> dict[str, str]:
    return {name: text for name, text in SECTIONS.items() if name not in names}


class TestVocabulary:
    def test_every_interface_becomes_its_counters(self) -> None:
        sample = build_sample(encode_sections(SECTIONS), GUESTS)
        wanted = {
            **VMSTAT,
            "F": 1033,
            "pcp": 33,
            "pgalloc": 21,
            "unaccounted": -(1033 + 300 + 200 + 40 + 50 + 7 + 3 + 17),
            "vmalloc": 17,
            "free/Unmovable": 5,
            "free/Movable": 50,
            "blocks/Unmovable": 2,
            "blocks/Movable": 4,
            "free_small/Unmovable": 5,
            "free_small/Movable": 50,
            "free_single/Unmovable": 0,
            "free_single/Movable": 0,
            "first_zone/Unmovable": 5,
            "first_zone/Movable": 50,
            "first_zone/whole": 21,
            "movable_balance": 50 - 4 * 512,
            "free_order/0": 5,
            "free_order/1": 6,
            "gmem/g0": 12,
            "kvm/g0/pages_4k": 13,
            "mthp/2048kB/split": 2,
            "hugetlb/2048kB/nr_hugepages": 8,
            "meminfo/MemTotal": 4000,
        }
        assert sample.values == wanted
        assert list(sample.values) == sorted(wanted)
        assert (sample.time_ns, sample.duration_ns, sample.steady) == (100, 150, True)
        assert sample.raw["thp/enabled"] == "always [madvise] never\n"

    def test_an_unnamed_process_stays_raw(self) -> None:
        sample = build_sample(encode_sections(SECTIONS))
        assert not [name for name in sample.values if name.startswith(("gmem/", "kvm/"))]
        assert sample.raw["gmem/4711"] == SECTIONS["gmem/4711"]

    @pytest.mark.parametrize(
        ("absent", "unknown"),
        [
            ("zoneinfo", {"F", "pcp", "unaccounted"}),
            ("pagetypeinfo", {"free/Movable", "blocks/Movable", "movable_balance"}),
            ("gmem/4711", {"gmem/g0"}),
            ("vmstat", {"pgalloc", "unaccounted", "nr_file_pages"}),
        ],
    )
    def test_what_is_absent_makes_what_follows_unknown_not_zero(self, absent: str, unknown: set[str]) -> None:
        values = build_sample(encode_sections(sections_without(absent)), GUESTS).values
        assert not unknown & values.keys()

    def test_a_sum_with_an_unknown_part_is_unknown(self) -> None:
        vmstat = SECTIONS["vmstat"].replace("nr_sec_page_table_pages 3\n", "")
        assert "unaccounted" not in build_sample(encode_sections({**SECTIONS, "vmstat": vmstat})).values

    def test_before_nr_vmalloc_meminfo_tells_it_in_kilobytes(self) -> None:
        texts = {**SECTIONS, "vmstat": SECTIONS["vmstat"].replace("nr_vmalloc 17\n", "")}
        texts["meminfo"] += "VmallocUsed:      88 kB\n"
        assert build_sample(encode_sections(texts)).values["vmalloc"] == 22

    def test_a_free_list_too_long_to_count_makes_the_balance_unknown(self) -> None:
        text = SECTIONS["pagetypeinfo"].replace("Movable     10     20", "Movable >100000     20")
        values = build_sample(encode_sections({**SECTIONS, "pagetypeinfo": text})).values
        assert "free/Unmovable" in values
        assert "free/Movable" not in values
        assert "movable_balance" not in values

    def test_the_zone_asked_first_is_the_highest_with_pageblocks(self) -> None:
        text = SECTIONS["pagetypeinfo"].replace(
            "Node    0, zone   Normal, type    Unmovable",
            "Node    0, zone    DMA32, type    Unmovable    100    100 \nNode    0, zone   Normal, type    Unmovable",
        )
        row = "Node 0, zone    DMA32            9            9 \n"
        text = text.replace("Node 0, zone   Normal  ", row + "Node 0, zone   Normal  ")
        text += "Node 0, zone  Movable            0            0 \n"
        values = build_sample(encode_sections({**SECTIONS, "pagetypeinfo": text})).values
        assert (values["first_zone/Unmovable"], values["free/Unmovable"]) == (5, 305)
        assert values["first_zone/whole"] == 21

    def test_with_two_nodes_no_zone_is_first(self) -> None:
        text = SECTIONS["pagetypeinfo"] + "Node 1, zone   Normal            2            4 \n"
        values = build_sample(encode_sections({**SECTIONS, "pagetypeinfo": text})).values
        assert not [name for name in values if name.startswith("first_zone/")]

    @pytest.mark.parametrize("name", ["gmem/4711", "kvm/4711-12/pages_4k", "hugetlb/2048kB/nr_hugepages"])
    def test_an_unreadable_number_names_its_file(self, name: str) -> None:
        with pytest.raises(CounterFormatError, match=f"{name}, line 1"):
            build_sample(encode_sections({**SECTIONS, name: "many\n"}), GUESTS)

    def test_a_sample_without_its_time_is_refused(self) -> None:
        with pytest.raises(SampleFormatError, match="when it was taken"):
            build_sample(encode_sections(sections_without("time")))


class TestBlob:
    texts = st.dictionaries(st.from_regex(r"[a-z][a-z0-9/._-]{0,20}", fullmatch=True), st.text(max_size=60))

    @given(texts)
    def test_round_trip(self, sections: dict[str, str]) -> None:
        sections.pop("end", None)
        assert decode_sections(encode_sections(sections)) == sections

    @given(st.data())
    def test_any_changed_byte_is_noticed(self, data: st.DataObject) -> None:
        blob = bytearray(encode_sections(SECTIONS))
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at] ^= data.draw(st.integers(1, 255))
        with pytest.raises(SampleFormatError):
            build_sample(bytes(blob), GUESTS)

    @given(st.data())
    def test_any_cut_is_noticed(self, data: st.DataObject) -> None:
        blob = encode_sections(SECTIONS)
        begin = data.draw(st.integers(0, len(blob) - 1))
        end = data.draw(st.integers(begin + 1, len(blob)))
        with pytest.raises(SampleFormatError):
            build_sample(blob[:begin] + blob[end:], GUESTS)

    def test_two_samples_in_a_row_are_not_one(self) -> None:
        with pytest.raises(SampleFormatError, match="follow its seal"):
            decode_sections(encode_sections(SECTIONS) * 2)

    def test_the_seal_counts_sections(self) -> None:
        blob = encode_sections({"a": "1", "b": "2"})
        with pytest.raises(SampleFormatError, match="counts 2 sections, there are 1"):
            decode_sections(blob[blob.index(b"@ b") :])

    def test_a_section_twice_is_refused(self) -> None:
        with pytest.raises(SampleFormatError, match="twice"):
            decode_sections(b"@ a 1\n1\n" + encode_sections({"a": "1"}))


class TestDifference:
    values = st.dictionaries(st.sampled_from("abcdef"), st.integers(-(1 << 63), 1 << 63))

    @given(values, values)
    def test_only_counters_of_both_and_sorted(self, before: dict[str, int], after: dict[str, int]) -> None:
        delta = difference(before, after)
        assert list(delta) == sorted(before.keys() & after.keys())
        assert all(before[name] + change == after[name] for name, change in delta.items())

    def test_takes_samples(self) -> None:
        before = build_sample(encode_sections(SECTIONS), GUESTS)
        after = build_sample(encode_sections({**SECTIONS, "gmem/4711": "resident=15 size=4194304\n"}), GUESTS)
        assert {name: change for name, change in difference(before, after).items() if change} == {"gmem/g0": 3}


class TestRegistry:
    def test_every_record_is_complete_and_named_once(self) -> None:
        assert len({spec.name for spec in COUNTERS}) == len(COUNTERS)
        for spec in COUNTERS:
            assert spec.kind is not Kind.UNSET
            assert spec.exactness is not Exactness.UNSET
            assert spec.unit
            assert spec.moved_by
            assert spec.interface

    @pytest.mark.parametrize(
        ("counter", "record"),
        [
            ("nr_file_pages", "nr_file_pages"),
            ("gmem/g3", "gmem/*"),
            ("mthp/2048kB/split", "mthp/*/split"),
            ("mthp/64kB/swpout", "mthp/*"),
            ("kvm/g0/pages_2m", "kvm/*/pages_*"),
            ("compact_stall", "compact_*"),
        ],
    )
    def test_the_nearest_record_is_found(self, counter: str, record: str) -> None:
        spec = find(counter)
        assert spec is not None
        assert spec.name == record

    def test_a_counter_nobody_speaks_of_has_none(self) -> None:
        assert find("workingset_refault_anon") is None
