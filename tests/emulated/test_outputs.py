# SPDX-License-Identifier: GPL-2.0-only
"""What a run writes, as others read it: above all KTAP with the kernel's own parser, from the default kernel's source.

It stands here because the source is there once the kernel under test has been built, and for the run at its end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import msgspec
import pytest
from junitparser import JUnitXml
from kcidb_io.schema import LATEST

from harness.history.database import History
from harness.history.importing import add
from harness.history.record import read_folder
from harness.history.series import statuses
from harness.history.status import Status
from harness.kernel.store import KernelStore
from harness.report.kcidb import kcidb
from harness.report.ktap import ktap
from harness.report.store import load
from harness.run.result import CaseResult, RunInfo
from harness.run.verdict import Verdict
from tests.emulated.conftest import Gmem
from tests.unit.report_records import HOSTILE, case, finding, hostile_case, hostile_run, run_info, step

KUNIT = Path("tools/testing/kunit")

READ = """
import io, json, sys
sys.path.insert(0, sys.argv[1])
from kunit_parser import parse_run_tests
from kunit_printer import Printer
test = parse_run_tests(sys.stdin.read().split("\\n"), Printer(io.StringIO()))
flat = [(sub.name, sub.status.name, len(sub.subtests), sub.skip_reason) for sub in test.subtests]
print(json.dumps({"status": test.status.name, "errors": test.counts.errors, "tests": flat}))
"""


@dataclass(frozen=True)
class Read:
    """What the kernel's parser made of a list."""

    status: str
    errors: int
    tests: list[tuple[str, str, int, str]]
    """Name, status, number of tests nested in it, reason of a skip."""


@pytest.fixture(scope="session")
def kunit() -> Path:
    """The folder of the parser, unpacked from the package if the cache has only the built kernel."""
    store = KernelStore()
    kernel = store.resolve()
    site = store.site_of(kernel)
    if not (site.source / KUNIT / "kunit_parser.py").is_file():
        with site.lock("unpacking the kernel source") as lock:
            site.prepare((), lock)
    return site.source / KUNIT


def parse(kunit: Path, text: str) -> Read:
    done = subprocess.run(
        [sys.executable, "-B", "-c", READ, str(kunit)],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])  # before it stands what the tool prints for people
    return Read(told["status"], told["errors"], [tuple(row) for row in told["tests"]])


def read(kunit: Path, info: RunInfo, cases: Sequence[CaseResult]) -> Read:
    return parse(kunit, ktap(info, cases))


def test_verdicts(kunit: Path) -> None:
    bad = step(0, finding("pgfree", 1, 0, verdict=Verdict.DEVIATES))
    cases = [
        case("a"),
        case("b", Verdict.DEVIATES, bad),
        case("c", Verdict.INFRA),
        case("d", Verdict.SKIP),
        case("e", Verdict.XFAIL),
        case("f", repeat=2),
    ]
    found = read(kunit, run_info(Verdict.DEVIATES), cases)
    assert found.errors == 0
    assert found.status == "FAILURE"
    assert [(name.strip(), status) for name, status, _, _ in found.tests] == [
        ("conversions/a", "SUCCESS"),
        ("conversions/b", "FAILURE"),
        ("conversions/c", "FAILURE"),
        ("conversions/d", "SKIPPED"),
        ("conversions/e", "SUCCESS"),
        ("conversions/f no.2", "SUCCESS"),
    ]
    assert found.tests[3][3] == "sentence of d"


def test_a_run_without_cases(kunit: Path) -> None:
    assert [status for _, status, _, _ in read(kunit, run_info(Verdict.NO_BOOT), []).tests] == ["FAILURE"]
    nothing = read(kunit, run_info(Verdict.NOTHING_RAN), [])
    assert (nothing.status, nothing.tests) == ("NO_TESTS", [])


ENDS = (
    "printed: Kernel panic - not syncing: VFS: Unable to mount root fs; reboot: System halted; List of all partitions:"
)
"""What ends a list to the parser: a kernel that finds no root prints it, and the case's sentence repeats it."""


@pytest.mark.parametrize("text", [*HOSTILE, ENDS, "Subtest: x", "# Subtest: x", "KTAP version 1"])
def test_no_text_makes_or_hides_a_result(kunit: Path, text: str) -> None:
    cases = [hostile_case(text), hostile_case(text, Verdict.SKIP), case("last")]
    found = read(kunit, hostile_run(text), cases)
    assert found.errors == 0
    assert [(status, nested) for _, status, nested, _ in found.tests] == [
        ("FAILURE", 0),
        ("SKIPPED", 0),
        ("SUCCESS", 0),
    ]


def test_a_list_that_is_cut_off_is_seen(kunit: Path) -> None:
    """The checks above can fail."""
    text = ktap(run_info(), [case("a"), case("b")])
    assert parse(kunit, text.partition("ok 2")[0]).errors > 0
    assert parse(kunit, text.replace("conversions/a", "Kernel panic - not syncing: VFS:")).errors > 0


def test_a_real_run_is_read_by_everybody(kunit: Path, gmem_cli: Gmem, tmp_path: Path) -> None:
    """One run of a real kernel: KTAP by the kernel's parser, JUnit, KCIDB, and the history."""
    ended = gmem_cli.run("smoke", "-k", "rest or one_page")
    assert ended.code == 0, ended.said()
    found = parse(kunit, (ended.out / "results.ktap").read_text())
    assert found.errors == 0
    assert [(name, status) for name, status, _, _ in found.tests] == [
        ("smoke/rest", "SUCCESS"),
        ("smoke/one_page", "SUCCESS"),
    ]
    (suite,) = JUnitXml.fromfile(str(ended.out / "junit.xml"))
    assert (suite.tests, suite.failures, suite.errors) == (2, 0, 0)
    properties = {one.name: one.value for one in suite.properties()}
    assert ended.info["kernel"]["release"] in properties["kernel"]
    assert properties["verdict"] == "pass"
    document = kcidb([(msgspec.convert(ended.info, RunInfo), load(ended.out)[1])])
    LATEST.validate_exactly(document)
    assert [test["path"] for test in document["tests"]] == ["gmem.smoke.rest", "gmem.smoke.one_page"]
    assert document["builds"][0]["id"] == f"gmem:{ended.info['kernel']['key']}"
    history = History.open(str(tmp_path / "history.sqlite"), make=True)
    assert add(history, read_folder(ended.out))
    assert not add(history, read_folder(ended.out))
    told = Status(date.today(), statuses(history, today=date.today()))
    assert (told.verdict, told.sentence) == (Verdict.PASS, "no case of 2 deviates")
