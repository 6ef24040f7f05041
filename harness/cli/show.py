# SPDX-License-Identifier: GPL-2.0-only
"""What a run shows while it goes on and when it ends: a live table on a terminal, plain lines otherwise.

With ``--json`` standard output gets one object at the end and nothing else; progress goes to standard error.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, TextIO

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.report.summary import case_name, guest_kind_text, kernel_text, sharpness_text, shrink_command, summarize
from harness.report.text import one_line, storable
from harness.run.result import CaseResult, RunInfo
from harness.run.verdict import Verdict

_STYLES: Final = {
    Verdict.PASS: "green",
    Verdict.XFAIL: "green",
    Verdict.DEVIATES: "bold red",
    Verdict.CRASH: "bold red",
    Verdict.NO_BOOT: "bold red",
    Verdict.SKIP: "dim",
    Verdict.NOTHING_RAN: "dim",
}
"""Verdicts that are not listed are yellow: something for the user to look at that does not blame the kernel."""

_WORD: Final = max(len(verdict.value) for verdict in Verdict)
_SECONDS: Final = len("seconds")
_FRAME_LINES: Final = 6
"""Lines of the live table that are no case: borders, header, the case that is running, and a free line below."""


class Progress:
    """Shows cases as they end, as plain lines.  To be entered before anything captures standard output."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stack = ExitStack()

    def __enter__(self) -> Progress:
        self._stream = self._stack.enter_context(_second_handle(self._stream))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(self, case: str) -> None:
        """``case`` (``suite/case``) starts now."""

    def end(self, case: CaseResult) -> None:
        """A case is done."""
        print(plain_line(case), file=self._stream, flush=True)

    def note(self, line: str) -> None:
        """Something the user should know while it happens: the kernel is being built, a lock is waited for."""
        print(one_line(line), file=self._stream, flush=True)


class LiveProgress(Progress):
    """A table that grows on a terminal; it is gone when the run ends, :func:`final` shows the whole one."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._console = Console(file=stream)
        self._clock = clock
        self._done: list[CaseResult] = []
        self._running: tuple[str, float] | None = None

    def __enter__(self) -> Progress:
        super().__enter__()
        self._console = Console(file=self._stream)
        live = Live(console=self._console, get_renderable=self._table, refresh_per_second=4, transient=True)
        self._stack.enter_context(live)
        return self

    def begin(self, case: str) -> None:
        self._running = (case, self._clock())

    def end(self, case: CaseResult) -> None:
        self._running = None
        self._done.append(case)

    def note(self, line: str) -> None:
        self._console.print(Text(one_line(line)))

    def _table(self) -> Table:
        shown = self._done[-max(1, self._console.height - _FRAME_LINES) :]
        running = self._running  # begin() and end() come from another thread than the refresh
        names = [case_name(case) for case in shown] + ([one_line(running[0], 300)] if running else [])
        table = _live_table(names, self._console.width)
        for case, name in zip(shown, names, strict=False):
            table.add_row(_word(case.verdict), f"{case.seconds:.1f}", Text(name), Text(str(summarize(case))))
        if running is not None:
            table.add_row(Text("…"), f"{self._clock() - running[1]:.0f}", Text(names[-1]), Text(""))
        return table


def progress(*, json_output: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None) -> Progress:
    """The progress that fits: a live table on a terminal, plain lines otherwise, on standard error with ``--json``."""
    if json_output:
        return Progress(stderr or sys.stderr)
    stream = stdout or sys.stdout
    terminal = Console(file=stream)
    return LiveProgress(stream) if terminal.is_terminal and not terminal.is_dumb_terminal else Progress(stream)


def final(
    info: RunInfo, cases: Sequence[CaseResult], out: Path, *, json_output: bool = False, stdout: TextIO | None = None
) -> None:
    """The end of a run: all cases, then verdict and sentence, the kernel's exact version, and where the report is.

    ``out`` is the output directory.  With ``json_output``: one object with ``run``, ``cases``, ``out`` and ``report``.
    """
    with _second_handle(stdout or sys.stdout) as stream:
        if json_output:
            whole = {"cases": cases, "out": str(out), "report": str(out / "report.html"), "run": info}
            text = msgspec.json.encode(storable(msgspec.to_builtins(whole)), order="sorted").decode()
            print(text, file=stream, flush=True)
        else:
            _final_text(info, cases, out, stream)


def _final_text(info: RunInfo, cases: Sequence[CaseResult], out: Path, stream: TextIO) -> None:
    console = Console(file=stream)
    if not cases:
        print("no case was run", file=stream)
    elif console.is_terminal:
        console.print(_full_table(cases))
    else:
        print("\n".join(_plain_table(cases)), file=stream)
    smaller = (shrink_command(case, out / case.evidence, info.same) for case in cases)
    facts = {
        "verdict": f"{info.verdict.value} (exit code {info.exit_code}): {one_line(info.sentence)}",
        "kernel": kernel_text(info),
        "design": one_line(info.design),
        "guest": guest_kind_text(info.guest_kind),
        "bounds": sharpness_text(info.sharpness),
        "smaller": next(filter(None, smaller), ""),
        "report": str(out / "report.html"),
    }
    for name, value in facts.items():
        if not value:
            continue
        style = _style(info.verdict) if name == "verdict" else ""
        console.print(Text(f"{name + ':':<9}{value}", style=style), soft_wrap=True)


def plain_line(case: CaseResult) -> str:
    """One case on one line: verdict, seconds, name, key counters predicted/observed, and the sentence of a bad one.

    >>> plain_line(CaseResult(suite="conversions", case="one_page", claim="", verdict=Verdict.SKIP, sentence="no THP",
    ...     seconds=0.04, steps=(), evidence=""))
    'skip              0.0 s  conversions/one_page: no THP'
    """
    line = f"{case.verdict.value:<{_WORD}} {case.seconds:8.1f} s  {case_name(case)}"
    counters = str(summarize(case))
    if counters:
        line += f"  {counters}"
    return f"{line}: {one_line(case.sentence)}" if _worth_saying(case) else line


def _worth_saying(case: CaseResult) -> bool:
    """Whether the sentence of a case tells what its counters do not: it did not pass, or has none (a selftest)."""
    return case.verdict is not Verdict.PASS or not case.steps


def _plain_table(cases: Sequence[CaseResult]) -> list[str]:
    width = min(60, max(len(case_name(case)) for case in cases))
    lines = ["", f"{'verdict':<{_WORD}} {'seconds':>8}  {'case':<{width}}  predicted/observed"]
    for case in cases:
        start = f"{case.verdict.value:<{_WORD}} {case.seconds:8.1f}  {case_name(case):<{width}}"
        lines.append(f"{start}  {summarize(case)}".rstrip())
        if _worth_saying(case):
            lines.append(f"{'':{_WORD}} {'':8}  {one_line(case.sentence)}")
    return [*lines, ""]


def _full_table(cases: Sequence[CaseResult]) -> Table:
    table = Table()
    table.add_column("verdict", no_wrap=True, min_width=_WORD)
    table.add_column("seconds", justify="right", no_wrap=True, min_width=_SECONDS)
    table.add_column("case", overflow="fold", min_width=20, max_width=48)
    table.add_column("predicted/observed", overflow="fold", ratio=1)
    for case in cases:
        told = Text(str(summarize(case)))
        if _worth_saying(case):
            told.append(("\n" if told.plain else "") + one_line(case.sentence), style=_style(case.verdict))
        table.add_row(_word(case.verdict), f"{case.seconds:.1f}", Text(case_name(case)), told)
    return table


def _live_table(names: Sequence[str], width: int) -> Table:
    """Columns of a fixed width, every case on one line: rich would take room from the verdict when it is tight."""
    case = min(44, max(map(len, names), default=4))
    counters = max(10, width - _WORD - _SECONDS - case - 4 * 3 - 1)
    table = Table()
    table.add_column("verdict", no_wrap=True, width=_WORD)
    table.add_column("seconds", justify="right", no_wrap=True, width=_SECONDS)
    table.add_column("case", no_wrap=True, overflow="ellipsis", width=case)
    table.add_column("predicted/observed", no_wrap=True, overflow="ellipsis", width=counters)
    return table


def _style(verdict: Verdict) -> str:
    return _STYLES.get(verdict, "yellow")


def _word(verdict: Verdict) -> Text:
    return Text(verdict.value, style=_style(verdict))


@contextmanager
def _second_handle(stream: TextIO) -> Iterator[TextIO]:
    """Another handle on what ``stream`` writes to, which is not redirected when a test run captures descriptor 1.

    A character that its encoding lacks becomes a question mark.  A stream without a descriptor is used as it is.
    """
    stream.flush()
    try:
        fd = os.dup(stream.fileno())
    except (OSError, io.UnsupportedOperation):
        yield stream
        stream.flush()
        return
    with os.fdopen(fd, "w", encoding=stream.encoding, errors="replace", buffering=1) as handle:
        yield handle
