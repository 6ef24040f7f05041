# SPDX-License-Identifier: GPL-2.0-only
"""Claims on a demonstrator kernel: decided, with the numbers that the claim says, or skipped where it says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.emulated.conftest import Gmem

SUITES = Path(__file__).parents[2] / "suites"


def told(case: dict[str, Any]) -> list[tuple[str, int | None, int | None]]:
    """(counter, predicted, observed) of each headline number whose prediction is one value."""
    return [(tell["counter"], tell["low"], tell["observed"]) for tell in case["tells"] if tell["low"] == tell["high"]]


def test_claims_on_thp_discard(gmem_cli: Gmem) -> None:
    names = ("c01_partial_free", "c04_mapping_levels", "c05_held_folio", "c07_whole_window", "c08_truncation")
    wanted = "never_touched or compaction_does_not_mend_it or (round_trip_of_one_page and middle) or test_whole_window"
    folders = [str(SUITES / name) for name in names]
    ended = gmem_cli.run(*folders, "-k", wanted, "--kernel", "7.3-thp-discard")
    assert ended.code == 0, ended.said()
    compacted = ended.case("compaction_does_not_mend_it")
    assert ("nr_file_hugepages", 0, 0) in told(compacted)
    scanned = next(tell for tell in compacted["tells"] if tell["counter"] == "compact_migrate_scanned")
    assert scanned["observed"] > 0
    large = [row[1:] for row in told(ended.case("round_trip_of_one_page[middle]"))]
    assert large == [(1, 1), (-1, -1), (0, 0)]
    by_suite = {(case["suite"], case["case"]): case for case in ended.cases}
    huge = [row[1:] for row in told(by_suite["c07_whole_window", "whole_window"])]
    assert huge == [(-1, -1), (1, 1)]
    assert [row[1:] for row in told(ended.case("a_folio_that_was_never_touched_goes_whole"))] == [
        (1, 1), (-512, -512), (512, 512), (-512, -512),
    ]  # fmt: skip
    assert by_suite["c08_truncation", "whole_window"]["verdict"] == "skip"
