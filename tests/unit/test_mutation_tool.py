# SPDX-License-Identifier: GPL-2.0-only
"""The mutation tool itself: it changes what can show, and tells a killed mutant from a survivor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.mutants import mutants_of, mutated_tree, spot_of
from tests.mutation.places import PROJECT

SOURCE = '''
"""A docstring with 1 + 1."""
LIMIT: int = 7

def more(a: int, b: int) -> int:
    """Not changed: 3."""
    if a < b and not b == 0:
        note("text")
        return replace(a, left=b + 1, right=-b)
    raise ValueError(f"{a - b} is left alone")
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.py"
    path.write_text(SOURCE)
    return path


def test_each_kind_of_spot_is_changed_once(file: Path) -> None:
    said = sorted(f"{mutant.was} -> {mutant.now}" for mutant in mutants_of(file))
    assert said == sorted(
        [
            "7 -> 8",
            "a < b and (not b == 0) -> a < b or not b == 0",
            "a < b and (not b == 0) -> not (a < b and (not b == 0))",
            "a < b -> a <= b",
            "not b == 0 -> b == 0",
            "b == 0 -> b != 0",
            "0 -> 1",
            "note('text') -> (left out)",
            "replace(a, left=b + 1, right=-b) -> replace(a, right=-b)",
            "replace(a, left=b + 1, right=-b) -> replace(a, left=b + 1)",
            "b + 1 -> b - 1",
            "1 -> 2",
            "-b -> b",
        ]
    )


def test_values_that_are_names_only_are_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "names.py"
    path.write_text(
        "class Names(Enum):\n    ONE = 1\n\nclass Numbers(IntEnum):\n    TWO = 2\n\nzip(a, b[3], strict=True)\n"
    )
    assert [mutant.was for mutant in mutants_of(path)] == ["2", "zip(a, b[3], strict=True)", "3"]


def test_a_mutant_changes_its_spot_and_nothing_else(file: Path) -> None:
    import ast
    import difflib

    whole = ast.unparse(ast.parse(SOURCE)).splitlines()
    for mutant in mutants_of(file):
        lines = ast.unparse(mutated_tree(mutant)).splitlines()
        changed = [line for line in difflib.ndiff(whole, lines) if line[0] in "-+"]
        assert 1 <= len(changed) <= 2, (str(mutant), changed)


PLACES = """LIMIT = 3

class Rules:
    def more(self, a):
        def inner(b):
            return b + 1
        if (a and
                inner(a) < 4):
            return inner(a)

@cache
def other(a=5):
    return (a
            * 6)
"""


@pytest.mark.parametrize(
    ("was", "lines", "function"),
    [
        ("3", (1,), None),
        ("b + 1", (6,), ("Rules.more", 4)),
        ("inner(a) < 4", (7, 8), ("Rules.more", 4)),
        ("5", (12,), None),
        ("6", (13, 14), ("other", 11)),
    ],
)
def test_a_change_is_in_a_statement_and_a_function(
    tmp_path: Path, was: str, lines: tuple[int, ...], function: tuple[str, int] | None
) -> None:
    """Of a default only its definition sees anything; of an ``if`` the head is what has to be executed."""
    path = tmp_path / "places.py"
    path.write_text(PLACES)
    (mutant,) = [mutant for mutant in mutants_of(path) if mutant.was == was]
    assert (tuple(spot_of(mutant).lines), spot_of(mutant).function) == (lines, function)


def test_tests_that_import_the_model_are_found_and_what_they_depend_on() -> None:
    found = {path.name: path for path in PROJECT.test_files()}
    assert {"test_model_golden.py", "test_allocator_zone.py", "test_curves_frames.py", "test_judge.py"} <= {*found}
    assert "test_host_ports.py" not in found
    closure = {str(path.relative_to(PROJECT.root)) for path in PROJECT.closure(found["test_model_golden.py"])}
    assert {"tests/unit/test_model_contents.py", "harness/model/events.py", "harness/scenario/steps.py"} <= closure


RULES = """
from functools import cache

LIMIT = 7
LATE = 9

@cache
def known(a):
    return a + a

def unknown(a):
    return a * 5

def never(a):
    return a + 8

def loops(a):
    while a > 0:
        a = a - 1
    return a
"""
TESTS = """
import pytest
from rules.one import LATE, LIMIT, known, loops, unknown

EARLY = known(4)

@pytest.fixture(scope="module")
def wide():
    return known(3)

def test_first(wide):
    assert wide

def test_known(wide):
    assert wide == 6 and LIMIT == 7

def test_unknown():
    assert unknown(0) == 0

def test_early():
    assert known(5) == 10

def test_loops():
    assert loops(3) == 0

def test_late():
    assert LATE == 9
"""
DRIVE = """
import sys
from pathlib import Path
from tests.mutation.campaign import campaign, check_unchanged
from tests.mutation.child import preload
from tests.mutation.mutants import mutants_of
from tests.mutation.places import Places
from tests.mutation.reach import measured
root = Path(sys.argv[1])
places = Places(root, root / "rules", root)
records = root.with_name(root.name + "-records")
preload(5)
reach = measured(places, records)
assert reach.tests and measured(places, records).tests == reach.tests
check_unchanged(places, reach)
found = campaign(places, reach, mutants_of(root / "rules" / "one.py"), jobs=2)
print(sorted((r.mutant.was, r.how, r.tests) for r in found))
"""


def test_a_campaign_kills_and_lets_survive(tmp_path: Path) -> None:
    """Rules of which the tests know some: one is executed when the tests are imported, one by a fixture of a module."""
    (tmp_path / "drive.py").write_text(DRIVE)
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "__init__.py").write_text("")
    (tmp_path / "rules" / "one.py").write_text(RULES)
    (tmp_path / "test_rules.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "drive.py"), str(tmp_path)],
        capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": f"{PROJECT.root}:{tmp_path}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(
        [
            ("0", "killed", 1),
            ("1", "killed", 1),
            ("5", "survived", 1),
            ("7", "killed", 6),
            ("8", "unseen", 0),
            ("9", "killed", 6),
            ("a * 5", "killed", 1),
            ("a + 8", "unseen", 0),
            ("a + a", "killed", 6),
            ("a - 1", "timeout", 1),
            ("a > 0", "killed", 1),
        ]
    )
