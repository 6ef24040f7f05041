# SPDX-License-Identifier: GPL-2.0-only
"""``gmem selftests``: the kernel's own KVM selftests, on the kernel that they belong to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import msgspec

from harness.cli.choose import chooser
from harness.cli.options import cmdline_option, out_option, patch_option
from harness.cli.run import Building
from harness.cli.show import Progress, final, progress
from harness.errors import GmemError, UsageError
from harness.kernel.catalog import Catalog
from harness.report.store import OutDir
from harness.run.options import RunOptions, check_options
from harness.run.outcome import verdict_of_error
from harness.run.result import RunInfo
from harness.run.selftest_list import SelftestList, load_selftests
from harness.run.selftest_run import DEADLINE, GUEST_KIND, SelftestRun
from harness.run.session import Session
from harness.run.verdict import Verdict


@click.command("selftests")
@click.option("--kernel", metavar="NAME|TREE", help="Kernel under test (default: that of kernels.yaml).")
@patch_option
@click.option("--design", default="auto", show_default=True, help="gmem design whose failures are expected.")
@cmdline_option
@out_option
@click.option("-k", "expression", default="", help="Only tests whose name matches this expression, as in gmem run.")
@click.option("--deadline", type=click.FloatRange(min=1), default=DEADLINE, show_default=True, help="Seconds per test.")
@click.option("--list", "only_list", is_flag=True, help="List the tests and the failures that are expected, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def selftests_command(
    kernel: str | None,
    patch: tuple[str, ...],
    design: str,
    cmdline: str,
    out: str | None,
    expression: str,
    deadline: float,
    only_list: bool,
    as_json: bool,
) -> int:
    """Build the kernel's own KVM selftests about guest_memfd from its source, and run them on it.

    A failure that the kernel's gmem design means is shown as xfail, with the reason.  The exit code is the verdict, as
    of gmem run.
    """
    known = load_selftests()
    chosen = chooser(expression)
    tests = [name for name in known.tests if chosen(name)]
    if only_list:
        return _list(known, tests, as_json)
    options = RunOptions(
        kernel=kernel, patches=tuple(Path(path) for path in patch), design=design, command_line=cmdline
    )
    check_options(options)
    if kernel and Path(kernel).is_file() and kernel not in Catalog.load().names():
        raise UsageError(
            f"--kernel {kernel} is an image, and the selftests are built from the source of the kernel under test: "
            "name its source tree, or a kernel of kernels.yaml"
        )
    if not tests:
        print("gmem: no selftest was selected", file=sys.stderr)
        return Verdict.NOTHING_RAN.exit_code
    place = OutDir.create(Path(out) if out else None)
    with progress(json_output=as_json) as show:
        session = Session(options, evidence=place.evidence, relative=place.relative, notice=show.note)
        session.progress = Building(show.note)
        ended_by = _run(SelftestRun(session, known, show.begin, deadline), tests, place, show)
    info = _info(session, ended_by)
    place.finish(info)
    final(info, session.cases, place.path, json_output=as_json)
    return info.exit_code


def _run(run: SelftestRun, tests: list[str], place: OutDir, show: Progress) -> tuple[Verdict, str] | None:
    """All tests; returns what ended the run before its end, if anything did."""
    try:
        for result in run.run(tests):
            place.append(result)  # on disk first, then on the screen
            show.end(result)
    except KeyboardInterrupt:
        return Verdict.INTERRUPTED, f"interrupted after {len(run.session.cases)} cases"
    except GmemError as error:
        return verdict_of_error(error), str(error)
    return None


def _info(session: Session, ended_by: tuple[Verdict, str] | None) -> RunInfo:
    """The record of the run; the VMs are not the harness's guests."""
    return msgspec.structs.replace(session.info(tuple(sys.argv), ended_by=ended_by), guest_kind=GUEST_KIND)


def _list(known: SelftestList, tests: list[str], as_json: bool) -> int:
    if as_json:
        fails = [msgspec.to_builtins(fail) for fail in known.fails if fail.test in tests]
        print(json.dumps({"fails": fails, "tests": {name: known.tests[name] for name in tests}}, indent=1))
        return 0 if tests else Verdict.NOTHING_RAN.exit_code
    for name in tests:
        print(f"{name}: {known.tests[name]}")
        for fail in known.fails:
            if fail.test == name:
                where = f"{fail.result} fails" if fail.result else "fails"
                print(f"    {where} on {', '.join(fail.designs)}: {fail.because}")
    if not tests:
        print("no selftest is selected")
    return 0 if tests else Verdict.NOTHING_RAN.exit_code
