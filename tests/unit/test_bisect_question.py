# SPDX-License-Identifier: GPL-2.0-only
"""What the results of a run answer, and what makes two kernels one."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bisect.decide import Word
from harness.bisect.identity import identity
from harness.bisect.question import (
    Answer,
    CaseName,
    CostRatio,
    CounterBound,
    Deviation,
    answers,
    counted,
    narrowest,
    shown_by,
)
from harness.bisect.select import narrow
from harness.bisect.state import Asked
from harness.errors import UsageError
from harness.run.result import CaseResult, Finding, StepResult
from harness.run.verdict import Verdict
from tests.unit.test_kernel_buildid import ID, NOTE, bzimage, gzip, vmlinux

REASON = "touch (order0): 1 page enters the page cache"


def finding(counter: str = "F", observed: int | None = 0, verdict: Verdict = Verdict.PASS) -> Finding:
    return Finding(counter=counter, low=0, high=0, observed=observed, noise=0, verdict=verdict, reasons=(REASON,))


def step(index: int, *findings: Finding, seconds: float = 0.01, recorded: dict[str, int] | None = None) -> StepResult:
    return StepResult(
        index=index, text=f"touch step {index}", seconds=seconds, findings=findings, recorded=recorded or {}
    )


def result(verdict: Verdict, *steps: StepResult, case: str = "a", sentence: str = "", repeat: int = 1) -> CaseResult:
    return CaseResult(
        suite="smoke", case=case, claim="", verdict=verdict, sentence=sentence, seconds=1.0, steps=steps, evidence="",
        repeat=repeat,
    )  # fmt: skip


OFF = step(0, finding("F", -3, Verdict.DEVIATES))
OTHER = step(0, finding("nr_file_pages", 3, Verdict.DEVIATES))
A = CaseName("smoke", "a")


def words(question: Deviation | CounterBound, *results: CaseResult) -> list[Word]:
    return [answer.word for answer in answers(question, A, results)]


def test_a_deviation_is_the_fault_only_with_its_signature() -> None:
    looked_for = Deviation(shown_by(result(Verdict.DEVIATES, OFF)))
    assert words(looked_for, result(Verdict.DEVIATES, OFF), result(Verdict.DEVIATES, OTHER)) == [Word.FAULT, Word.OTHER]
    higher = step(0, finding("F", 3, Verdict.DEVIATES))
    assert words(looked_for, result(Verdict.DEVIATES, higher)) == [Word.OTHER]
    crash = result(Verdict.CRASH, sentence="the host's kernel printed: WARNING: at mm/truncate.c:12 x (line 3 of y)")
    again = result(Verdict.CRASH, sentence="the host's kernel printed: WARNING: at mm/truncate.c:99 x (line 5 of y)")
    assert words(looked_for, crash) == [Word.OTHER]
    assert words(Deviation(shown_by(crash)), again) == [Word.FAULT]


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (Verdict.PASS, Word.PASS),
        (Verdict.INFRA, Word.INFRA),
        (Verdict.INCONCLUSIVE, Word.INCONCLUSIVE),
        (Verdict.NO_BOOT, Word.NO_BOOT),
        (Verdict.SKIP, Word.ABSENT),
    ],
)
def test_every_other_verdict_is_what_it_is(verdict: Verdict, word: Word) -> None:
    assert words(Deviation(shown_by(result(Verdict.DEVIATES, OFF))), result(verdict)) == [word]


def test_a_kernel_that_does_not_boot_can_be_what_is_looked_for() -> None:
    gone = result(Verdict.NO_BOOT, sentence="no console after 60 s")
    found = narrowest(Deviation(), [gone])
    assert found is not None
    assert words(Deviation(shown_by(gone)), result(Verdict.NO_BOOT, sentence="after 61 s")) == [Word.FAULT]


def test_skips_that_only_refer_to_a_broken_testbed_are_no_answers() -> None:
    looked_for = Deviation(shown_by(result(Verdict.DEVIATES, OFF)))
    assert words(looked_for, result(Verdict.INFRA), result(Verdict.SKIP), result(Verdict.SKIP)) == [Word.INFRA]


def test_the_shortest_case_with_the_first_signature_is_taken() -> None:
    two = (step(0, finding()), step(1, finding("F", -3, Verdict.DEVIATES)))
    results = [
        result(Verdict.PASS, case="p"),
        result(Verdict.DEVIATES, *two, case="long"),
        result(Verdict.DEVIATES, OTHER, case="other"),
        result(Verdict.DEVIATES, OFF, case="short"),
    ]
    found = narrowest(Deviation(), results)
    assert found is not None
    question, case, least = found
    assert (question, case, least) == (Deviation(shown_by(results[1])), CaseName("smoke", "short"), results[3])
    assert narrowest(Deviation(), results[:1]) is None


@pytest.mark.parametrize(
    ("question", "steps", "verdict", "word"),
    [
        (CounterBound("F", above=2), (step(0, finding("F", 3)),), Verdict.PASS, Word.FAULT),
        (CounterBound("F", above=2), (step(0, finding("F", 2)),), Verdict.PASS, Word.PASS),
        (CounterBound("F", below=-2), (step(0, finding("F", -3)),), Verdict.PASS, Word.FAULT),
        (CounterBound("F", below=-2), (OFF,), Verdict.DEVIATES, Word.FAULT),
        (CounterBound("F", above=2), (OFF,), Verdict.DEVIATES, Word.OTHER),
        (CounterBound("F", step=0, above=2), (OFF,), Verdict.DEVIATES, Word.PASS),
        (CounterBound("F", step=1, above=2), (OFF,), Verdict.DEVIATES, Word.OTHER),
        (CounterBound("x", above=2), (step(0, recorded={"x": 5}),), Verdict.PASS, Word.FAULT),
        (CounterBound("x", above=2), (step(0, finding()),), Verdict.PASS, Word.ABSENT),
        (CounterBound("F", above=2), (step(0, finding("F", None)),), Verdict.PASS, Word.ABSENT),
        (CounterBound("F", above=2), (), Verdict.INFRA, Word.INFRA),
        (CounterBound("F", above=2), (), Verdict.CRASH, Word.OTHER),
    ],
)
def test_a_counter(question: CounterBound, steps: tuple[StepResult, ...], verdict: Verdict, word: Word) -> None:
    assert words(question, result(verdict, *steps)) == [word]


def test_a_cost_is_decided_by_its_interval() -> None:
    base = [result(Verdict.PASS, *(step(n, seconds=0.01 + n / 1e5) for n in range(20)))]
    slow = [result(Verdict.PASS, *(step(n, seconds=0.02 + n / 1e5) for n in range(20)))]
    mixed = [result(Verdict.PASS, *(step(n, seconds=0.01 if n % 2 else 0.02) for n in range(20)))]
    question = CostRatio("touch", 1.5)
    assert [answers(question, None, run, base)[0].word for run in (base, slow, mixed)] == [
        Word.PASS,
        Word.FAULT,
        Word.INCONCLUSIVE,
    ]
    assert answers(CostRatio("punch", 1.5), None, slow, base)[0].word is Word.ABSENT
    assert answers(question, None, [result(Verdict.INFRA)], base)[0].word is Word.INFRA
    with pytest.raises(UsageError):
        narrowest(question, slow)


def test_what_a_run_did_not_decide_counts_once() -> None:
    seen = [Answer(word, "") for word in (Word.PASS, Word.INFRA, Word.INFRA, Word.PASS)]
    assert [answer.word for answer in counted(seen)] == [Word.PASS, Word.PASS, Word.INFRA]


def test_a_case_is_selected_with_its_repetitions() -> None:
    asked = Asked(good="", bad="", deadline=60, question=Deviation(), confidence=0.95, trials=5, expression="all")
    assert narrow(asked, CaseName("smoke", "x[odd]"), 3).expression == "x[odd"
    assert narrow(asked, CaseName("scenario", "held"), 3).expression == "all"
    assert narrow(asked, CaseName("smoke", "x[a b]"), 3).expression == "all"


def test_kernels_that_differ_in_their_name_only_are_one(tmp_path: Path) -> None:
    """The build host's name is in the vmlinux, and the build id follows from it."""

    def made(name: str, mark: bytes, build_id: bytes, code: bytes = b"code") -> Path:
        notes = NOTE.replace(ID, build_id)
        return bzimage(tmp_path / name, gzip(vmlinux(notes) + b"(gmem@" + mark + b")" + code))

    first, second = b"0123456789abcdef", b"fedcba9876543210"
    other_id = bytes(reversed(ID))
    a = identity(made("a", first, ID), first.decode())
    assert a == identity(made("b", second, other_id), second.decode())
    assert a != identity(made("c", second, other_id, b"edoc"), second.decode())
    assert a != identity(made("d", second, other_id), first.decode())
    raw = tmp_path / "raw"
    raw.write_bytes(b"no image (gmem@" + first + b")")
    also = tmp_path / "also"
    also.write_bytes(b"no image (gmem@" + second + b")")
    assert identity(raw, first.decode()) == identity(also, second.decode())
