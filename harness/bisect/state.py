# SPDX-License-Identifier: GPL-2.0-only
"""The state of a bisection: one JSON file, written whole after all that was seen, so that any end can be resumed.

Everything else follows from it: the verdict of a candidate from its attempts, what is tried next from the verdicts.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from harness.bisect.decide import Mark, Word
from harness.bisect.question import Answer, CaseName, Question, counted
from harness.errors import InfraError, UsageError

STATE = "bisect.json"
VERSION = 1


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The command line of a bisection."""

    tree: str = ""
    kernels: tuple[str, ...] = ()
    """One of the two."""
    good: str
    bad: str
    """As the user gave them."""
    suites: tuple[str, ...] = ()
    expression: str = ""
    design: str = "auto"
    guest: str = "snp-stand-in"
    command_line: str = ""
    deadline: float
    question: Question
    confidence: float
    trials: int
    """Attempts at the bad end, to see how often the fault shows."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One run on one candidate."""

    whole: bool
    """Whether all that the user selected was run, or the narrowest case alone."""
    out: str
    """Its output directory, relative to that of the bisection."""
    seconds: float
    answers: tuple[Answer, ...]


class Step(msgspec.Struct, kw_only=True):
    """One candidate, and all that was seen of it."""

    name: str
    """Full name of the commit, or the kernel's."""
    title: str
    kernel: str = ""
    """Path of its image, for whoever wants to run it again; '' before it was built."""
    identity: str = ""
    """What its code is; equal for kernels that differ in their name only."""
    same_as: str = ""
    """The candidate with the same code, whose verdict this one has."""
    not_built: str = ""
    """Why it does not build."""
    build_seconds: float = 0.0
    attempts: list[Attempt] = []
    mark: Mark = Mark.OPEN
    why: str = ""

    @property
    def words(self) -> list[Word]:
        """What was seen of the narrowest case (or of everything, where that is what is asked)."""
        if self.not_built:
            return [Word.NO_BUILD]
        attempts = [attempt for attempt in self.attempts if not attempt.whole]
        return [answer.word for attempt in attempts for answer in counted(attempt.answers)]

    @property
    def passes(self) -> int:
        """Attempts that passed."""
        return self.words.count(Word.PASS)

    @property
    def run_seconds(self) -> float:
        """Wall time of its runs."""
        return sum(attempt.seconds for attempt in self.attempts)


class State(msgspec.Struct, kw_only=True):
    """Everything that a bisection knows."""

    version: int = VERSION
    asked: Asked
    good: str
    bad: str
    """Full names of both ends."""
    question: Question
    """What is looked for, as the bad end showed it."""
    case: CaseName | None = None
    """The narrowest case; None before the bad end was seen, and where all cases are asked."""
    narrowed: bool = False
    shown: int = 0
    trials: int = 0
    passes: int = 0
    """The fault showed in that many of the trials at the bad end; so many passes make a commit good."""
    steps: list[Step] = []
    """In the order in which they were begun."""
    conclusion: str = ""
    """The last sentence; '' while it goes on."""

    def step(self, name: str) -> Step | None:
        """What was seen of a candidate."""
        return next((step for step in self.steps if step.name == name), None)

    def save(self, folder: Path) -> None:
        """Writes the file in one piece; raises :class:`InfraError` when it cannot be."""
        path = folder / STATE
        fresh = path.with_name(f".{STATE}.new")
        try:
            with fresh.open("wb") as stream:
                stream.write(msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(path)
        except OSError as error:
            raise InfraError(f"{path} cannot be written: {error.strerror}") from error


def load_state(folder: Path) -> State:
    """The state in a folder; raises :class:`UsageError` if there is none that can be read."""
    path = folder / STATE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except OSError as error:
        raise UsageError(f"{folder} holds no bisection to resume: {STATE} cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    if state.version != VERSION:
        raise UsageError(f"{path} was written by another version of this program: begin the bisection again")
    return state
