# SPDX-License-Identifier: GPL-2.0-only
"""The mutation tool itself: it changes what can show, and tells a killed mutant from a survivor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation import campaign
from tests.mutation.mutants import mutants_of, mutated_tree

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


def test_a_mutant_changes_its_spot_and_nothing_else(file: Path) -> None:
    import ast
    import difflib

    whole = ast.unparse(ast.parse(SOURCE)).splitlines()
    for mutant in mutants_of(file):
        lines = ast.unparse(mutated_tree(mutant)).splitlines()
        changed = [line for line in difflib.ndiff(whole, lines) if line[0] in "-+"]
        assert 1 <= len(changed) <= 2, (str(mutant), changed)


def test_every_file_of_the_model_has_tests() -> None:
    for path in (campaign.ROOT / "harness" / "model").rglob("*.py"):
        assert campaign.tests_for(path)


def test_a_campaign_kills_and_lets_survive(tmp_path: Path) -> None:
    """Two rules, of which the test knows one."""
    script = tmp_path / "drive.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.mutation import campaign\n"
        "root = Path(sys.argv[1])\n"
        "campaign.ROOT, campaign.MODEL, campaign.TESTS = root, root / 'rules', root\n"
        "from tests.mutation.mutants import mutants_of\n"
        "campaign.preload()\n"
        "found = campaign.campaign(mutants_of(root / 'rules' / 'one.py'), jobs=2, deadline=60)\n"
        "print(sorted((r.mutant.was, r.how) for r in found))\n"
    )
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "__init__.py").write_text("")
    (rules / "one.py").write_text("def known(a):\n    return a + a\n\ndef unknown(a):\n    return a * 5\n")
    (tmp_path / "test_model_one.py").write_text(
        "from rules.one import known, unknown\n\n"
        "def test_known():\n    assert known(3) == 6\n    assert unknown(0) == 0\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": f"{campaign.ROOT}:{tmp_path}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "[('5', 'survived'), ('a * 5', 'killed'), ('a + a', 'killed')]" in done.stdout
