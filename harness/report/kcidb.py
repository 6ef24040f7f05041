# SPDX-License-Identifier: GPL-2.0-only
"""KCIDB, the database of kernel CI systems: one document of checkouts, builds and tests (schema 5.3).

What KCIDB calls a test is a case here.  Its statuses keep apart what the verdicts keep apart: ``FAIL`` says something
about the kernel, ``MISS`` and ``ERROR`` do not.  Texts are cleaned and bounded like those of every report, and what the
schema could not hold (a time that is none) is left out: a receiver refuses a document as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

from harness.errors import UsageError
from harness.report.identity import kernel_id, run_id, source_id
from harness.report.junit import details
from harness.report.summary import GOOD, case_name, guest_kind_text, kernel_text, run_problem
from harness.report.text import bounded, one_line
from harness.run.result import CaseResult, RunInfo
from harness.run.verdict import Verdict

SCHEMA: Final = {"major": 5, "minor": 3}
DEFAULT_ORIGIN: Final = "gmem"

STATUS: Final[Mapping[Verdict, str]] = MappingProxyType(
    {
        Verdict.PASS: "PASS",
        Verdict.XFAIL: "PASS",  # the kernel does what its design says
        Verdict.DEVIATES: "FAIL",
        Verdict.CRASH: "FAIL",
        Verdict.NO_BOOT: "FAIL",
        Verdict.INCONCLUSIVE: "ERROR",  # it ran, and decided nothing
        Verdict.INFRA: "MISS",
        Verdict.USAGE: "MISS",
        Verdict.INTERRUPTED: "MISS",
        Verdict.SKIP: "SKIP",
        Verdict.NOTHING_RAN: "SKIP",
    }
)

_EXCERPT: Final = 16_000
"""Characters of a log excerpt; the schema has room for 16384."""
_ORIGIN: Final = re.compile(r"[a-z0-9_]+")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_URL: Final = re.compile(r"https?://[^\s\0]+")
_PATH_OTHER: Final = re.compile(r"[^A-Za-z0-9_-]+")

Plain = dict[str, Any]


def kcidb(
    runs: Sequence[tuple[RunInfo, Sequence[CaseResult]]], *, origin: str = DEFAULT_ORIGIN, url: str = ""
) -> Plain:
    """The document about all ``runs``.

    ``origin`` is the name of the CI system, ``url`` the address of the folder in which the output directory of the
    (only) run can be fetched; with it, tests link their evidence.  Raises :class:`UsageError` for what KCIDB refuses.
    """
    if not _ORIGIN.fullmatch(origin):
        raise UsageError(f"KCIDB knows no origin {one_line(origin, 60)!r}: small letters, digits and _ make its name")
    if url and not _URL.fullmatch(url):
        raise UsageError(f"{one_line(url, 200)!r} is no address to fetch results from: it begins with https://")
    if url and len(runs) > 1:
        raise UsageError("one address belongs to one output directory: write a document for each run")
    checkouts: dict[str, Plain] = {}
    builds: dict[str, Plain] = {}
    tests: list[Plain] = []
    for info, cases in runs:
        checkout, build = _checkout(info, origin), _build(info, origin)
        checkouts[checkout["id"]] = checkout
        builds[build["id"]] = build
        tests += _tests(info, cases, origin, url.rstrip("/"))
    unique = {test["id"]: test for test in tests}
    return {
        "version": dict(SCHEMA),
        "checkouts": list(checkouts.values()),
        "builds": list(builds.values()),
        "tests": list(unique.values()),
    }


def _checkout(info: RunInfo, origin: str) -> Plain:
    kernel = info.kernel
    commit = kernel.get("commit", "")
    patches = kernel.get("patches", "")
    told = {
        "id": f"{origin}:{source_id(info)}",
        "origin": origin,
        "comment": one_line(kernel.get("origin") or kernel_text(info)),
        "git_commit_hash": commit if _COMMIT.fullmatch(commit) else "",
        "git_repository_branch": one_line(kernel.get("branch", "")),
        "misc": {"patches": one_line(patches)} if patches else {},
    }
    return {**_present(told), "valid": True}


def _build(info: RunInfo, origin: str) -> Plain:
    kernel = info.kernel
    told = {
        "id": f"{origin}:{kernel_id(info)}",
        "checkout_id": f"{origin}:{source_id(info)}",
        "origin": origin,
        "architecture": "x86_64",
        "comment": kernel_text(info),
        "config_name": one_line(kernel.get("name", ""), 200),
        "misc": _texts({key: kernel.get(key, "") for key in ("release", "version", "config_hash", "patches")}),
    }
    return {**_present(told), "status": "PASS"}


def _tests(info: RunInfo, cases: Sequence[CaseResult], origin: str, url: str) -> list[Plain]:
    problem = run_problem(info, cases)
    run = run_id(info, cases)
    environment = {
        "comment": f"guest {guest_kind_text(info.guest_kind)}; host {one_line(info.host.get('name', 'unknown'), 200)}",
        "misc": {"guest": guest_kind_text(info.guest_kind), "host": _texts(info.host), "qemu": _texts(info.qemu)},
    }
    told = []
    for number, case in enumerate([*cases, *([problem] if problem else [])], 1):
        test = {
            "id": f"{origin}:{run}.{number}",
            "build_id": f"{origin}:{kernel_id(info)}",
            "origin": origin,
            "path": test_path(case),
            "comment": one_line(case.claim or case_name(case)),
            "environment": environment,
            "start_time": _time(info.started),
            "log_excerpt": "" if case.verdict in GOOD else bounded("\n".join(details(case)), _EXCERPT - 100),
            "log_url": f"{url}/results.ktap" if url else "",
            "output_files": _files(case, url),
            "misc": {
                "case": case_name(case),
                "design": one_line(case.design or info.design),
                "seed": info.seed,
                "sentence": one_line(case.sentence),
                "verdict": case.verdict.value,
            },
        }
        told.append({**_present(test), "status": STATUS[case.verdict], "duration": round(case.seconds, 3)})
    return told


def test_path(case: CaseResult) -> str:
    """Where a case stands in KCIDB's tree of tests, e.g. ``gmem.smoke.one_page``; a parameter is part of the name."""
    words = (_PATH_OTHER.sub("_", one_line(part, 200)).strip("_") or "unnamed" for part in (case.suite, case.case))
    return ".".join(("gmem", *words))


def _files(case: CaseResult, url: str) -> list[Plain]:
    if not url:
        return []
    evidence = quote(case.evidence.strip("/"), safe="/", errors="replace")
    files = [{"name": name, "url": f"{url}/{name}"} for name in ("report.html", "results.jsonl")]
    return [*files, *([{"name": "evidence", "url": f"{url}/{evidence}/"}] if evidence else [])]


def _time(text: str) -> str:
    """A time with its zone, or ''."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return ""
    return moment.isoformat() if moment.tzinfo is not None else ""


def _texts(table: Mapping[str, str]) -> dict[str, str]:
    return {one_line(key, 100): one_line(value) for key, value in sorted(table.items()) if value}


def _present(record: Plain) -> Plain:
    """Without what is empty: to KCIDB, absent is unknown, and nothing may be null."""
    return {key: value for key, value in record.items() if value not in ("", [], {})}
