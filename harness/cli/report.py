# SPDX-License-Identifier: GPL-2.0-only
"""``gmem report``: several runs as one table of claims, or a run as other programs read it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import msgspec

from harness.errors import UsageError
from harness.report.claims_table import Run, claims_table, has_claims
from harness.report.claims_text import show_claims
from harness.report.kcidb import DEFAULT_ORIGIN
from harness.report.kcidb import kcidb as make_kcidb
from harness.report.markdown import markdown
from harness.report.store import CLAIMS_HTML, CLAIMS_JSON, RUN, load, load_series, write_claims, write_reports
from harness.report.text import storable
from harness.run.result import CaseResult, RunInfo
from harness.run.verdict import Verdict, worst

DEFAULT_OUT = Path("gmem-out") / "claims"


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_OUT,
    show_default=True,
    help="Directory for claims.json and claims.html; what an earlier report left there is replaced.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the table as one JSON object on standard output.")
@click.option(
    "--kcidb",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    metavar="FILE",
    help="No table: write the results as KCIDB reads them (schema 5.3) into FILE, or to standard output for -.",
)
@click.option("--origin", default=DEFAULT_ORIGIN, show_default=True, help="Name of the CI system in KCIDB.")
@click.option("--url", default="", help="Address at which the output directory can be fetched, for KCIDB's links.")
@click.option("--markdown", "as_markdown", is_flag=True, help="No table: print each run's summary.md.")
@click.option(
    "--remake",
    is_flag=True,
    help="No table: write each run's reports into its output directory again, from its results.",
)
def report_command(
    runs: tuple[Path, ...],
    out: Path,
    as_json: bool,
    kcidb: Path | None,
    origin: str,
    url: str,
    as_markdown: bool,
    remake: bool,
) -> int:
    """Merge the output directories of runs into one table of claims: claim x design and kernel.

    With --kcidb, --markdown or --remake: the same runs as another program or page reads them.
    The exit code is that of the worst run.
    """
    if as_json and (kcidb or as_markdown or remake):
        raise UsageError("--json is about the table of claims: leave it out with --kcidb, --markdown and --remake")
    if kcidb or as_markdown or remake:
        ended = [(folder, *_read_ended(folder)) for folder in runs]
        if remake:
            for folder, info, cases in ended:
                write_reports(folder, info, cases, load_series(folder))
        if kcidb:
            document = make_kcidb([(info, cases) for _, info, cases in ended], origin=origin, url=url)
            _put(kcidb, json.dumps(storable(document), indent=1, ensure_ascii=False) + "\n")
        if as_markdown:
            for _, info, cases in ended:
                print(markdown(info, cases))
        return worst(info.verdict for _, info, _ in ended).exit_code
    return _merge(runs, out, as_json)


def _merge(runs: tuple[Path, ...], out: Path, as_json: bool) -> int:
    table = claims_table([read_run(folder) for folder in runs], out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made ({error.strerror}): name another directory") from error
    write_claims(out, table)
    if as_json:
        print(msgspec.json.encode(storable(msgspec.to_builtins(table)), order="sorted").decode())
        return table.exit_code
    show_claims(table, sys.stdout)
    for run in table.runs:
        if run.verdict is not Verdict.PASS:
            print(f"{run.label}: {run.verdict.value}: {run.sentence}")
    print(f"verdict: {table.verdict.value} (exit code {table.exit_code}), the worst of {len(table.runs)} runs")
    print(f"report:  {out / CLAIMS_HTML} and {CLAIMS_JSON}")
    return table.exit_code


def _put(path: Path, text: str) -> None:
    if str(path) == "-":
        print(text, end="")
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): name another file") from error


def _read_ended(folder: Path) -> tuple[RunInfo, list[CaseResult]]:
    info, cases = load(folder)
    if info is None:
        raise UsageError(f"{folder} is a run that never came to its end (no {RUN}): run it again, or leave it out")
    return info, cases


def read_run(folder: Path) -> Run:
    """A run from its output directory; raises ``UsageError`` for what is none, has not ended, or decides no claim."""
    info, cases = _read_ended(folder)
    if not has_claims(cases):
        raise UsageError(f"{folder} is a run without a case that decides a claim: name runs of suites c01 to c12")
    return Run(info, cases, load_series(folder), folder)
