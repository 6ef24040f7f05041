# SPDX-License-Identifier: GPL-2.0-only
"""What steps make of the state: the reasons for what moved, references, and walks of several steps."""

from __future__ import annotations

import dataclasses

import pytest
from backing_walk import Walk
from test_model_contents import scenario_of

from harness.errors import UsageError
from harness.model import pages
from harness.model.aligned import Blocks
from harness.model.context import Context
from harness.model.designs import design_named
from harness.model.explain import describe, explain
from harness.model.inplace_thp import collapse
from harness.model.parked import Parked
from harness.model.predict import predict
from harness.model.references import leave
from harness.model.shared import ANON_4K
from harness.model.state import RegionState
from tests.unit.state_bench import FACTS, ONE, TWO


class TestExplained:
    def test_what_a_chunk_is(self) -> None:
        state = RegionState(
            2, attr_private=pages.span(0, 100) | TWO, private=pages.span(0, 9) | TWO, shared=pages.span(100, 3),
            private_folios=Blocks().add(3, 1).add(9, 1 << 512), private_apart=Blocks().add(9, 1),
            shared_folios=Blocks().add(1, 1 << 100), shared_held=1 << 101, private_held=1,
            leaf_private=0b11, leaf_private_large=Blocks().add(9, 1 << 512),
        )  # fmt: skip
        assert describe(state, 0) == (
            "100 pages private, the others shared; 9 pages in the guest_memfd: 1 folio of order 3, 1 single page,"
            " pieces of one folio on the same pages; 3 shared pages: 1 folio of order 1, 1 single page;"
            " 2 mappings of 4 KiB; 2 pages held by references"
        )
        assert describe(state, 1) == "all private; 512 pages in the guest_memfd: 1 folio of order 9; 1 mapping of 2 MiB"
        assert describe(RegionState(1), 0) == "all shared; nothing in the guest_memfd"
        mapped = RegionState(1, shared=ONE, shared_folios=Blocks().add(8, 1 | 1 << 256), leaf_shared=1)
        assert describe(mapped, 0).endswith("512 shared pages: 2 folios of order 8; 1 mapping of 4 KiB")

    STEPS = (
        "{do: convert, range: 'g0.r0[0:3072]', to: private}",
        "{do: populate, range: 'g0.r0[500:513]'}",
        "{do: populate, range: 'g0.r0[0:512]'}",
        "{do: touch, range: 'g0.r0[3071:3072]'}",
        "{do: punch, range: 'g0.r0[0:2560]'}",
    )

    def test_chunks_and_since_when(self) -> None:
        told = explain(predict(scenario_of(self.STEPS), design_named("order0"), {}, FACTS), "gmem/g0", 4)
        assert told.splitlines()[0].endswith("gmem/g0 -513")
        assert "earlier steps moved it by +514:" in told
        assert "step 2 (populate g0.r0[0:512]): +500" in told
        assert "  chunk 0, since step 2: " in told
        assert "  chunk 1, since step 1: " in told
        assert "  chunk 3, since step 0: " in told
        assert "  chunk 4" not in told
        assert told.endswith("and 1 more chunks")

    def test_four_chunks_are_told_one_by_one(self) -> None:
        steps = (*self.STEPS[:4], "{do: punch, range: 'g0.r0[512:2560]'}")
        told = explain(predict(scenario_of(steps), design_named("order0"), {}, FACTS), "gmem/g0", 4)
        assert "chunk 4" in told
        assert "more chunks" not in told
        assert "chunk 0" not in told

    @pytest.mark.parametrize("index", [-1, 5])
    def test_steps_that_are_not(self, index: int) -> None:
        predicted = predict(scenario_of(self.STEPS), design_named("order0"), {}, FACTS)
        with pytest.raises(UsageError, match="it has steps 0 to 4"):
            explain(predicted, "gmem/g0", index)
        assert explain(predicted, "gmem/g0", 0).splitlines()[0].endswith("gmem/g0 +0")


class TestReferences:
    def test_a_folio_that_leaves_is_kept_under_its_first_page(self) -> None:
        context = Context(FACTS, design_named("thp-discard"), ANON_4K, "g0", "here")
        region = RegionState(
            3, private=ONE | TWO | 1 << 1024, private_folios=Blocks().add(9, 1 | 1 << 512), private_dirty=TWO,
            private_held=1 << 600 | 1 << 1024, private_apart=Blocks().add(9, 1 << 1024),
        )  # fmt: skip
        after = leave(context, region, TWO | 1 << 1024).region
        assert after.private_parked == Parked((1 << 1024,), ((9, 512, 1 << 600, False),))
        assert (after.private, after.private_held, after.private_dirty) == (ONE, 0, 0)
        assert (after.private_folios.count(9), after.private_apart) == (1, Blocks())

    def test_a_folio_put_together_is_dirty_if_one_of_its_pieces_was(self) -> None:
        context = Context(FACTS, design_named("inplace-thp"), ANON_4K, "g0", "here")
        apart = Blocks().add(9, 1 | 1 << 512)
        region = RegionState(2, attr_private=ONE | TWO, private=ONE | TWO, private_apart=apart, private_dirty=1 << 700)
        after, events = collapse(context, region, ONE | TWO)
        assert (after.private_folios, after.private_apart, after.private_dirty) == (apart, Blocks(), TWO)
        assert [event.pages for event in events] == [2]
        assert collapse(context, dataclasses.replace(region, private_held=1), ONE)[0].private_folios == Blocks()

    def test_one_of_two_queued_folios_leaves_the_queue(self) -> None:
        walk = Walk("anon-thp")
        for first in (0, 512):
            for what, start, count in (("write", 0, 512), ("pin", 9, 1), ("discard", 0, 4), ("discard", 0, 512)):
                walk.do((what, first + start, count))
        assert walk.region.shared_parked.queued() == 2
        moved = walk.do(("unpin", 0, 512))
        assert moved["mthp/2048kB/nr_anon_partially_mapped"] == moved["mthp/2048kB/nr_anon"] == -1
        assert moved["F"] == 512


class TestWalk:
    """What one step leaves for the next."""

    @staticmethod
    def slabs(*steps: str) -> list[tuple[int, int]]:
        predicted = predict(scenario_of(steps), design_named("order0"), {}, FACTS)
        found = [step.predictions["nr_slab_reclaimable"] for step in predicted]
        return [(bound.low, bound.high) for bound in found]

    def test_nodes_freed_earlier_may_complete_a_slab_later(self) -> None:
        """512 pages are 8 nodes, 1 above and up to 3 more; 12, 24, 36 nodes fill 1, 1, 2 slabs of 28, and one more."""
        there = "g0.r0[0:512]"
        rounds = (f"{{do: populate, range: '{there}'}}", f"{{do: punch, range: '{there}'}}") * 3
        found = self.slabs(f"{{do: convert, range: '{there}', to: private}}", *rounds)
        assert [low for low, _ in found[2::2]] == [-8, -8, -12]
        assert {high for _, high in found[1::2]} == {8}, "12 nodes come in one refill; two CPUs begin slabs"

    def test_no_node_was_freed_before_the_first_step(self) -> None:
        """Two whole chunks and 384 pages: 22 nodes, 3 above and 3 more are 28, one slab to the object."""
        there = "g0.r0[0:1408]"
        steps = (f"{{do: {what}, range: '{there}'}}" for what in ("fallocate", "punch"))
        assert self.slabs(*steps)[1][0] == -8

    def test_a_closed_guest_whose_folios_are_not_known(self) -> None:
        facts = dataclasses.replace(FACTS, large_folios=None)
        steps = ("{do: convert, range: 'g0.r0[0:512]', to: private}", "{do: close, guest: g0}")
        closed = predict(scenario_of(steps), design_named("thp-discard"), {"gmem/g0": 9, "gmem/g1": 9}, facts)[1]
        for counter in ("nr_file_pages", "nr_unevictable", "nr_zone_unevictable", "nr_file_hugepages"):
            assert counter not in closed.predictions
            assert "whether windows of g0 held large folios" in closed.unpredicted[counter]
        assert closed.predictions["gmem/g1"].exact

    def test_what_a_conversion_in_place_asks_of_the_lists(self) -> None:
        """One range in a maple tree: up to 8 pages of slabs, unmovable ones, and nothing for certain."""
        (step,) = predict(
            scenario_of(["{do: convert, range: 'g0.r0[0:512]', to: private}"]), design_named("inplace"), {}, FACTS
        )
        assert step.demand is not None
        assert (step.demand.wanted, step.demand.unmovable[0]) == (0, 0)
        assert step.demand.unmovable[1] == 8
