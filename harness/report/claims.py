# SPDX-License-Identifier: GPL-2.0-only
"""The claims that the suites decide, as records; ``docs/design.md``, "The claims", has them in the same words.

A claim concerns some designs.  For every other one the record says why not, so that the table of claims has a verdict
or a reason in each of its cells.  A design's name here stands for its variants too: ``thp-2m-truncate`` for
``thp-2m-truncate-noop`` and for ``thp-2m-truncate:4``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from harness.errors import UsageError

FAMILIES: Final = ("order0", "thp-discard", "thp-2m-truncate", "inplace", "inplace-thp", "hugetlb")
"""The designs as claims speak of them."""
_VARIANTS: Final = ("-noop", "-no-hvo")

_NO_FOLIO: Final = "its folios are single pages: there is no huge folio that could be lost"
_NO_MAPPING: Final = "KVM maps its single pages: there is no huge mapping to lose"
_FREES_NOTHING: Final = "its conversions free no page (C3)"
_WHOLE_WINDOWS: Final = "a conversion of less than 2 MiB frees no page and splits nothing there (C8)"
_ONE_COPY: Final = "its shared pages are the private ones: there is no second memory on the shared side"
_POOL: Final = "no kernel with guest_memfd on HugeTLB can be had to measure it; gmem model --design hugetlb predicts it"


@dataclass(frozen=True)
class Claim:
    """One claim of the table."""

    id: str
    title: str
    """A few words for a narrow column."""
    sentence: str
    concerns: tuple[str, ...]
    """Families of designs that it is about."""
    why_not: Mapping[str, str] = field(default_factory=dict)
    """For each family that it is not about: why not."""
    curves: tuple[str, ...] = ()
    """Counters whose course over the conversions of a case is drawn."""


_HUGE: Final = {"order0": _NO_FOLIO, "inplace": _NO_FOLIO, "hugetlb": _POOL}

CLAIMS: Final[tuple[Claim, ...]] = (
    Claim(
        "C1",
        "a partial conversion breaks a window for good",
        "Converting one 4 KiB page of a private 2 MiB folio with discard frees that page into a pageblock that stays "
        "unmovable; compaction cannot mend it while the rest is private.",
        ("thp-discard",),
        {
            **_HUGE,
            "thp-2m-truncate": _WHOLE_WINDOWS,
            "inplace": _FREES_NOTHING,
            "inplace-thp": _FREES_NOTHING,
        },
    ),
    Claim(
        "C2",
        "converting back takes another page",
        "Converting back takes another page, not the freed one, and fragmentation gets worse; freed and touched on one "
        "CPU, single pages come back.",
        ("order0", "thp-discard"),
        {
            "thp-2m-truncate": "the private page was never given up (C8), so converting back takes none",
            "inplace": _FREES_NOTHING,
            "inplace-thp": _FREES_NOTHING,
            "hugetlb": _POOL,
        },
    ),
    Claim(
        "C3",
        "in-place conversion moves nothing",
        "In-place conversion moves no counter and no page.",
        ("inplace", "inplace-thp"),
        {
            "order0": "it converts by discarding: pages go and come (C2)",
            "thp-discard": "it converts by discarding: pages go and come (C1, C2)",
            "thp-2m-truncate": "it converts by discarding, in whole windows of 2 MiB (C8)",
            "hugetlb": _POOL,
        },
    ),
    Claim(
        "C4",
        "a split mapping stays split",
        "A guest that splits its mapping does not get the huge mapping back after private, shared, private, unless the "
        "design keeps the folio or collapses.",
        ("thp-discard", "thp-2m-truncate", "inplace-thp"),
        {"order0": _NO_MAPPING, "inplace": _NO_MAPPING, "hugetlb": _POOL},
    ),
    Claim(
        "C5",
        "a held folio does not split",
        "Splitting a private huge folio succeeds without unexpected references; with one it fails, and what happens "
        "then is shown; data loss is caught.",
        ("thp-discard", "inplace-thp"),
        {**_HUGE, "thp-2m-truncate": "it never splits a folio: parts of a window are not truncated (C8)"},
    ),
    Claim(
        "C6",
        "shared THP can be migrated and split",
        "Shared THP can be migrated and split, unless pinned long-term.",
        ("order0", "thp-discard", "thp-2m-truncate"),
        {"inplace": _ONE_COPY, "inplace-thp": _ONE_COPY, "hugetlb": _POOL},
    ),
    Claim(
        "C7",
        "the THP comes back only with its whole window",
        "After one partial conversion with discard the THP never comes back until the whole 2 MiB window is given up.",
        ("thp-discard",),
        {
            **_HUGE,
            "thp-2m-truncate": "a partial conversion leaves the folio whole (C8)",
            "inplace-thp": "the folio is put together again where it is once all of it is private (C4)",
        },
    ),
    Claim(
        "C8",
        "truncation in 2 MiB units only",
        "Truncation only in 2 MiB units, conversion still in 4 KiB units.",
        ("thp-2m-truncate", "inplace-thp"),
        {
            "order0": "it truncates single pages",
            "thp-discard": "it truncates single pages, and splits the folio for it (C1)",
            "inplace": "it truncates single pages",
            "hugetlb": _POOL,
        },
    ),
    Claim(
        "C9",
        "nothing is special about 2 MiB",
        "Nothing is special about 2 MiB: folio orders are a parameter.",
        ("thp-discard",),
        {
            **_HUGE,
            **dict.fromkeys(("order0", "inplace"), "its folios are single pages: there is no order to choose"),
            **dict.fromkeys(
                ("thp-2m-truncate", "inplace-thp"),
                "no kernel of this design with another order can be had; gmem model --design NAME:ORDER predicts it",
            ),
        },
    ),
    Claim(
        "C10",
        "the shared side costs what its folios are",
        "A shared side faulted in at 4 KiB needs no split on the way to private; a shared 2 MiB folio that cannot be "
        "split costs up to 511 pages more.",
        ("order0", "thp-discard", "thp-2m-truncate"),
        {"inplace": _ONE_COPY, "inplace-thp": _ONE_COPY, "hugetlb": _POOL},
    ),
    Claim(
        "C11",
        "huge allocation fails under pressure",
        "Under pressure or with a full page cache huge allocation is unreliable: the rate of fallback as a function of "
        "pressure; in-place does not make it worse.",
        ("thp-discard", "thp-2m-truncate", "inplace-thp"),
        {**_HUGE, **dict.fromkeys(("order0", "inplace"), "it asks for single pages: there is no fallback to count")},
        curves=("nr_file_hugepages",),
    ),
    Claim(
        "C12",
        "repetition makes it worse",
        "Repeated partial conversions make it monotonically worse: the curve, per design.",
        ("order0", "thp-discard", "thp-2m-truncate", "inplace", "inplace-thp"),
        {"hugetlb": _POOL},
        curves=("nr_file_hugepages", "nr_file_pages", "thp_split_page"),
    ),
    Claim(
        "Integrity",
        "contents and isolation",
        "Pages that were not converted keep their contents, pages that come back are zeroed, no page of a guest is "
        "readable by the host or another guest while private.",
        ("order0", "thp-discard", "thp-2m-truncate", "inplace", "inplace-thp"),
        {"hugetlb": _POOL},
    ),
)  # fmt: skip

_BY_ID: Final = {claim.id.lower(): claim for claim in CLAIMS}


def claim_named(name: str) -> Claim:
    """The claim of an id, in any case; raises ``UsageError`` that lists them."""
    try:
        return _BY_ID[name.lower()]
    except KeyError:
        raise UsageError(f"there is no claim {name!r}: known are {', '.join(claim.id for claim in CLAIMS)}") from None


ORDERS = "C9"
"""The claim whose parameter is the order of folios."""


def family(design: str) -> str:
    """The family of a design: its name without the order of its folios and without the variant.

    >>> family("thp-2m-truncate-noop"), family("thp-discard:4")
    ('thp-2m-truncate', 'thp-discard')
    """
    name = design.partition(":")[0]
    for variant in _VARIANTS:
        name = name.removesuffix(variant)
    return name


def why_not(claim: Claim, design: str) -> str:
    """Why a claim does not concern a design; '' if it does, or if nothing is known of the design."""
    name = family(design)
    if ":" in design and claim.id != ORDERS and name in claim.concerns:
        return f"decided for {name}, of order 9: what another order changes is {ORDERS}"
    return "" if name in claim.concerns else claim.why_not.get(name, "")
