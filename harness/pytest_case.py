# SPDX-License-Identifier: GPL-2.0-only
"""What the fixture ``gmem`` gives to a test: one case of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from harness.errors import GmemError, UsageError
from harness.interruption import INTERRUPTION
from harness.pytest_run import GmemRun
from harness.report.series import Numbers, series
from harness.run.result import CaseResult
from harness.run.runner import CaseName
from harness.run.session import Session
from harness.run.tell import Tell
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Step


class CaseFailed(Exception):
    """A case that did not pass; the text is its sentence."""

    def __init__(self, result: CaseResult) -> None:
        super().__init__(f"{result.verdict.value}: {result.sentence}")
        self.result = result


@dataclass
class Case:
    """What the fixture ``gmem`` gives to a test: one case."""

    gmem: GmemRun
    name: CaseName
    designs: tuple[str, ...]
    guests: tuple[str, ...] = ()
    """Launches that it is about; empty: all that a QEMU runs, and ``bare`` as far as it can do the steps."""
    called: bool = False
    done: CaseResult | None = None

    def run(
        self,
        *steps: Step,
        guests: int = 1,
        chunks: int = 8,
        frames: bool = False,
        pcp_room: bool = False,
        backing: str = "anon-4k",
        tells: Sequence[Tell] = (),
    ) -> CaseResult:
        """Run the steps as one scenario on a fresh testbed; raises :class:`CaseFailed` unless they pass.

        ``frames``: watch page identity too (counters ``frames/*``), at a tenth of a second per step and GiB of host.
        ``pcp_room``: per-CPU page lists keep what a CPU frees.
        ``backing``: what the shared side is made of (``anon-4k``, ``anon-thp``, ``memfd-4k``, ``shmem-thp``,
        ``hugetlb``).
        ``tells``: the numbers that the table of claims shows; without, it shows the case's own sentence.
        """
        self.name = replace(self.name, tells=tuple(tells))
        made = Scenario(
            self.name.case,
            tuple(steps),
            guests=guests,
            chunks=chunks,
            frames=frames,
            pcp_room=pcp_room,
            backing=backing,
        )
        return self.run_scenario(made)

    def run_scenario(self, scenario: Scenario) -> CaseResult:
        """Run a scenario as this case."""
        if self.called:
            raise UsageError(f"{self.name.suite}/{self.name.case}: a case is one scenario; give it all steps at once")
        self.called = True
        INTERRUPTION.check()
        session = self.gmem.begin()
        if self.gmem.listener:
            self.gmem.listener.begin(f"{self.name.suite}/{self.name.case}")
        if self.guests and session.launch.name not in self.guests:
            why = f"the claim concerns guests started as {', '.join(self.guests)}, these are {session.launch.name}"
            result = self._skip(session, f"{why}; --guest {self.guests[0]} has such")
        elif self.designs and not self._concerned(session, scenario):
            result = self._skip(session, self._other_design(session))
        else:
            result = session.run(scenario, self.name)
        self.done = result
        self.gmem.add(result)
        if result.verdict is Verdict.SKIP:
            pytest.skip(result.sentence)
        if result.verdict is not Verdict.PASS:
            raise CaseFailed(result)
        return result

    def record_series(
        self, name: str, x: Sequence[float], y: Sequence[float], predicted: Numbers | None = None, *, axis: str = ""
    ) -> None:
        """Keep a curve for the table of claims: ``y`` at each ``x``, beside ``predicted`` at each (a number or a pair).

        After :meth:`run`.  ``axis`` says what ``x`` counts.  Raises ``UsageError`` for curves of different lengths.
        """
        if self.done is None or self.gmem.out is None:
            raise UsageError(f"{self.name.suite}/{self.name.case}: record_series() comes after run()")
        self.gmem.out.append_series(series(self.done, name, axis, x, y, predicted))

    def _concerned(self, session: Session, scenario: Scenario) -> bool:
        """Whether the claim is about the design of the kernel under test; a broken testbed is not decided here.

        Any testbed tells the design, so that one that this kernel cannot have is not asked for.
        """
        if not session.design:
            try:
                session.ready(session.spec(guests=scenario.guests, chunks=scenario.chunks))
            except GmemError:
                return True
        return session.design in self.designs

    def _other_design(self, session: Session) -> str:
        return (
            f"the claim concerns design {', '.join(self.designs)}, the kernel under test is {session.design}; "
            f"--design {self.designs[0]} judges it all the same"
        )

    def _skip(self, session: Session, why: str) -> CaseResult:
        result = CaseResult(
            suite=self.name.suite, case=self.name.case, claim=self.name.claim, verdict=Verdict.SKIP, sentence=why,
            seconds=0.0, steps=(), evidence="", repeat=self.name.repeat,
        )  # fmt: skip
        result = session.named(result, self.name)
        session.cases.append(result)
        return result
