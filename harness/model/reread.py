# SPDX-License-Identifier: GPL-2.0-only
"""A prediction read again, with the free lists as they were right before its step.

The model follows pages, not free lists: what is known of the lists comes from the first sample, and every step widens
it, for per-CPU lists, slabs and merges leave open what each list has afterwards.  Whoever has a sample of the instant
before a step knows better.  What the step asks of the lists (:class:`~harness.model.demand.Demand`) stays the same.
Likewise for the page tables of KVM: how many there are only a sample says, and with the last VM all of them go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from harness.model import blocks
from harness.model.facts import HostFacts
from harness.model.ledger import Ledger
from harness.model.prediction import Prediction, Reason, StepPrediction

TABLES = "nr_sec_page_table_pages"


def reread(prediction: StepPrediction, before: Mapping[str, int], facts: HostFacts) -> StepPrediction:
    """The prediction with bounds of ``blocks/*`` that follow from ``before``, the values of a sample right before.

    Unchanged where the step's demand is not known, or the sample lacks a list; except that where the last VM ends, and
    nothing but KVM has tables of that kind, all of them are gone.
    """
    if prediction.last_vm and facts.only_kvm_tables and TABLES in before:
        return _without_tables(prediction, before[TABLES])
    demand = prediction.demand
    lists = blocks.FreeLists.from_sample(before, facts)
    if demand is None or lists is None:
        return prediction
    ledger = Ledger()
    ledger.open(blocks.BLOCK_COUNTERS, "claim", "nothing in this step makes a pageblock change its type")
    after, why = blocks.post_blocks(ledger, lists, demand)
    kept = {name: bound for name, bound in prediction.predictions.items() if name not in blocks.BLOCK_COUNTERS}
    unsaid = {name: text for name, text in prediction.unpredicted.items() if name not in blocks.BLOCK_COUNTERS}
    if after is None:
        lost = dict.fromkeys(blocks.BLOCK_COUNTERS, why)
        return replace(prediction, predictions=kept, unpredicted={**unsaid, **lost})
    bounds = dict(sorted({**kept, **ledger.close()}.items()))
    return replace(prediction, predictions=bounds, unpredicted=unsaid)


def _without_tables(prediction: StepPrediction, tables: int) -> StepPrediction:
    """The end of the last VM: every page of KVM's tables comes free.

    kvm_main.c:kvm_mmu_notifier_release, mmu/tdp_mmu.c:kvm_tdp_mmu_zap_all: they go with the address space of the
    process, and the roots are not counted.
    """
    text = f"the last VM of the host goes, and the {tables} pages of KVM's tables with it"
    bounds = {**prediction.predictions, TABLES: Prediction(-tables, -tables, (Reason("close", text, -tables),))}
    unsaid = {name: why for name, why in prediction.unpredicted.items() if name != TABLES}
    return replace(prediction, predictions=dict(sorted(bounds.items())), unpredicted=unsaid)
