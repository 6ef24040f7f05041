# SPDX-License-Identifier: GPL-2.0-only
"""``gmem bisect step``: one commit of somebody else's bisection, ``git bisect run gmem bisect step ...``.

git takes 0 as good, 125 as "skip", every other code below 128 as bad, and stops at 128 and above.  So nothing but a
fault may end with a code in between: not wrong words on the command line, not Ctrl-C, not a defect of this program.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from harness.bisect.decide import Mark, Policy, Word, judge
from harness.bisect.judging import nothing_answered
from harness.bisect.question import Answer, CaseName, CostRatio, Deviation, Question, answers, counted, narrowest
from harness.bisect.runner import Wanted, run_gmem
from harness.bisect.select import narrow
from harness.bisect.state import Asked
from harness.cache import ContentCache
from harness.cli.bisect_question import question_of, question_options
from harness.cli.options import cmdline_option, deadline_option, design_option, expression_option
from harness.cli.run import Building, suite_paths
from harness.errors import GmemError, UsageError
from harness.kernel.config import SourceError
from harness.kernel.store import KernelStore
from harness.report.store import load
from harness.report.text import one_line

GOOD: Final = 0
BAD: Final = 1
SKIP: Final = 125
ABORT: Final = 128
"""The least code at which git stops."""
INTERRUPTED: Final = 130
"""As a shell says it of Ctrl-C."""


class StepCommand(click.Command):
    """A wrong command line must not end with click's code, which git would take as bad."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            _say(f"{error.format_message()} See: gmem bisect step --help")
            raise click.exceptions.Exit(ABORT) from error


@click.command("step", cls=StepCommand)
@click.argument("suites", nargs=-1, metavar="[SUITE...]")
@click.option("--tree", type=click.Path(), default=".", show_default=True, help="The kernel's source tree; only read.")
@expression_option
@click.option(
    "--like", type=click.Path(), metavar="DIR", help="Bad is only what the first bad case of this run showed."
)
@design_option
@click.option("--guest", default="snp-stand-in", show_default=True, help="How guests are started.")
@cmdline_option
@deadline_option
@click.option("--passes", type=click.IntRange(1, 1000), default=1, show_default=True, help="That make a commit good.")
@click.option("--out", type=click.Path(file_okay=False), help="Keep the runs below this directory.")
@question_options
def step_command(**given: Any) -> int:
    """Judge the current checkout, for git bisect run gmem bisect step.

    Build it, run SUITE on it, and end with 0 (good), 1 (bad), 125 (skip: it does not build or boot, or deviates
    otherwise), or 128 and above (git stops: wrong usage, or a testbed that decides nothing).
    """
    try:
        with _place(given["out"]) as place:
            return _judged(given, place)
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except GmemError as error:
        _say(str(error))
        return ABORT
    except Exception:  # noqa: BLE001 - a defect of this program is not the kernel's
        traceback.print_exc()
        return ABORT


@contextmanager
def _place(out: str | None) -> Iterator[Path]:
    """Where the runs go: not below the current directory, which is the source tree."""
    if out is not None:
        folder = Path(out).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        yield Path(tempfile.mkdtemp(prefix="step-", dir=folder))
        return
    with tempfile.TemporaryDirectory(prefix="gmem-step-") as scratch:
        yield Path(scratch)


def _judged(given: dict[str, Any], place: Path) -> int:
    """The exit code for git."""
    question, case = _question(given)
    wanted = narrow(_asked(given, question), case, 1)
    try:
        kernel = KernelStore(ContentCache(), progress=Building(_say)).resolve(given["tree"])
    except SourceError as error:
        _say(f"skip: it does not build: {error}")
        return SKIP
    seen: list[Answer] = []
    policy = Policy(given["passes"])
    while (judgement := judge([answer.word for answer in seen], policy)).mark is Mark.OPEN:
        again = Wanted(wanted.suites, wanted.expression, judgement.missing, wanted.options)
        ended = run_gmem(kernel.image, again, place / f"run{len(list(place.iterdir()))}")
        found = answers(question, case, ended.results)
        seen += counted(_of_all(found, case)) or [nothing_answered(ended, case)]
    why = seen[-1].said if judgement.mark is not Mark.BAD else next(a.said for a in seen if a.word is Word.FAULT)
    _say(f"{judgement.mark.value}: {judgement.why}: {why}")
    if judgement.mark is Mark.SKIP and judgement.why.endswith("decided nothing"):
        return ABORT
    return {Mark.GOOD: GOOD, Mark.BAD: BAD, Mark.SKIP: SKIP}[judgement.mark]


def _of_all(found: list[Answer], case: CaseName | None) -> list[Answer]:
    """Where all cases are asked, one answer for a run: the fault, else what keeps it from being a pass, else pass."""
    if case is not None or not found:
        return found
    order = (Word.FAULT, Word.OTHER, Word.NO_BOOT, Word.INFRA, Word.INCONCLUSIVE, Word.PASS, Word.ABSENT)
    return [min(found, key=lambda answer: order.index(answer.word))]


def _question(given: dict[str, Any]) -> tuple[Question, CaseName | None]:
    """What is asked, and of which case."""
    question = question_of(given)
    if isinstance(question, CostRatio):
        raise UsageError("a cost is one in comparison with the good end, which gmem bisect step does not see")
    if given["like"] is None:
        return question, None
    if not isinstance(question, Deviation):
        raise UsageError("--like names a deviation, --counter a quantity: one of the two")
    found = narrowest(question, load(Path(given["like"]))[1])
    if found is None:
        raise UsageError(f"no case of --like {given['like']} deviates or crashes")
    return found[0], found[1]


def _asked(given: dict[str, Any], question: Question) -> Asked:
    return Asked(
        good="",
        bad="",
        suites=tuple(str(Path(path).absolute()) for path in suite_paths(given["suites"], given["guest"])),
        expression=given["expression"],
        design=given["design"],
        guest=given["guest"],
        command_line=given["cmdline"],
        deadline=given["deadline"],
        question=question,
        confidence=0.0,
        trials=0,
    )


def _say(line: str) -> None:
    print(f"gmem: {one_line(line)}", file=sys.stderr, flush=True)
