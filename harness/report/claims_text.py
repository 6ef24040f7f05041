# SPDX-License-Identifier: GPL-2.0-only
"""The table of claims on a terminal: a table where there is one, plain lines elsewhere."""

from __future__ import annotations

from typing import Final, TextIO

from rich.console import Console
from rich.table import Table as Drawn
from rich.text import Text

from harness.report.claims_table import Cell, Row, Table, TableCase
from harness.report.text import one_line
from harness.run.verdict import Verdict

_STYLES: Final = {
    Verdict.PASS: "green",
    Verdict.DEVIATES: "bold red",
    Verdict.CRASH: "bold red",
    Verdict.NO_BOOT: "bold red",
}
"""Verdicts that are not listed are yellow."""
_HEADLINES: Final = 4
"""Numbers of one cell; the page has all of them."""
_LENGTH: Final = 160
_NONE: Final = "-"


def show_claims(table: Table, stream: TextIO) -> None:
    """Write the table to ``stream``."""
    console = Console(file=stream)
    if console.is_terminal and not console.is_dumb_terminal:
        console.print(_drawn(table))
        print(f"claims: {table.counted}", file=stream)
        return
    for line in plain_claims(table):
        print(line, file=stream)


def plain_claims(table: Table) -> list[str]:
    """One line for each cell: claim, verdict, design on kernel, numbers or reason, evidence."""
    one = len(table.runs) == 1
    wide = 0 if one else max((len(run.label) for run in table.runs), default=0)
    lines = ["", f"claims on {table.runs[0].label}" if one else "claims"]
    for row in table.claims:
        lines.append(f"{row.id:<10}{one_line(row.title)}")
        for cell in row.cells:
            where = "" if one else f"{cell.run:<{wide}}  "
            told = headlines(cell) or [cell.reason]
            lines.append(f"  {_word(cell):<14}{where}{one_line(told[0], _LENGTH)}{_evidence(cell)}")
            lines += [f"  {'':<14}{'':<{len(where)}}{one_line(text, _LENGTH)}" for text in told[1:]]
    return [*lines, f"claims: {table.counted}", ""]


def headlines(cell: Cell) -> list[str]:
    """What a cell says: its reason when it has no verdict or a bad one, then numbers, the most important first."""
    bad = [cell.reason] if cell.reason else []
    told = [text for case in cell.cases if _tells(case, cell) for text in case.headlines]
    told = list(dict.fromkeys([*bad, *told]))
    more = len(told) - _HEADLINES
    return told if more <= 0 else [*told[:_HEADLINES], f"and {more} more"]


def _tells(case: TableCase, cell: Cell) -> bool:
    """Numbers speak before words: where a case of the cell has numbers, those without are silent unless they failed."""
    return bool(case.tells) or case.verdict is not Verdict.PASS or not any(other.tells for other in cell.cases)


def _word(cell: Cell) -> str:
    return cell.verdict.value if cell.verdict is not None else _NONE if cell.status == "not concerned" else cell.status


def _evidence(cell: Cell) -> str:
    """The evidence of the worst case."""
    folder = next((case.evidence for case in cell.cases if case.evidence), "")
    more = len(cell.cases) - 1
    return f"  ({folder}{f' and {more} more' if more > 0 else ''})" if folder else ""


def _drawn(table: Table) -> Drawn:
    one = len(table.runs) == 1
    drawn = Drawn(title=f"claims on {table.runs[0].label}" if one else "claims", title_justify="left")
    drawn.add_column("claim", overflow="fold", min_width=9, max_width=30)
    if not one:
        drawn.add_column("design on kernel", overflow="fold", min_width=16, max_width=34)
    drawn.add_column("verdict", no_wrap=True, min_width=12)
    drawn.add_column("measured (predicted), or why not", overflow="fold", ratio=1)
    for row in table.claims:
        for number, cell in enumerate(row.cells):
            where = [] if one else [Text(one_line(cell.run))]
            drawn.add_row(
                Text(_title(row) if not number else ""), *where, Text(_word(cell), style=_style(cell)), _says(cell),
                end_section=number == len(row.cells) - 1,
            )  # fmt: skip
    return drawn


def _title(row: Row) -> str:
    return f"{row.id} {one_line(row.title)}"


def _style(cell: Cell) -> str:
    return "dim" if cell.verdict is None else _STYLES.get(cell.verdict, "yellow")


def _says(cell: Cell) -> Text:
    told = "\n".join(one_line(text, _LENGTH) for text in headlines(cell) or [cell.reason])
    return Text(told, style="dim" if cell.verdict is None else "") + Text(_evidence(cell), style="dim")
