# SPDX-License-Identifier: GPL-2.0-only
"""A guest_memfd without a VM that runs: a process maps it, and its memory cgroup is charged for what it touches.

Its pages are the private side of a region whose attributes never change: an access of the process allocates what is
absent (guest_memfd.c:kvm_gmem_fault_user_mapping) and maps it into the process, where KVM would install a leaf.  A
hole unmaps as it would zap (mm/truncate.c:truncate_cleanup_folio).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.errors import NothingRanError
from harness.model import pages
from harness.model.context import Design
from harness.model.facts import HostFacts
from harness.model.prediction import Prediction, Reason, StepPrediction
from harness.model.prepared import empty_region
from harness.model.state import RegionState
from harness.scenario.steps import CHUNK_PAGES

CHARGED = ("file", "unevictable")
"""Counters of a memory cgroup that each present page holds up by one: filemap_add_folio charges it, and it is on the
unevictable LRU list of the cgroup."""
MAPPED = "file_mapped"
"""Pages that the process has mapped (rmap.c:folio_add_file_rmap_pte)."""


def bare_regions(design: Design, facts: HostFacts) -> Mapping[str, RegionState]:
    """Every region empty, all its pages the guest_memfd's; raises ``NothingRanError`` for designs beyond order 0."""
    if design.folio_orders != (0,) or design.shared_side is not None:
        raise NothingRanError(f"a bare guest_memfd is modelled for design order0 only, and not for {design.name}")
    return {
        name: replace(empty_region(design, facts, chunks), attr_private=pages.span(0, chunks * CHUNK_PAGES))
        for name, chunks in facts.regions.items()
    }


def with_cgroups(
    predictions: Sequence[StepPrediction], before: Mapping[str, RegionState], start: Mapping[str, int]
) -> list[StepPrediction]:
    """The predictions, with those of the guests' memory cgroups as far as the first sample has them.

    The cgroup of a guest that was closed stays, so that it shows whether everything came back.
    """
    found = []
    for step in predictions:
        bounds: dict[str, Prediction] = {}
        for name, region in before.items():
            bounds |= _bounds(name, region, step.regions.get(name, RegionState(region.chunks)))
        known = {counter: bound for counter, bound in bounds.items() if counter in start}
        found.append(replace(step, predictions={**step.predictions, **known}))
        before = {name: step.regions.get(name, RegionState(region.chunks)) for name, region in before.items()}
    return found


def _bounds(name: str, before: RegionState, after: RegionState) -> dict[str, Prediction]:
    """The counters of the cgroup of the guest whose region ``name`` is."""
    guest = name.partition(".")[0]
    arrived, left = (after.private & ~before.private).bit_count(), (before.private & ~after.private).bit_count()
    charged = f"{arrived} pages that enter {name} are charged to the process of {guest}, and {left} leave"
    new, gone = (
        (one.leaf_private & ~other.leaf_private).bit_count() for one, other in ((after, before), (before, after))
    )
    mapped = f"the process of {guest} maps {new} pages more of {name}, and {gone} are unmapped"
    return {
        **{f"memcg/{guest}/{counter}": _exact(arrived - left, "charge", charged) for counter in CHARGED},
        f"memcg/{guest}/{MAPPED}": _exact(new - gone, "map", mapped),
    }


def _exact(difference: int, rule: str, text: str) -> Prediction:
    return Prediction(difference, difference, (Reason(rule, text, difference),))
