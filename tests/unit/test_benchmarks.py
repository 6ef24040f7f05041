# SPDX-License-Identifier: GPL-2.0-only
"""Benchmarks are run by hand and seldom: each still has to start after whatever was changed since."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
PROGRAMS = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_it_starts(program: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(program), "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("Usage: ")


def test_there_are_some() -> None:
    assert {"testbed", "quiet", "model"} <= {program.stem for program in PROGRAMS}
