# SPDX-License-Identifier: GPL-2.0-only
"""The scoreboard: one line for each fault, as a table for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.planted.faults import Fault
from tests.planted.results import Result

WIDTH = 96
"""Characters of a reason in the table; the whole is in results.jsonl."""
BEGIN, END = "<!-- board: begin -->", "<!-- board: end -->"


@dataclass(frozen=True)
class Line:
    """One kernel on the board."""

    kernel: str
    fault: Fault | None
    """None for the kernel without a fault."""
    result: Result | None
    """None when it was not run."""
    selftests: Result | None = None
    earlier: bool = False
    """The result is of an earlier state of the patch, its record, the suites or the harness."""

    @property
    def holds(self) -> bool:
        """The fault is caught and named, or the healthy kernel passes."""
        return self.result is not None and not self.result.missed and not self.earlier

    @property
    def name(self) -> str:
        return self.fault.name if self.fault else "(no fault)"

    @property
    def said(self) -> str:
        """``caught``, ``passes``, or what is wrong."""
        if self.result is None:
            return "not run"
        told = "caught" if self.fault else "passes"
        if not self.result.decided:
            told = f"UNDECIDED: {self.result.missed}"
        elif self.result.missed:
            told = f"{'MISSED' if self.fault else 'FAILS'}: {self.result.missed}"
        return f"EARLIER STATE: {told}" if self.earlier else told

    @property
    def by(self) -> str:
        """The case that shows the fault, and the counter where one does."""
        if self.result is None:
            return ""
        return ": ".join(part for part in (self.result.case, self.result.counter) if part)

    @property
    def own_tests(self) -> str:
        """What the kernel's own selftests say of the same kernel."""
        if self.selftests is None:
            return "not asked"
        if not self.selftests.decided:
            return f"undecided: {self.selftests.missed}"
        bad = {name: word for name, word in self.selftests.cases.items() if word not in ("pass", "skip", "xfail")}
        told = ", ".join(f"{name.rpartition('/')[2]} {word}" for name, word in bad.items())
        return told or ("pass" if self.fault is None else "pass (missed)")


def _times(result: Result | None) -> tuple[str, str]:
    return ("", "") if result is None else (f"{result.build_seconds:.0f}", f"{result.seconds:.0f}")


def text(lines: Sequence[Line]) -> str:
    """The board for a terminal."""
    rows = [("kernel", "fault", "exit", "build s", "verdict s", "the kernel's selftests", "the harness")]
    for line in lines:
        code = "" if line.result is None else str(line.result.verdict.exit_code)
        told = f"{line.said} by {line.by}" if line.by and line.holds else line.said
        rows.append((line.kernel, line.name, code, *_times(line.result), line.own_tests, told))
    widths = [max(len(row[at]) for row in rows) for at in range(6)]
    shown = []
    for row, line in zip(rows, [None, *lines], strict=True):
        cells = [
            cell.rjust(w) if 2 <= at <= 4 else cell.ljust(w)
            for at, (cell, w) in enumerate(zip(row, widths, strict=False))
        ]
        shown.append("  ".join([*cells, row[6]]).rstrip())
        if line is not None and line.result is not None and line.result.reason:
            shown.append(" " * (widths[0] + 2) + cut(line.result.reason))
    return "\n".join([*shown, "", total(lines)])


def total(lines: Sequence[Line]) -> str:
    """The last line: how many of how many."""
    faults = [line for line in lines if line.fault is not None]
    caught = sum(line.holds for line in faults)
    asked = [line for line in faults if line.selftests is not None and line.selftests.decided]
    theirs = sum(line.own_tests != "pass (missed)" for line in asked)
    told = f"caught and named: {caught} of {len(faults)} planted faults"
    if asked:
        told += f"; the kernel's own selftests fail on {theirs} of {len(asked)}"
    healthy = [line for line in lines if line.fault is None]
    unasked = [line.kernel for line in healthy if line.result is None or line.earlier]
    if unasked:
        return f"{told}; without a fault {', '.join(unasked)} was not asked in this state"
    failing = [line.kernel for line in healthy if not line.holds]
    if failing:
        return f"{told}; WITHOUT A FAULT {', '.join(failing)} does not pass the same cases"
    return told + (
        f"; without a fault {', '.join(line.kernel for line in healthy)} pass the same cases" if healthy else ""
    )


def cut(sentence: str, width: int = WIDTH) -> str:
    """A sentence in one line of at most ``width`` characters."""
    line = " ".join(sentence.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def markdown(lines: Sequence[Line], command: str) -> str:
    """The board as a table between two marks, with the command that makes it."""
    rows = [
        "| kernel | fault | exit code | build, verdict in s | caught by | the selftests |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        shown = line.result.case if line.result else ""
        if line.result and line.result.counter:
            shown += f": `{line.result.counter}`"
        cells = (
            line.kernel,
            f"`{line.name}`" if line.fault else line.name,
            "" if line.result is None else str(line.result.verdict.exit_code),
            ", ".join(_times(line.result)) if line.result else "",
            (shown or line.said) if line.holds else f"**{line.said}**",
            line.own_tests.removesuffix(" (missed)"),
        )
        rows.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([BEGIN, f"`{command}`:", "", *rows, "", total(lines) + ".", END])


def put_into(document: str, table: str) -> str:
    """The document with the table between its marks exchanged; raises ``ValueError`` without marks."""
    before, found, rest = document.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"it has no lines {BEGIN} and {END} to put the board between")
    return before + table + after
