# SPDX-License-Identifier: GPL-2.0-only
"""docs/reference/counters.md: what is known of each counter."""

from __future__ import annotations

from harness.counters.registry import COUNTERS, Exactness, Kind
from harness.reference.markdown import code, page, table

INTRO = """\
What a sample of the host has, and what a report says of it. A name that ends in `*` is a family. Counters that are not
here are recorded and never judged. How they are read without being moved is in
[design.md](../design.md#observing-without-disturbing), what the model predicts of them in [model.md](../model.md)."""

KINDS = {
    Kind.ITEM: "a level: it falls when what it counts goes away",
    Kind.EVENT: "it only ever grows",
    Kind.DERIVED: "computed from others",
}


def counters_page() -> str:
    """The document."""
    places = dict.fromkeys(spec.interface for spec in COUNTERS)
    parts = []
    for place in places:
        rows = [
            (code(spec.name), spec.unit, spec.kind.value, spec.exactness.value, spec.moved_by, spec.note)
            for spec in COUNTERS
            if spec.interface == place
        ]
        parts += [f"## {place}", table(("counter", "unit", "kind", "exact", "moved by", "note"), rows)]
    kinds = table(("kind", ""), [(kind.value, says) for kind, says in KINDS.items()])
    worth = [one.value for one in Exactness if one is not Exactness.UNSET]
    exact = f"*exact* says what a difference of two settled samples is worth: {', '.join(worth)}."
    return page("Counters", INTRO, kinds, exact, *parts)
