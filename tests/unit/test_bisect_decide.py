# SPDX-License-Identifier: GPL-2.0-only
"""The decision of a bisection: right for every position, every skip and any bad luck, in as few builds as can be."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bisect.ahead import ahead, earliest
from harness.bisect.confidence import confidence_of, halvings, miss, passes_needed
from harness.bisect.decide import (
    Candidate,
    Found,
    Mark,
    Policy,
    Suspects,
    Try,
    Word,
    decide,
    in_a_row,
    judge,
)


@dataclass
class Paper:
    """A line of candidates ``0`` (good) to ``n`` (bad), of which ``first`` is the first bad one."""

    count: int
    first: int
    skipped: frozenset[int] = frozenset()
    seed: int = 0
    infra: float = 0.0
    rate: float = 1.0
    policy: Policy = field(default_factory=Policy)
    built: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)

    def word(self, name: str) -> Word:
        if self.draw.random() < self.infra:
            return Word.INFRA
        if int(name) in self.skipped:
            return self.draw.choice([Word.NO_BUILD, Word.NO_BOOT, Word.OTHER])
        return Word.FAULT if int(name) >= self.first and self.draw.random() < self.rate else Word.PASS

    def verdict(self, name: str) -> Mark:
        """As the driver does it: attempts until there is a verdict."""
        self.built.append(name)
        words: list[Word] = []
        while (judgement := judge(words, self.policy)).mark is Mark.OPEN:
            words += [self.word(name) for _ in range(judgement.missing)]
        return judgement.mark

    def search(self) -> Found | Suspects:
        names = [str(n) for n in range(self.count + 1)]
        marks = {names[0]: Mark.GOOD, names[-1]: Mark.BAD}
        bad = names[-1]
        while True:
            goods = [name for name, mark in marks.items() if mark is Mark.GOOD]
            decision = decide(in_a_row(names, bad, goods), bad, marks)
            if not isinstance(decision, Try):
                return decision
            assert decision.name not in marks, "nothing is tried twice"
            marks[decision.name] = self.verdict(decision.name)
            if marks[decision.name] is Mark.BAD:
                bad = decision.name


@st.composite
def papers(draw: st.DrawFn, skips: bool = False) -> Paper:
    count = draw(st.integers(1, 200))
    first = draw(st.integers(1, count))
    skipped = (
        draw(st.frozensets(st.integers(1, max(1, count - 1)), max_size=count)) if skips and count > 1 else frozenset()
    )
    return Paper(count, first, skipped, draw(st.integers(0, 1 << 30)), infra=0.2)


@given(papers())
def test_every_position_is_found_in_as_many_builds_as_halvings(paper: Paper) -> None:
    """With one attempt in five lost to the testbed; both ends are known."""
    assert paper.search() == Found(str(paper.first))
    assert len(paper.built) <= math.ceil(math.log2(paper.count)) + 1


@settings(max_examples=300)
@given(papers(skips=True))
def test_skips_never_make_the_answer_wrong(paper: Paper) -> None:
    """Found only if both sides of the edge were judged; else the suspects hold it, and those between were skipped."""
    answer = paper.search()
    if isinstance(answer, Found):
        assert answer.name == str(paper.first)
        return
    assert str(paper.first) in answer.names
    numbers = sorted(map(int, answer.names))
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert set(numbers[:-1]) <= paper.skipped
    assert int(answer.names[-1]) == numbers[-1] not in paper.skipped
    assert numbers[0] - 1 not in paper.skipped, "the good one right before the suspects was judged"


@given(papers(skips=True))
def test_a_few_skips_cost_a_few_builds(paper: Paper) -> None:
    paper.search()
    assert len(paper.built) <= 2 * (math.ceil(math.log2(paper.count)) + 1) + len(paper.skipped)


@given(papers(skips=True))
def test_the_same_verdicts_give_the_same_way(paper: Paper) -> None:
    again = Paper(paper.count, paper.first, paper.skipped, paper.seed, paper.infra)
    assert paper.search() == again.search()
    assert paper.built == again.built


@given(papers(), st.integers(2, 5))
def test_tried_ahead_the_answer_is_the_same_in_fewer_rounds(paper: Paper, jobs: int) -> None:
    """Verdicts on what lies behind another bad one are kept and change nothing."""
    names = [str(n) for n in range(paper.count + 1)]
    row = partial(in_a_row, names)
    marks = {names[0]: Mark.GOOD}
    rounds = 0
    while True:
        goods = [name for name, mark in marks.items() if mark is Mark.GOOD]
        bad = earliest(row, names[-1], [name for name, mark in marks.items() if mark is Mark.BAD], goods)
        batch = ahead(row, bad, goods, marks, jobs)
        if not batch:
            break
        assert batch[0] == getattr(decide(row(bad, goods), bad, marks), "name", "")
        assert len(set(batch) - set(marks)) == len(batch) <= jobs
        marks |= {name: paper.verdict(name) for name in batch}
        rounds += 1
    assert decide(row(bad, goods), bad, marks) == Found(str(paper.first))
    assert rounds <= halvings(paper.count)
    if jobs >= 3:
        assert rounds <= math.ceil(halvings(paper.count) / 2)


def test_a_testbed_that_always_fails_gives_suspects_and_no_answer() -> None:
    paper = Paper(8, 3, infra=1.0)
    assert paper.search() == Suspects((*[name for name in paper.search().names[:-1]], "8"))  # type: ignore[union-attr]
    assert set(paper.search().names) == {str(n) for n in range(1, 9)}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "mark"),
    [
        ([Word.FAULT], Mark.BAD),
        ([Word.PASS, Word.INFRA, Word.FAULT], Mark.BAD),
        ([Word.OTHER, Word.FAULT], Mark.BAD),
        ([Word.PASS], Mark.OPEN),
        ([Word.PASS, Word.PASS], Mark.GOOD),
        ([Word.PASS, Word.INFRA, Word.PASS], Mark.GOOD),
        ([Word.PASS, Word.PASS, Word.OTHER], Mark.SKIP),
        ([Word.NO_BUILD], Mark.SKIP),
        ([Word.NO_BOOT], Mark.SKIP),
        ([Word.ABSENT], Mark.SKIP),
        ([Word.INFRA] * 7, Mark.OPEN),
        ([Word.INFRA] * 4 + [Word.INCONCLUSIVE] * 4, Mark.SKIP),
        ([Word.INFRA] * 8 + [Word.PASS] * 2, Mark.GOOD),
        ([], Mark.OPEN),
    ],
)
def test_the_verdict_on_one_candidate(words: list[Word], mark: Mark) -> None:
    assert judge(words, Policy(passes=2)).mark is mark


@given(st.lists(st.sampled_from([word for word in Word if word is not Word.NOTHING])), st.integers(1, 5))
def test_trouble_of_the_testbed_is_never_good_or_bad(words: list[Word], passes: int) -> None:
    found = judge(words, Policy(passes=passes))
    without = judge([word for word in words if word not in (Word.INFRA, Word.INCONCLUSIVE)], Policy(passes=passes))
    if found.mark in (Mark.GOOD, Mark.BAD) or without.mark in (Mark.GOOD, Mark.BAD):
        assert found.mark is without.mark
    if found.mark is Mark.OPEN:
        assert 0 < found.missing <= passes


def test_only_the_bad_end_left_is_found() -> None:
    assert decide([Candidate("bad", 0)], "bad", {}) == Found("bad")


def test_behind_a_skip_not_its_neighbour_is_tried() -> None:
    """Commits that do not build come in rows: beside the first one lies the next."""
    names = [str(n) for n in range(101)]
    skipped = {str(n): Mark.SKIP for n in range(50, 51)}
    [best, *_] = in_a_row(names, "100", ["0"])
    assert best.name == "50"
    tried = decide(in_a_row(names, "100", ["0"]), "100", skipped)
    assert isinstance(tried, Try)
    assert abs(int(tried.name) - 50) > 1


def test_a_row_has_the_middle_first_and_the_bad_end_last() -> None:
    row = in_a_row(list("abcdefgh"), "h", ["a"])
    assert {candidate.name for candidate in row} == set("bcdefgh")
    assert (row[0].name, row[0].rules_out) == ("d", 3)
    assert row[-1] == Candidate("h", 0)


# -- how sure


def test_passes_grow_with_what_is_not_known_of_the_rate() -> None:
    assert passes_needed(5, 5, candidates=64, confidence=0.95) == 3
    assert passes_needed(100, 100, candidates=64, confidence=0.95) == 1
    assert (
        passes_needed(3, 5, candidates=64, confidence=0.95) > passes_needed(12, 20, candidates=64, confidence=0.95) > 3
    )
    assert halvings(64) == 6


@given(st.integers(1, 30), st.integers(0, 30), st.integers(1, 1000), st.floats(0.5, 0.999))
def test_passes_keep_the_promise_or_reach_the_bound(shown: int, more: int, candidates: int, confidence: float) -> None:
    trials = shown + more
    passes = passes_needed(shown, trials, candidates=candidates, confidence=confidence)
    if passes < 200:
        assert confidence_of(shown, trials, [passes] * halvings(candidates)) >= confidence - 1e-9
    assert miss(shown, trials, passes) <= miss(shown, trials, 1)


def test_a_fault_that_shows_now_and_then_is_found_as_often_as_promised() -> None:
    """The rate is drawn as the prior says, measured in 20 trials, and the commit is found with the passes of that."""
    draw = random.Random(7)
    right = rounds = 0
    for number in range(1500):
        rate = draw.betavariate(0.5, 0.5)
        shown = sum(draw.random() < rate for _ in range(20))
        if shown < 5:  # the driver would say that it needs too many passes
            continue
        passes = passes_needed(shown, 20, candidates=32, confidence=0.9)
        paper = Paper(32, draw.randint(1, 32), seed=number, infra=0.2, rate=rate, policy=Policy(passes=passes))
        rounds += 1
        right += paper.search() == Found(str(paper.first))
    assert rounds > 900
    assert right / rounds >= 0.9
