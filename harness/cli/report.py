# SPDX-License-Identifier: GPL-2.0-only
"""``gmem report``: several runs, on different kernels or of different designs, as one table of claims."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from harness.errors import UsageError
from harness.report.claims_table import Run, claims_table, has_claims
from harness.report.claims_text import show_claims
from harness.report.store import CLAIMS_HTML, CLAIMS_JSON, RUN, load, load_series, write_claims
from harness.report.text import storable
from harness.run.verdict import Verdict

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
def report_command(runs: tuple[Path, ...], out: Path, as_json: bool) -> int:
    """Merge the output directories of runs into one table of claims: claim x design and kernel.

    The exit code is that of the worst run.
    """
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


def read_run(folder: Path) -> Run:
    """A run from its output directory; raises ``UsageError`` for what is none, has not ended, or decides no claim."""
    info, cases = load(folder)
    if info is None:
        raise UsageError(f"{folder} is a run that never came to its end (no {RUN}): run it again, or leave it out")
    if not has_claims(cases):
        raise UsageError(f"{folder} is a run without a case that decides a claim: name runs of suites c01 to c12")
    return Run(info, cases, load_series(folder), folder)
