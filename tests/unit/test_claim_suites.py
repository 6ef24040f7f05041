# SPDX-License-Identifier: GPL-2.0-only
"""The suites of claims without a kernel: the model accepts the steps and contents of each case, per design."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.guest.backing import backing_record
from harness.model.designs import backing_named, design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.model.prepared import prepared_regions
from harness.report.claims import claim_named, family
from harness.run.result import CaseResult, StepResult
from harness.run.tell import MESSAGES, Tell, check_tells
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Compact, Step
from tests.unit.model_tables import START

SUITES = Path(__file__).parents[2] / "suites"
FOLDERS = (
    "c01_partial_free", "c04_mapping_levels", "c05_held_folio", "c06_shared_thp", "c07_whole_window", "c08_truncation",
    "c09_orders", "c10_shared_backing", "c11_pressure", "c12_repetition", "integrity",
)  # fmt: skip
FILES = sorted(file for name in FOLDERS for file in (SUITES / name).glob("test_*.py"))
"""The ones about designs that discard, about shared backings, and about contents."""


@dataclass
class Recorder:
    """Stands where the fixture ``gmem`` stands, and keeps what a case would run."""

    scenario: Scenario | None = None
    tells: Sequence[Tell] = ()
    calls: int = field(default=0)

    def run(
        self,
        *steps: Step,
        guests: int = 1,
        frames: bool = False,
        backing: str = "anon-4k",
        tells: Sequence[Tell] = (),
    ) -> CaseResult:
        """Keep the steps; the answer is that of a host that did compact."""
        self.calls += 1
        self.scenario = Scenario("case", steps, guests=guests, frames=frames, backing=backing)
        self.tells = tells
        done = tuple(_done(index, step) for index, step in enumerate(steps))
        return CaseResult(
            suite="s", case="case", claim="", verdict=None, sentence="", seconds=0, steps=done, evidence="", repeat=1
        )  # type: ignore[arg-type]


def _done(index: int, step: Step) -> StepResult:
    recorded = {"compact_migrate_scanned": 1} if isinstance(step, Compact) else {}
    return StepResult(index=index, text=step.text(), seconds=0, findings=(), recorded=recorded)


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"claims_{file.parent.name}_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _marks(thing: Any) -> list[pytest.Mark]:
    found = getattr(thing, "pytestmark", [])
    return [getattr(mark, "mark", mark) for mark in (found if isinstance(found, list) else [found])]


def _calls(function: Any) -> Iterator[dict[str, Any]]:
    """The arguments of each case that parametrize makes."""
    axes = []
    for mark in _marks(function):
        if mark.name == "parametrize":
            names = [mark.args[0]] if isinstance(mark.args[0], str) else list(mark.args[0])
            axes.append([dict(zip(names, row if len(names) > 1 else (row,), strict=True)) for row in mark.args[1]])
    for rows in product(*axes):
        yield {name: value for row in rows for name, value in row.items()}


def _cases() -> Iterator[Any]:
    for file in FILES:
        module = _module(file)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if not name.startswith("test_"):
                continue
            marks = [mark.kwargs for mark in (*_marks(module), *_marks(function)) if mark.name == "gmem"]
            marked = {key: value for kwargs in marks for key, value in kwargs.items()}
            for number, arguments in enumerate(_calls(function)):
                yield pytest.param(function, arguments, marked, id=f"{file.parent.name}-{name}-{number}")


@pytest.mark.parametrize(("function", "arguments", "marked"), list(_cases()))
def test_each_design_that_a_case_names_is_of_its_claim_and_accepts_it(
    function: Any, arguments: dict[str, Any], marked: dict[str, Any]
) -> None:
    recorder = Recorder()
    function(recorder, **arguments)
    scenario = recorder.scenario
    assert scenario is not None
    assert recorder.calls == 1
    assert inspect.getdoc(function)
    check_tells(recorder.tells, len(scenario.steps))
    claim = claim_named(marked["claim"])
    regions = {f"g{number}.r0": 8 for number in range(scenario.guests)}
    facts = HostFacts(2, regions, tables_present=False, nodes=scenario.nodes)
    backing = backing_named(scenario.backing)
    backing_record(scenario.backing)
    for design in marked["designs"]:
        assert family(design) in claim.concerns
        begin = prepared_regions(design_named(design), backing, facts)
        steps = predict(scenario, design_named(design), START, facts, backing=backing, regions=begin)
        for tell in recorder.tells:
            if tell.counter != MESSAGES and not tell.counter.startswith("compact_"):
                assert tell.counter in steps[tell.step].predictions, f"{design} predicts no {tell.counter}"


def test_a_partial_conversion_costs_each_design_what_its_claim_says() -> None:
    """The headline numbers, as the claims have them."""
    (file,) = (SUITES / "c12_repetition").glob("test_*.py")
    recorder = Recorder()
    module = _module(file)
    module.test_anywhere(recorder, module.ROUNDS, 1)
    assert recorder.scenario is not None
    facts = HostFacts(2, {"g0.r0": 8}, tables_present=False)
    left = {}
    for design in ("order0", "thp-discard", "thp-2m-truncate-noop", "inplace-thp-noop"):
        steps = predict(recorder.scenario, design_named(design), START, facts)
        moves = [step.predictions["nr_file_hugepages"] for step in steps]
        assert all(move.low == move.high for move in moves)
        left[design] = sum(move.low for move in moves)
    assert left == {"order0": 0, "thp-discard": 0, "thp-2m-truncate-noop": 8, "inplace-thp-noop": 8}
