# SPDX-License-Identifier: GPL-2.0-only
"""KCIDB documents, checked by KCIDB's own library."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kcidb_io.schema import LATEST
from report_records import HOSTILE, case, finding, hostile_case, hostile_run, run_info, step

from harness.errors import UsageError
from harness.report.kcidb import STATUS, kcidb
from harness.run.result import CaseResult, RunInfo
from harness.run.verdict import Verdict

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def read(info: RunInfo, cases: list[CaseResult], **more: str) -> dict[str, Any]:
    """The document as it arrives at the other end, refused there unless it is valid."""
    document = json.loads(json.dumps(kcidb([(info, cases)], **more)))
    LATEST.validate_exactly(document)
    return document


def test_it_is_the_newest_schema() -> None:
    document = read(run_info(), [])
    assert (document["version"]["major"], document["version"]["minor"]) == (LATEST.major, LATEST.minor)


def test_every_verdict_has_a_status() -> None:
    assert set(STATUS) == set(Verdict)
    cases = [case(verdict.value, verdict) for verdict in Verdict]
    tests = read(run_info(Verdict.CRASH), cases)["tests"]
    assert {test["misc"]["verdict"]: test["status"] for test in tests} == {v.value: s for v, s in STATUS.items()}
    blaming = {test["misc"]["verdict"] for test in tests if test["status"] == "FAIL"}
    assert blaming == {"deviates", "crash", "no-boot"}, "only these say something about the kernel"


def test_the_three_kinds_of_objects_belong_together() -> None:
    kernel = {"key": "ab" * 16, "release": "7.3.4", "origin": "source tree x", "commit": COMMIT, "branch": "topic"}
    document = read(run_info(kernel=kernel), [case("a"), case("whole[2m-g0]", repeat=2)])
    (checkout,), (build,), (first, second) = document["checkouts"], document["builds"], document["tests"]
    assert (checkout["git_commit_hash"], checkout["git_repository_branch"]) == (COMMIT, "topic")
    assert build["checkout_id"] == checkout["id"]
    assert (build["id"], first["build_id"], second["build_id"]) == (f"gmem:{'ab' * 16}",) * 3
    assert (first["path"], second["path"]) == ("gmem.conversions.a", "gmem.conversions.whole_2m-g0")
    assert first["id"] != second["id"]
    assert first["start_time"] == "2026-01-02T03:04:05+00:00"
    assert "no memory is encrypted" in first["environment"]["comment"]


def test_a_failure_has_the_reasons_as_its_excerpt() -> None:
    bad = step(0, finding("pgfree", 1, 0, verdict=Verdict.DEVIATES))
    (test,) = read(run_info(Verdict.DEVIATES), [case("a", Verdict.DEVIATES, bad)])["tests"]
    assert "pgfree: predicted +1, observed +0" in test["log_excerpt"]


def test_links_start_at_the_address() -> None:
    (test,) = read(run_info(), [case("a", evidence="evidence/a b")], url="https://ci.example/17/")["tests"]
    assert test["log_url"] == "https://ci.example/17/results.ktap"
    assert {file["name"]: file["url"] for file in test["output_files"]}["evidence"].endswith("/17/evidence/a%20b/")


def test_a_kernel_that_did_not_boot_fails_a_test() -> None:
    (test,) = read(run_info(Verdict.NO_BOOT), [])["tests"]
    assert (test["path"], test["status"]) == ("gmem.gmem.run", "FAIL")


def test_runs_of_one_kernel_share_its_build_and_the_same_run_twice_is_one() -> None:
    first, second = run_info(), run_info(started="2026-01-03T03:04:05+00:00")
    document = kcidb([(first, [case("a")]), (second, [case("a")]), (first, [case("a")])])
    LATEST.validate_exactly(document)
    assert [len(document[kind]) for kind in ("checkouts", "builds", "tests")] == [1, 1, 2]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"origin": "My CI"}, "KCIDB knows no origin 'My CI'"),
        ({"url": "file:///etc"}, "'file:///etc' is no address"),
    ],
)
def test_mistakes(more: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        kcidb([(run_info(), [])], **more)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_makes_no_invalid_document(text: str) -> None:
    (test,) = read(hostile_run(text), [hostile_case(text)], url="https://ci.example/17")["tests"]
    assert test["status"] == "FAIL"
    assert "\x1b" not in json.dumps(test, ensure_ascii=False)


@given(st.text(st.characters(exclude_categories=()), max_size=50))
def test_any_text_gives_a_valid_document(text: str) -> None:
    read(hostile_run(text), [hostile_case(text)], url="https://ci.example/17")
