# SPDX-License-Identifier: GPL-2.0-only
"""The list of the model's rules is the model's: no rule is missing from it, and none is in it that no design meets."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from model_tables import START

import harness.model
from harness.errors import UsageError
from harness.explore.draw import Shape, draw_scenario
from harness.model.designs import DESIGNS, design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.model.prepared import prepared_regions
from harness.model.rules import ELSEWHERE, PIN, RULES, rules_of
from harness.model.shared import ANON_4K
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Convert, PageRange, Pin, Populate, PunchHole, Side, Unpin

MODEL = Path(harness.model.__file__).parent
FACTS = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
LISTS = {"free/Unmovable": 3000, "free/Reclaimable": 3000, "free/Movable": 500_000, "free_order/10": 400}
SEEDS = range(250)


def literals() -> set[str]:
    """Every text that the source gives to something that takes a rule."""
    found: set[str] = set()
    for path in MODEL.rglob("*.py"):
        if "curves" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                names = [argument.arg for argument in node.args.args]
                for name, default in zip(reversed(names), reversed(node.args.defaults), strict=False):
                    if name == "rule" and isinstance(default, ast.Constant):
                        found.add(default.value)
            if isinstance(node, ast.JoinedStr) and (
                told := re.match(r"f'([a-z-]+) \(\{design.name\}\)'$", ast.unparse(node))
            ):
                found.add(told[1])
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("event", "allow", "open", "Reason", "refuse", "_zapped", "_to_order_0", "_exact"):
                given = [word.value for word in node.args if isinstance(word, ast.Constant)]
                found |= {word for word in given if isinstance(word, str) and re.fullmatch(r"[a-z][a-z0-9-]*", word)}
    return {word for word in found if not re.fullmatch(r"[A-Z].*|E[A-Z]+|pgfree|pgalloc|unaccounted", word)}


def met(design: str, scenarios: list[Scenario]) -> set[str]:
    """Rules in the reasons of all that the model says about the scenarios."""
    chosen, found = design_named(design), set()
    regions = prepared_regions(design=chosen, facts=FACTS, backing=ANON_4K)
    for scenario in scenarios:
        try:
            steps = predict(scenario, chosen, {**START, **LISTS}, FACTS, regions=regions)
        except UsageError:
            continue
        for step in steps:
            found |= {reason.rule for bound in step.predictions.values() for reason in bound.reasons}
            found |= {step.refused.reason.rule} if step.refused else set()
    return {rule.partition(" (")[0] for rule in found}


def pinned() -> list[Scenario]:
    """References on pages that are then converted, punched, split and dropped: chance is slow to get there."""
    chunk, page = PageRange("g0.r0", 0, 512), PageRange("g0.r0", 7, 1)
    begin = (Convert(chunk, Side.PRIVATE), Populate(chunk), Pin(page))
    ends = [
        (Convert(where, Side.SHARED), *more)
        for where in (chunk, page, PageRange("g0.r0", 8, 1))
        for more in ((), (Unpin(page),))
    ]
    ends += [(PunchHole(where), Unpin(page)) for where in (chunk, page, PageRange("g0.r0", 8, 1))]
    return [Scenario("pinned", begin + end) for end in ends]


def test_every_rule_of_the_source_is_listed() -> None:
    known = {rule.name for rule in RULES} | set(ELSEWHERE)
    assert literals() - known == set()
    assert known - literals() == set()


def test_every_rule_is_told_of_in_the_document() -> None:
    text = (Path(__file__).parents[2] / "docs" / "model.md").read_text()
    headings = {
        word.strip()
        for line in re.findall(r"^### (.+)$", text, re.M)
        for word in re.sub(r"\(.*?\)", "", line).split(",")
    }
    assert {rule.name for rule in RULES} - headings == set()


def test_designs_are_known_and_names_are_once() -> None:
    assert {name for rule in RULES for name in rule.designs} == set(DESIGNS)
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_design_meets_its_rules_and_no_others(design: str) -> None:
    plain = [draw_scenario(seed, Shape(cpus=2, pins=seed % 2 == 0)) for seed in SEEDS]
    pressed = [draw_scenario(seed, Shape(pressure=True)) for seed in range(60)]
    seen = met(design, plain + pressed + pinned())
    assert seen - set(rules_of(design)) == set()
    assert set(rules_of(design)) - seen == set()


def test_an_order_of_folios_has_the_rules_of_its_family() -> None:
    assert rules_of("thp-discard:4") == rules_of("thp-discard")
    assert rules_of("thp-discard")["split-failed"] == PIN
