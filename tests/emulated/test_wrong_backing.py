# SPDX-License-Identifier: GPL-2.0-only
"""Shared memory that is judged by rules which are not its own deviates, and the sentence names the rule it broke."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.model.designs import design_named
from harness.run.facts import host_facts
from harness.run.result import CaseResult
from harness.run.runner import CaseName, run_scenario
from harness.run.session import Session
from harness.run.verdict import Verdict
from harness.scenario.region import G0
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Convert, Populate, Side

WINDOW, PAGE = G0[512:1024], G0[700]
STEPS = (Populate(WINDOW), Convert(PAGE, Side.PRIVATE), Convert(G0[701], Side.PRIVATE))


def judged(session: Session, folder: Path, claimed: str) -> CaseResult:
    """A guest on anonymous huge pages, judged as if its shared side were ``claimed``."""
    scenario = Scenario("case", STEPS, backing="anon-thp")
    ready = session.ready(session.spec_for(scenario))
    guests = tuple(replace(guest, backing=replace(guest.backing, name=claimed)) for guest in ready.spec.guests)
    spec = replace(ready.spec, guests=guests)
    folder.mkdir()
    return run_scenario(
        session.lab, ready.saved, spec, scenario, design_named(session.design),
        host_facts(ready.state.kernel_facts, ready.spec),
        name=CaseName("s", "case", ""), evidence=folder, relative="evidence",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claimed", "counter", "predicted", "observed", "rule"),
    [
        (
            "anon-4k",
            "kvm/g0/pages_2m",
            0,
            1,
            "untouched (order0): private folios are of order 0 and shared ones of 4 KiB",
        ),
        ("shmem-thp", "nr_file_pages", 512, 0, "shmem-huge: 512 pages of huge folios"),
    ],
)
def test_a_wrong_backing_is_found_out_by_its_rule(
    session: Session, tmp_path: Path, claimed: str, counter: str, predicted: int, observed: int, rule: str
) -> None:
    result = judged(session, tmp_path / "evidence", claimed)
    assert result.verdict is Verdict.DEVIATES, result.sentence
    (found,) = [finding for finding in result.steps[-1].findings if finding.counter == counter]
    assert (found.verdict, found.low, found.observed) == (Verdict.DEVIATES, predicted, observed)
    assert any(reason.startswith(rule) for reason in found.reasons), found.reasons


def test_judged_by_its_own_rules_it_passes(session: Session, tmp_path: Path) -> None:
    result = judged(session, tmp_path / "evidence", "anon-thp")
    assert result.verdict is Verdict.PASS, result.sentence
