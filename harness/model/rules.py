# SPDX-License-Identifier: GPL-2.0-only
"""The rules of the model by name: which designs have each, and what a scenario needs to meet it.

For asking which of them were put to the test.  Rules of other backings than 4 KiB anonymous memory, of watched frames
and of bare testbeds are in :data:`ELSEWHERE`, with the reason why they are not counted.

>>> "truncate-unit" in rules_of("thp-2m-truncate"), "truncate-unit" in rules_of("thp-discard")
(True, False)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

PIN, PRESSURE, CLOSE = "a pin", "pressure on the host's memory", "the end of a guest"

_OUTSIDE = ("order0", "thp-discard", "thp-2m-truncate", "thp-2m-truncate-noop")
"""Designs whose shared side is the testbed's backing."""
_INSIDE = ("inplace", "inplace-thp", "inplace-thp-noop", "hugetlb", "hugetlb-no-hvo")
_POOL = ("hugetlb", "hugetlb-no-hvo")
_THP = ("thp-discard", "thp-2m-truncate", "thp-2m-truncate-noop", "inplace-thp", "inplace-thp-noop")
_IN_PLACE_THP = ("inplace-thp", "inplace-thp-noop")
_ALL = _OUTSIDE + _INSIDE


@dataclass(frozen=True)
class RuleRecord:
    """One rule: its name, as in the reasons and in ``docs/model.md``, and where it is at work."""

    name: str
    designs: tuple[str, ...] = _ALL
    """Plain names; a design with another folio order has the rules of its family."""
    needs: str = ""
    """What a scenario must have besides conversions, touches, fallocate and hole punches."""


RULES: tuple[RuleRecord, ...] = (
    RuleRecord("allocate", ("order0", "inplace", "thp-discard")),
    RuleRecord("large-folio", _THP),
    RuleRecord("pool", _POOL),
    RuleRecord("vmemmap", ("hugetlb",)),
    RuleRecord("fallback", _THP, PRESSURE),
    RuleRecord("fault"),
    RuleRecord("nested-table", (*_THP, *_POOL)),
    RuleRecord("zero-page", _OUTSIDE),
    RuleRecord("shared-write", _OUTSIDE),
    RuleRecord("page-table", _OUTSIDE),
    RuleRecord("gather", _OUTSIDE),
    RuleRecord("discard-shared", _OUTSIDE),
    RuleRecord("zap"),
    RuleRecord("punch", (*_OUTSIDE, "inplace", *_IN_PLACE_THP)),
    RuleRecord("split", ("thp-discard",)),
    RuleRecord("split-failed", ("thp-discard", *_IN_PLACE_THP), PIN),
    RuleRecord("split-in-place", _IN_PLACE_THP),
    RuleRecord("collapse", _IN_PLACE_THP),
    RuleRecord("truncate-unit", ("thp-2m-truncate", "inplace-thp", *_POOL)),
    RuleRecord("references", _ALL, PIN),
    RuleRecord("slab"),
    RuleRecord("per-cpu-lists"),
    RuleRecord("claim"),
    RuleRecord("close", _ALL, CLOSE),
    RuleRecord("untouched"),
)

ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "convert-in-place": "moves no counter, so that no bound has it for a reason",
        "traffic": "an allowance for what the testbed's own requests do; none is needed in the emulated host",
        "placement": "scenarios that watch frames have it",
        "charge": "bare testbeds have it",
        "map": "bare testbeds have it",
        "migrate": "the shared backings that can be migrated have it",
        "split-asked": "the shared backings with large folios have it",
        "memfd-map": "memfds have it",
        "memfd-punch": "memfds have it",
        "shmem-huge": "memfds with huge pages have it",
        "thp-fault": "anonymous huge pages have it",
        "thp-fallback": "anonymous huge pages have it",
        "thp-split-pmd": "the shared backings with large folios have it",
        "thp-partly-mapped": "anonymous huge pages have it",
        "thp-deferred-split": "anonymous huge pages have it",
        "hugetlb-fault": "shared hugetlb memory has it",
        "hugetlb-punch": "shared hugetlb memory has it",
        "convert": "a part of a refusal's call, no rule",
        "hang": "a part of a refusal's call, no rule",
    }
)
"""Rules that are not counted per design, and why."""


def rules_of(design: str) -> Mapping[str, str]:
    """The rules of a design (with or without a folio order) on the default backing, with what each needs."""
    plain = design.partition(":")[0]
    return {rule.name: rule.needs for rule in RULES if plain in rule.designs}
