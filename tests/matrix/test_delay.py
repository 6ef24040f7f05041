# SPDX-License-Identifier: GPL-2.0-only
"""Two kernels whose counters are all the same, and one of which takes longer to punch a hole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.run.verdict import Verdict
from tests.emulated.conftest import RUN_SECONDS

PATCH = Path(__file__).parent / "faults" / "punch-20-ms-late.patch"
CASES = "punch_present or by_page or every_other or there_and_back"

pytestmark = pytest.mark.timeout(RUN_SECONDS)


def test_a_delay_of_20_ms_in_punching_a_hole_is_told_apart(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness.cli.main", "compare", "conversion", "-k", CASES, "--patch-b", str(PATCH)]
    done = subprocess.run(
        [*command, "--slower", "1.2", "--json", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS - 60,
    )
    assert done.returncode == Verdict.DEVIATES.exit_code, done.stderr
    found = json.loads(done.stdout)
    print(json.dumps(found["costs"], indent=1))
    assert not found["verdicts"]
    assert "convert to shared" in found["slower"], "with this guest a conversion to shared is a hole"
    assert "convert to private" not in found["slower"]
