# SPDX-License-Identifier: GPL-2.0-only
"""Would the golden tables notice a wrong rule?  Each mutant changes one spot of a copy of the model and must fail them.

A mutant that survives means that a rule can be wrong and no test says so.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import test_model_contents
import test_model_golden

import harness.model

SOURCE = Path(harness.model.__file__).parent

# (file, text that occurs once, what it becomes, what is wrong with it)
MUTANTS = [
    ("order0.py", "absent = wanted & ~region.private", "absent = wanted", "a present page is allocated again"),
    ("order0.py", "present = gone & region.private", "present = gone", "holes are freed"),
    ("order0.py", "attr_private=attr), piece)", "attr_private=region.attr_private), piece)", "attributes stay"),
    (
        "order0.py",
        "context.backing.discard if to is Side.PRIVATE else context.design.punch",
        "context.design.punch if to is Side.PRIVATE else context.backing.discard",
        "the wrong side is discarded",
    ),
    (
        "order0.py",
        "private_patterns=region.private_patterns.clear(gone)",
        "private_patterns=region.private_patterns",
        "contents survive a hole punch",
    ),
    ("order0.py", "allocate, map_private)", "allocate)", "a fault maps nothing"),
    ("shared.py", "absent = written & ~region.shared", "absent = written", "present shared pages are allocated again"),
    (
        "shared.py",
        "if context.facts.pt_reclaim else 0",
        "if not context.facts.pt_reclaim else 0",
        "page tables are freed by the kernels that do not",
    ),
    (
        "shared.py",
        "shared_patterns=region.shared_patterns.clear(gone)",
        "shared_patterns=region.shared_patterns",
        "contents survive a discard",
    ),
    ("shared.py", "map_zero(context, present.region, absent)", "present", "reading absent pages maps nothing"),
    ("shared.py", "tables=region.tables & ~whole", "tables=region.tables", "freed page tables stay"),
    ("mapping.py", "both = not context.facts.mirrored_tdp", "both = False", "zaps are selective without trees"),
    ("mapping.py", "both = not context.facts.mirrored_tdp", "both = True", "zaps are not selective with trees"),
    ("mapping.py", "replaced = new & region.leaf_zero", "replaced = 0", "mappings of the zero page pile up"),
    ("mapping.py", "new = pages & ~region.leaf_private", "new = pages", "mapped pages are mapped again"),
    ("events.py", '"F": +1,\n        "pgfree": +1,', '"F": +1,', "freed private pages are not counted"),
    ("events.py", '"unevictable_pgs_culled": +1,', "", "new private pages are not culled"),
    ("physics.py", "GATHER_FIRST = 7", "GATHER_FIRST = 8", "the list of a discard begins a page late"),
    ("physics.py", "XA_GROUP_ORDER = 6", "XA_GROUP_ORDER = 9", "a tree node spans 512 pages"),
    ("physics.py", "XA_UPPER_NODES = 3", "XA_UPPER_NODES = 0", "no node above the second level"),
    ("slab.py", "(freed_now + freed_before)", "freed_now", "nodes freed before are forgotten"),
    ("slab.py", "+ min(facts.ncpu, nodes) - 1", "", "only one CPU allocates"),
    ("slab.py", '"F", -taken - metadata', '"F", taken - metadata', "slabs come from nowhere"),
    ("closing.py", "resident = inside + elsewhere[guest]", "resident = inside", "the rest of the file is leaked"),
    ("predict.py", "walk.generation += 1", "walk.generation += 0", "every write is the same generation"),
    ("steprules.py", "step.calls()", "(step.range,)", "one call for several chunks"),
    ("state.py", "first = -(-start // CHUNK_PAGES)", "first = start // CHUNK_PAGES", "half a chunk is a whole one"),
    ("pages.py", "(end - start + stride - 1) // stride", "(end - start) // stride", "the last strided page is lost"),
]


def mutated_model(folder: Path, name: str, file: str, old: str, new: str) -> tuple[ModuleType, ...]:
    """A copy of harness/model under the name ``name``, with ``old`` replaced; its modules predict, designs, facts."""
    for path in SOURCE.rglob("*.py"):
        text, below = path.read_text(), str(path.relative_to(SOURCE))
        if below == file:
            assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {file}"
            text = text.replace(old, new)
        copy = folder / name / below
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text.replace("harness.model", name))
    return tuple(importlib.import_module(f"{name}.{module}") for module in ("predict", "designs", "facts"))


def failures_of(model: tuple[ModuleType, ...]) -> list[str]:
    """What the golden tables say about a model; an exception of the mutant counts as noticed."""
    predict, designs, facts = model
    design = designs.DESIGNS["order0"]
    try:
        said = test_model_golden.failures(predict.predict, design, facts.HostFacts)
        two_guests = facts.HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
        return said + test_model_contents.failures(predict.predict, design, two_guests)
    except Exception as error:  # noqa: BLE001 - whatever a broken rule raises
        return [repr(error)]


@pytest.fixture
def import_folder(tmp_path, monkeypatch):
    """A folder on sys.path; the modules imported from it are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_an_unchanged_copy_passes(import_folder):
    assert failures_of(mutated_model(import_folder, "model_unchanged", "", "", "")) == []


@pytest.mark.parametrize(("file", "old", "new", "wrong"), MUTANTS, ids=[mutant[3] for mutant in MUTANTS])
def test_a_wrong_rule_is_noticed(import_folder, file, old, new, wrong):
    name = f"model_mutant_{MUTANTS.index((file, old, new, wrong))}"
    said = failures_of(mutated_model(import_folder, name, file, old, new))
    assert said, f"no golden case notices that {wrong}"
