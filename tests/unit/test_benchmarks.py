# SPDX-License-Identifier: GPL-2.0-only
"""Benchmarks are run by hand and seldom: each still has to find what it uses after whatever was changed since."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
PROGRAMS = sorted(FOLDER.glob("*.py"))
LOAD = "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[2], run_name='loaded')"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_it_can_be_loaded(program: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOAD, str(FOLDER), str(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_there_are_some() -> None:
    assert {"testbed", "quiet", "model"} <= {program.stem for program in PROGRAMS}
