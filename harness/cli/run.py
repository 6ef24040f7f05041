# SPDX-License-Identifier: GPL-2.0-only
"""``gmem run``: suites on a kernel, a verdict at the end."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest

from harness.cli.options import (
    cmdline_option,
    deadline_option,
    design_option,
    expression_option,
    host_option,
    kernel_option,
    out_option,
    patch_option,
)
from harness.cli.show import Progress, final, progress
from harness.errors import GmemError, InfraError, UsageError
from harness.guest.launch import BARE
from harness.images.recipes import SOURCE_ROOT
from harness.pytest_plugin import RANDOM_CASES, run_of, selected
from harness.pytest_run import LISTENER, GmemRun
from harness.report.claims_table import Run, claims_table, has_claims
from harness.report.claims_text import show_claims
from harness.run.result import CaseResult
from harness.run.verdict import Verdict

SUITES = SOURCE_ROOT / "suites"
DEFAULT_SUITES, BARE_SUITES = ("smoke", "conversion"), ("bare",)
_STEP_PERCENT = 10


class Building:
    """Follows a kernel that is fetched or built: a line for every tenth of a phase."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._phase = ("", -1)

    def __call__(self, phase: str, done: int, total: int | None, /) -> None:
        part = done * 100 // total // _STEP_PERCENT if total else 0
        if (phase, part) != self._phase:
            self._phase = (phase, part)
            self._note(f"kernel: {phase} {part * _STEP_PERCENT} %" if total else f"kernel: {phase}")


class _Watcher:
    """The plugin that shows the run and catches what pytest would print itself."""

    def __init__(self, show: Progress) -> None:
        self._show = show
        self.run: GmemRun | None = None
        self.errors: list[str] = []
        self.cases: list[str] = []
        self.building = Building(show.note)

    def pytest_configure(self, config: pytest.Config) -> None:
        self.run = run_of(config)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.errors.append(_collection_error(report.nodeid or "suites", str(report.longrepr)))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.cases = selected(session.items)

    def begin(self, case: str) -> None:
        self._show.begin(case)

    def end(self, case: CaseResult) -> None:
        self._show.end(case)

    def note(self, line: str) -> None:
        self._show.note(line)


def _collection_error(node: str, text: str) -> str:
    """pytest's account of a file that it cannot collect, as ``FILE, line N: what is wrong``."""
    lines = text.strip().splitlines() or ["it cannot be read"]
    name = Path(node.split("::")[0]).name
    places = re.findall(rf"{re.escape(name)}(?::|\", line )(\d+)", text)
    what = lines[-1].removeprefix("E ").strip()
    return what if name in what else f"{node}{f', line {places[-1]}' if places else ''}: {what}"


def suite_paths(names: Sequence[str], guest: str = "") -> list[str]:
    """Files and folders for suites given as paths or as names of bundled suites; raises ``UsageError``.

    Without names, those that guests started as ``guest`` can do.
    """
    paths = []
    for name in names or (BARE_SUITES if guest == BARE.name else DEFAULT_SUITES):
        place = name.split("::")[0] or "(empty name)"
        for candidate in (Path(place), SUITES / place, SOURCE_ROOT / place):
            if candidate.exists():
                paths.append(str(candidate) + name[len(place) :])
                break
        else:
            known = ", ".join(sorted(path.name for path in SUITES.iterdir() if path.is_dir() and path.name[0] != "_"))
            raise UsageError(f"there is no suite {name}: it is neither a path nor one of {known}")
    return paths


@click.command("run")
@click.argument("suites", nargs=-1, metavar="[SUITE...]")
@host_option
@kernel_option
@patch_option
@design_option
@click.option(
    "--guest",
    default="snp-stand-in",
    show_default=True,
    help="How guests are started; tdx-stand-in: QEMU's TDX path; snp, tdx, plain: by the host's own QEMU; bare: none.",
)
@cmdline_option
@out_option
@expression_option
@click.option("--repeat", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Times to run each case.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the first random case.")
@click.option(
    "--cases", type=click.IntRange(1, 1_000_000), default=RANDOM_CASES, show_default=True, help="Random cases to draw."
)
@deadline_option
@click.option("--brief", is_flag=True, help="A few telling cases of each claim only: what a minute allows.")
@click.option("--keep", is_flag=True, help="Save the testbed of a case that does not pass into its evidence.")
@click.option("--require", is_flag=True, help="A case that is skipped for what the host lacks fails (infra).")
@click.option("--dry-run", is_flag=True, help="List the cases and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def run_command(
    suites: tuple[str, ...],
    host: str,
    kernel: str | None,
    patch: tuple[str, ...],
    design: str,
    guest: str,
    cmdline: str,
    out: str | None,
    expression: str,
    repeat: int,
    seed: int,
    cases: int,
    deadline: float,
    brief: bool,
    keep: bool,
    require: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Run suites on a kernel and judge what it did with guest_memfd memory.

    SUITE is a bundled suite (smoke, conversion, model), a path to suites of yours, or a YAML scenario.

    The exit code is the verdict: 0 pass, 1 deviates, 2 interrupted, 3 infra, 4 usage, 5 nothing ran, 6 inconclusive,
    7 no boot, 8 crash.
    """
    arguments = [
        *suite_paths(suites, guest),
        *("--gmem-host", host, "--gmem-design", design, "--gmem-guest", guest),
        *(
            "--gmem-repeat",
            str(repeat),
            "--gmem-seed",
            str(seed),
            "--gmem-cases",
            str(cases),
            f"--gmem-cmdline={cmdline}",
        ),
        *(word for path in patch for word in ("--gmem-patch", path)),
        *(("--gmem-kernel", kernel) if kernel else ()),
        *(("--gmem-out", out) if out else ()),
        *(("-k", expression) if expression else ()),
        f"--gmem-deadline={deadline}",
        *(("--gmem-brief",) if brief else ()),
        *(("--gmem-keep",) if keep else ()),
        *(("--gmem-require",) if require else ()),
        *(("--collect-only",) if dry_run else ()),
        # Our own table replaces pytest's output; its cache and its ini files are not ours to write or to obey.
        *("-p", "gmem", "-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:logging", "-c", os.devnull),
        *("--rootdir", str(SUITES), "--import-mode=importlib", "-W", "ignore::pytest.PytestConfigWarning"),
    ]
    with progress(json_output=as_json) as show:
        watcher = _Watcher(show)
        status = _pytest(arguments, watcher)
    return _conclude(watcher, status, dry_run=dry_run, as_json=as_json)


def _pytest(arguments: list[str], watcher: _Watcher) -> int:
    """Run pytest in this process; a plugin is registered by name so that the fixture finds it."""
    names = _Registrar(watcher)
    os.environ.pop("PYTEST_ADDOPTS", None)  # meant for a pytest of the user's own, not for one without its terminal
    return int(pytest.main(arguments, plugins=[names]))


class _Registrar:
    """Registers the watcher under the name that the fixture looks for."""

    def __init__(self, watcher: _Watcher) -> None:
        self._watcher = watcher

    def pytest_configure(self, config: pytest.Config) -> None:
        config.pluginmanager.register(self._watcher, LISTENER)


def _conclude(watcher: _Watcher, status: int, *, dry_run: bool, as_json: bool) -> int:
    """Print the end of the run; returns the exit code."""
    run = watcher.run
    if watcher.errors:
        raise UsageError(f"a suite cannot be read: {watcher.errors[0]}")
    if run is not None and run.session is not None and run.out is not None:  # then pytest's status is our verdict's
        info = run.session.info(tuple(sys.argv), ended_by=run.ended_by)
        final(info, run.session.cases, run.out.path, json_output=as_json)
        if has_claims(run.session.cases) and not as_json:
            table = claims_table([Run(info, run.session.cases, run.out.curves, run.out.path)], run.out.path)
            show_claims(table, sys.stdout)
        return info.exit_code
    if run is not None and run.ended_by:
        raise _error_of(*run.ended_by)
    if status == int(pytest.ExitCode.INTERRUPTED):
        raise KeyboardInterrupt
    if status == int(pytest.ExitCode.USAGE_ERROR):
        raise UsageError("pytest refuses these options or names, for the reason above; see gmem run --help")
    if status == int(pytest.ExitCode.INTERNAL_ERROR):
        raise InfraError("pytest failed before the first case, for the reason above")
    if dry_run:
        return _list_cases(watcher.cases, as_json)
    if as_json:
        print(json.dumps({"cases": [], "out": None, "report": None, "run": None}))
    print("gmem: no case was selected", file=sys.stderr)
    return Verdict.NOTHING_RAN.exit_code


def _error_of(verdict: Verdict, text: str) -> GmemError:
    return UsageError(text) if verdict is Verdict.USAGE else InfraError(text)


def _list_cases(cases: list[str], as_json: bool) -> int:
    if as_json:
        print(json.dumps({"cases": cases}, indent=1))
    else:
        print("\n".join(cases) if cases else "no case is selected")
    return 0 if cases else Verdict.NOTHING_RAN.exit_code
