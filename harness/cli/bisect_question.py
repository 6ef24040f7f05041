# SPDX-License-Identifier: GPL-2.0-only
"""Options of ``gmem bisect`` and ``gmem bisect step`` that say what is asked of each candidate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from harness.bisect.question import CostRatio, CounterBound, Deviation, Question
from harness.errors import UsageError


def question_options(command: Callable[..., int]) -> Callable[..., int]:
    """Options that ask for a quantity."""
    for option in (
        click.option("--counter", metavar="NAME", help="Bad is: this counter moves beyond --above or --below."),
        click.option("--step", "at_step", type=click.IntRange(min=0), help="Over this step of a case (default: any)."),
        click.option("--above", type=int, help="Bad is a movement above that."),
        click.option("--below", type=int, help="Bad is a movement below that."),
        click.option("--cost", metavar="KIND", help="Bad is: steps of this kind ('convert to private') take longer."),
        click.option(
            "--ratio-above", type=click.FloatRange(0, min_open=True), help="Than so many times the good end's."
        ),
    ):
        command = option(command)
    return command


def question_of(given: dict[str, Any]) -> Question:
    """What is asked of each candidate."""
    counter, cost, bounds = given["counter"], given["cost"], (given["above"], given["below"])
    if counter and cost:
        raise UsageError("one bisection answers one question: --counter or --cost")
    if cost:
        if given["ratio_above"] is None:
            raise UsageError("--cost needs --ratio-above R: how many times as long is too long")
        if any(bound is not None for bound in bounds) or given["at_step"] is not None:
            raise UsageError("--above, --below and --step belong to --counter")
        return CostRatio(cost, given["ratio_above"])
    if given["ratio_above"] is not None:
        raise UsageError("--ratio-above belongs to --cost")
    if counter:
        if bounds.count(None) != 1:
            raise UsageError("--counter needs one bound: --above X or --below X")
        return CounterBound(counter, given["at_step"], *bounds)
    if any(bound is not None for bound in bounds) or given["at_step"] is not None:
        raise UsageError("--above, --below and --step belong to --counter")
    return Deviation()
