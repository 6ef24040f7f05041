# SPDX-License-Identifier: GPL-2.0-only
"""Tree nodes, slabs, tables, list pages and the end of a guest, rule by rule, and the kernel's constants once more.

The constants are worked out from those of the kernel's headers, which each line names.
"""

from __future__ import annotations

import pytest

from harness.model import pages, physics, slab
from harness.model.aligned import Blocks
from harness.model.closing import close_guest, held_pages
from harness.model.designs import design_named
from harness.model.events import ATTRIBUTES_STORED, LEAF_INSTALLED, LEAF_ZAPPED, PAGE_IN_PASSING, Event, EventKind
from harness.model.facts import HostFacts
from harness.model.folio_events import NESTED_TABLE_FREED, NESTED_TABLE_LINKED, folio_split, leaf_installed
from harness.model.gather import entries, list_pages
from harness.model.ledger import Ledger
from harness.model.nested import post as post_nested
from harness.model.parked import Parked
from harness.model.physics import ALLOWANCES, Allowances, gather_pages
from harness.model.prediction import Reason
from harness.model.shared import ANON_4K
from harness.model.slab import NodeChange, node_change, with_splits
from harness.model.state import RegionState

FACTS = HostFacts(ncpu=2)
PAGE = 4096


def bounds(ledger: Ledger) -> dict[str, tuple[int, int]]:
    return {name: (bound.low, bound.high) for name, bound in ledger.close().items()}


def event(kind: EventKind, count: int = 1, guest: str = "g0") -> Event:
    return Event(kind, guest, count, "rule", "a sentence of words")


def test_constants_of_the_kernel() -> None:
    assert 1 << physics.XA_GROUP_ORDER == 64  # XA_CHUNK_SIZE, include/linux/xarray.h
    assert 64 ** (2 + physics.XA_UPPER_NODES) == 2**30  # levels of a tree of 2**30 pages
    assert 32 + 8 * physics.SHEAF_OBJECTS == 256  # struct slab_sheaf before its objects, kmalloc-256
    assert physics.GATHER_FIRST == 8 - 1  # MMU_GATHER_BUNDLE; a batch is left one entry early
    assert physics.GATHER_NEXT == (PAGE - 16) // 8 - 1  # MAX_GATHER_BATCH = (PAGE_SIZE - sizeof(batch)) / sizeof(ptr)
    assert physics.GATHER_MOST == 10_000 // ((PAGE - 16) // 8)  # MAX_GATHER_BATCH_COUNT
    assert physics.CLAIM_BLOCKS == 2 ** (10 - 9)  # MAX_PAGE_ORDER, pageblock_order
    assert physics.BLOCK_PAGES == (2 << 20) // PAGE
    assert physics.NESTED_CACHE == 40 - (5 - 1)  # KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE, PT64_ROOT_MAX_LEVEL
    assert physics.NESTED_HEADERS == -(-(36 + 52) // (PAGE // 184))
    assert physics.NESTED_HEADERS_PER_PAGE == 16
    assert physics.MAPLE_PAGES == 3 + 1 + 2 * 2  # 41 nodes in slabs of 16; one page of slack; two CPUs begin slabs
    assert physics.MAPLE_CALLS_PER_PAGE == 32  # no more than 40: two ranges each, 5 in a node, 16 nodes in a page
    assert physics.TABLE_BATCH_PAGES == physics.SPARE_SLABS_FREED == physics.PCP_LARGE_ALONG == 1
    assert physics.NODE_METADATA_PAGES == 2
    assert Allowances() == ALLOWANCES == Allowances(0, 0, 0, 0)


def test_what_a_host_is_unless_it_says_otherwise() -> None:
    assert HostFacts(
        2, {"g0.r0": 8}, pcp_cap=4 * 63, zones=("DMA32", "Normal"), page_size=PAGE, slab_pages=4,
        slab_objects=4 * PAGE // 576, pt_reclaim=True, tables_present=True, thp_available=True, use_zero_page=True,
        huge_zero_replaced=True, whole_folio_around=True, uniform_split=False, large_folios=True, vcpus=1, rom_pages=0,
        prefaults=False, mirrored_tdp=False,
    ) == FACTS  # fmt: skip
    assert FACTS.pcp_pages == 2 * 252 * 2
    assert HostFacts(ncpu=1, regions={"g10.r0": 1, "g2.r1": 1, "g2.r0": 1}).guests == ("g2", "g10")


@pytest.mark.parametrize(
    ("discarded", "more"), [(0, 0), (6, 0), (7, 1), (515, 1), (516, 2), (7 + 18 * 509, 19), (1 << 20, 19)]
)
def test_a_list_of_single_pages(discarded: int, more: int) -> None:
    """mmu_gather.c:tlb_next_batch: 7 on the stack, then 509 in a page, 19 pages at most."""
    assert gather_pages(discarded) == more
    assert list_pages([(1, discarded)]) == more


@pytest.mark.parametrize(
    ("listed", "more"),
    [
        ([], 0), ([(2, 3)], 0), ([(2, 4)], 1), ([(1, 6), (2, 1)], 1), ([(1, 5), (2, 1)], 1), ([(1, 4), (2, 1)], 0),
        ([(2, 4), (1, 508)], 1), ([(2, 4), (1, 509)], 2), ([(2, 4), (2, 254)], 1), ([(2, 4), (2, 255)], 2),
        ([(2, 4 + 255 * 18)], 19), ([(2, 9999)], 19),
    ],
)  # fmt: skip
def test_a_list_of_folios(listed: list[tuple[int, int]], more: int) -> None:
    """Two entries for neighbours of one folio: 8 and 510 entries, a page left while two might not fit."""
    assert list_pages(listed) == more


def test_entries_of_singles_and_folios_in_rising_order() -> None:
    folios = Blocks().add(2, 1 << 8 | 1 << 12).add(3, 1 << 24)
    found = entries(pages.span(3, 2) | 1 << 20, pages.span(10, 4) | 1 << 30, folios)
    # 3..4 single; 10..11 of the folio at 8; 12..13 of the next; 20 single; 30 alone of the folio at 24
    assert found == [(1, 2), (2, 1), (2, 1), (1, 1), (1, 1)]


class TestNodes:
    """lib/xarray.c: a node for 64 entries, one above for 512 of them at least, and three more."""

    @staticmethod
    def change(before: int, after: int, *, file: bool = False, attributes: bool = False) -> NodeChange:
        was, now = RegionState.empty(4), RegionState.empty(4)
        was = RegionState(4, attr_private=before, private=before, shared=before)
        now = RegionState(4, attr_private=after, private=after, shared=after)
        return node_change([(was, now)], file_backed=file, attributes=attributes)

    @pytest.mark.parametrize(
        ("before", "after", "wanted"),
        [
            (0, 1, (1, 4, 0, 0)), (1, 0, (0, 0, 1, 4)), (1, 2, (0, 0, 0, 0)), (1, 1 << 63, (0, 0, 0, 0)),
            (1, 1 << 64, (1, 0, 1, 0)), (1, 1 | 1 << 64, (1, 0, 0, 0)), (1, 1 << 512, (1, 4, 1, 4)),
            (0, 1 | 1 << 512, (2, 5, 0, 0)), (0, (1 << 512) - 1, (8, 4, 0, 0)), ((1 << 513) - 1, 0, (0, 0, 9, 5)),
        ],
    )  # fmt: skip
    def test_groups_that_fill_and_empty(self, before: int, after: int, wanted: tuple[int, ...]) -> None:
        assert self.change(before, after) == NodeChange(*wanted)

    def test_every_tree_counts(self) -> None:
        assert self.change(0, 1, attributes=True) == NodeChange(2, 8, 0, 0)
        assert self.change(0, 1, file=True, attributes=True) == NodeChange(3, 12, 0, 0)
        assert self.change(1, 0, file=True) == NodeChange(0, 0, 2, 8)

    @pytest.mark.parametrize(("order", "nodes"), [(5, 1), (6, 0), (9, 0)])
    def test_a_folio_of_64_pages_is_an_entry_of_a_node_above(self, order: int, nodes: int) -> None:
        after = RegionState(1, private=(1 << (1 << order)) - 1, private_folios=Blocks().add(order, 1))
        assert node_change([(RegionState(1), after)]) == NodeChange(nodes, 4, 0, 0)

    @pytest.mark.parametrize(
        ("orders", "uniform", "passing"),
        [((9,), False, 1), ((9,), True, 8), ((5,), True, 0), ((6,), False, 1), ((6,), True, 1), ((9, 8), False, 2)],
    )
    def test_splits_need_nodes_that_the_hole_empties(
        self, orders: tuple[int, ...], uniform: bool, passing: int
    ) -> None:
        facts = HostFacts(ncpu=2, uniform_split=uniform)
        splits = [event(folio_split(order)) for order in orders]
        assert with_splits(NodeChange(), splits, facts) == NodeChange(new=passing, gone=passing)
        assert with_splits(NodeChange(new=1), splits, facts).gone == max(0, passing - 1)

    @pytest.mark.parametrize(("nodes", "taken"), [(0, 0), (1, 4), (2, 8), (28, 8), (29, 12), (57, 16)])
    def test_slabs_taken(self, nodes: int, taken: int) -> None:
        """Refills of 28 objects, slabs of 28 objects and 4 pages; with two CPUs one more slab from two nodes on."""
        assert slab.slab_pages_taken(FACTS, nodes) == taken

    @pytest.mark.parametrize(("nodes", "taken"), [(1, 8), (28, 8), (29, 16)])
    def test_slabs_of_fewer_objects(self, nodes: int, taken: int) -> None:
        assert slab.slab_pages_taken(HostFacts(ncpu=1, slab_objects=14), nodes) == taken

    @pytest.mark.parametrize(("now", "before", "back"), [(0, 99, 0), (1, 0, 8), (28, 0, 8), (28, 1, 12), (1, 55, 12)])
    def test_slabs_given_back(self, now: int, before: int, back: int) -> None:
        """What is freed together may complete its slabs, and one more."""
        assert slab.slab_pages_returned(FACTS, now, before) == back

    def test_what_a_step_may_take_and_give(self) -> None:
        ledger = Ledger()
        assert slab.post(ledger, FACTS, NodeChange(1, 4, 1, 0), 0) == (8, 8)
        assert bounds(ledger) == {
            "F": (-10, 10), "nr_slab_reclaimable": (-8, 8), "nr_slab_unreclaimable": (-2, 2), "pgalloc": (0, 10),
            "pgfree": (0, 10),
        }  # fmt: skip
        ledger = Ledger()
        assert slab.post(ledger, FACTS, NodeChange(), 9) == (0, 0)
        assert bounds(ledger) == {}
        ledger = Ledger()
        assert slab.post(ledger, FACTS, NodeChange(gone=1, gone_above=30), 0) == (0, 12)
        assert bounds(ledger)["F"] == (-2, 14)

    @pytest.mark.parametrize(("calls", "most"), [(1, 8), (31, 8), (32, 9), (64, 10)])
    def test_a_maple_tree(self, calls: int, most: int) -> None:
        ledger = Ledger()
        stored = [event(ATTRIBUTES_STORED, calls - 1), event(ATTRIBUTES_STORED, 1), event(PAGE_IN_PASSING, 99)]
        assert slab.post_maple(ledger, stored) == most
        assert bounds(ledger) == {
            "F": (-most, most), "nr_slab_unreclaimable": (-most, most), "pgalloc": (0, most), "pgfree": (0, most)
        }  # fmt: skip
        assert slab.post_maple(Ledger(), stored[2:]) == 0


class TestNestedTables:
    def test_two_guests_refill_their_own_caches(self) -> None:
        happened = [
            event(LEAF_INSTALLED), event(LEAF_INSTALLED, 1, "g1"), event(NESTED_TABLE_LINKED, 37),
            event(NESTED_TABLE_LINKED, 1, "g1"), event(NESTED_TABLE_FREED, 15), event(LEAF_ZAPPED, 1, "g2"),
        ]  # fmt: skip
        ledger = Ledger()
        # g0: 37 links after none are 1 or 2 refills, g1: one link is 0 or 1; each brings 36 pages and 4 of headers
        assert post_nested(ledger, FACTS, happened, {}) == 3 * 36 + 3 * 4
        assert bounds(ledger) == {
            "F": (-108 - 12, -36 + 1), "pgalloc": (36, 108 + 12), "unaccounted": (36, 108),
            "nr_slab_unreclaimable": (-1, 12), "pgfree": (0, 1),
        }  # fmt: skip

    def test_earlier_links_count(self) -> None:
        ledger = Ledger()
        assert post_nested(ledger, FACTS, [event(leaf_installed(9)), event(NESTED_TABLE_LINKED)], {"g0": 36}) == 40
        assert bounds(ledger)["unaccounted"] == (0, 36)

    def test_what_may_not_happen_needs_nothing(self) -> None:
        ledger = Ledger()
        happened = [event(LEAF_INSTALLED), event(NESTED_TABLE_LINKED, 37), event(NESTED_TABLE_FREED, 16)]
        post_nested(ledger, FACTS, happened, {}, unsure=True)
        assert bounds(ledger)["unaccounted"] == (0, 72)
        assert bounds(ledger)["pgfree"] == (0, 2)

    def test_a_step_without_a_fault_refills_nothing(self) -> None:
        ledger = Ledger()
        assert post_nested(ledger, FACTS, [event(LEAF_ZAPPED, 5)], {"g0": 99}) == 0
        assert bounds(ledger) == {}


class TestLedger:
    def test_what_is_opened_and_not_moved_is_still(self) -> None:
        ledger = Ledger()
        ledger.open(("a", "b"), "one", "the first reason counts")
        ledger.open(("a", "c"), "two", "a later reason")
        ledger.add("b", 1, 2, Reason("three", "moved", None))
        ledger.allow("b", -1, -1, "four", "exact")
        ledger.allow("c", 0, 0, "five", "nothing")
        ledger.allow("d", 0, 3, "six", "an interval")
        assert ledger.opened() == ("a", "b", "c", "d")
        assert bounds(ledger) == {"a": (0, 0), "b": (0, 1), "c": (0, 0), "d": (0, 3)}
        found = ledger.close()
        assert found["a"].reasons == (Reason("one", "the first reason counts", 0),)
        assert found["b"].reasons == (Reason("three", "moved", None), Reason("four", "exact", -1))
        assert found["d"].reasons == (Reason("six", "an interval", None),)
        ledger.drop(("a", "b", "x"))
        assert bounds(ledger) == {"c": (0, 0), "d": (0, 3)}


class TestClose:
    @staticmethod
    def closed(
        region: RegionState, design: str = "order0", elsewhere: int = 10, files: int = 0
    ) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
        ledger = Ledger()
        ledger.open(("nr_file_pages", "F", "gmem/g0", "kvm/g0/pages_1g", "nr_file_hugepages", "gmem/g1"), "r", "text")
        regions = {"g0.r0": region, "g1.r0": RegionState.empty(1)}
        allowances = Allowances(close_file_pages=files)
        found = close_guest(ledger, "g0", {"g0": elsewhere}, regions, allowances, design_named(design), ANON_4K)
        assert list(regions) == ["g1.r0"]
        return bounds(ledger), found

    def test_all_of_its_pages_go(self) -> None:
        moved, open_ends = self.closed(RegionState(1, private=pages.span(0, 5)), files=2)
        assert moved == {
            "nr_file_pages": (-17, -13), "nr_unevictable": (-15, -15), "nr_zone_unevictable": (-15, -15),
            "nr_file_hugepages": (0, 0), "gmem/g1": (0, 0),
        }  # fmt: skip
        assert {"F", "gmem/g0", "kvm/g0/pages_1g", "pgfree", "unaccounted"} <= open_ends.keys()
        assert open_ends["gmem/g0"] == "guest g0 is no more"

    def test_what_references_hold_may_stay_on_the_lru(self) -> None:
        parked = Parked().park_pages(pages.span(0, 3))
        region = RegionState(1, private=pages.span(0, 5), private_held=0b11 | 1 << 7, private_parked=parked)
        moved, _ = self.closed(region)
        assert moved["nr_file_pages"] == (-15, -15)
        assert moved["nr_unevictable"] == (-15 - 3, -13)

    def test_a_reference_on_a_page_is_one_on_its_folio(self) -> None:
        folios = Blocks().add(2, 1)
        assert held_pages(RegionState(1, private=pages.span(0, 8), private_folios=folios, private_held=0b10010)) == 5
        assert held_pages(RegionState(1, private=pages.span(0, 8), private_folios=folios)) == 0

    def test_huge_folios_inside_and_perhaps_elsewhere(self) -> None:
        region = RegionState(4, private=pages.span(0, 1024), private_folios=Blocks().add(9, 1 | 1 << 512).add(8, 0))
        assert self.closed(region, "thp-discard", 1023)[0]["nr_file_hugepages"] == (-3, -2)
        assert self.closed(region, "thp-discard", 1024)[0]["nr_file_hugepages"] == (-4, -2)
        giant = RegionState(512, private=pages.span(0, 1 << 18), private_folios=Blocks().add(18, 1))
        assert self.closed(giant, "thp-discard:18", 0)[0]["nr_file_hugepages"] == (-512, -512)
        assert self.closed(RegionState(1), "thp-discard:8", 5000)[0]["nr_file_hugepages"] == (0, 0)

    def test_a_pool_gets_its_pages_back(self) -> None:
        region = RegionState(2, private=pages.span(0, 1024), private_folios=Blocks().add(9, 1 | 1 << 512))
        moved, open_ends = self.closed(region, "hugetlb", 512)
        assert moved["hugetlb/2048kB/free_hugepages"] == (3, 3)
        assert moved["nr_hugetlb"] == (-1536, -1536)
        assert "hugetlb/2048kB/resv_hugepages" in open_ends
