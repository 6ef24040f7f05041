# SPDX-License-Identifier: GPL-2.0-only
"""The board of planted faults, with a ``gmem`` of paper: what counts as caught, what is run again, what is told."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from harness.run.result import CaseResult
from harness.run.verdict import Verdict
from tests.planted import __main__ as program
from tests.planted.board import BEGIN, END, Line, markdown, put_into, text, total
from tests.planted.faults import Fault, load, load_all
from tests.planted.looking import Ended, look_at, look_at_healthy, result_of
from tests.planted.results import CASES, SELFTESTS, WHOLE, Book, Result, key_of, shown
from tests.unit.report_records import case, finding, run_info, step
from tests.unit.test_planted_records import planted

LEAK = case(
    "one_chunk",
    Verdict.DEVIATES,
    step(0, finding("nr_unevictable", -1, -1), finding("F", 512, 480, verdict=Verdict.DEVIATES)),
    sentence="F: predicted +512, observed +480 after step 0",
)
FINE = case("rest")


class Paper:
    """A ``gmem`` that builds nothing and says what it is told to, by what is in the command line."""

    def __init__(self, tmp_path: Path) -> None:
        self.said: list[list[str]] = []
        self.image = tmp_path / "bzImage"
        (tmp_path / "meta.json").write_text('{"seconds": 12.5}')
        self.fails: dict[str, list[CaseResult]] = {}
        self.verdicts: dict[str, Verdict] = {}
        self.ends: dict[str, Ended | BaseException] = {}

    def __call__(self, arguments: Sequence[str], deadline: float) -> Ended:
        words = list(arguments)
        self.said.append(words)
        patch = Path(words[words.index("--patch") + 1]).stem if "--patch" in words else ""
        for name in (f"{words[0]} {patch}", words[0]):
            if name in self.ends:
                end = self.ends[name]
                if isinstance(end, BaseException):
                    raise end
                return end
        if words[0] == "kernel":
            return Ended(0, f'{{"image": "{self.image}"}}', "", 1.0)
        out = Path(words[words.index("--out") + 1])
        out.mkdir(parents=True)
        cases = self.fails.get(f"{words[0]} {patch}", [FINE])
        verdict = self.verdicts.get(f"{words[0]} {patch}", cases[-1].verdict)
        (out / "run.json").write_bytes(msgspec.json.encode(run_info(verdict)))
        (out / "results.jsonl").write_bytes(b"".join(msgspec.json.encode(result) + b"\n" for result in cases))
        return Ended(verdict.exit_code, "", "", 3.0)

    def ran(self) -> int:
        """Runs of suites and selftests so far."""
        return sum(words[0] != "kernel" for words in self.said)


@pytest.fixture
def paper(tmp_path: Path) -> Paper:
    return Paper(tmp_path)


@pytest.fixture
def fault(tmp_path: Path) -> Fault:
    folder = tmp_path / "faults"
    folder.mkdir()
    return load("leak", planted(folder, words="leave the page cache"))


def board(paper: Paper, fault: Fault, tmp_path: Path, *, selftests: bool = False, resume: bool = False) -> list[Line]:
    return list(program.board_lines([fault], CASES, selftests, resume, tmp_path / "out", paper))


def test_a_fault_that_is_named_is_caught_with_case_counter_and_reason(
    paper: Paper, fault: Fault, tmp_path: Path
) -> None:
    paper.fails["run leak"] = [FINE, LEAK]
    line, healthy = board(paper, fault, tmp_path)
    assert healthy.holds
    assert healthy.said == "passes"
    assert line.holds
    assert (line.said, line.by) == ("caught", "conversions/one_chunk: F +512/+480")
    assert line.result is not None
    assert line.result.reason == "punch: 512 present pages of g0.r0 leave the page cache"
    assert (line.result.build_seconds, line.result.seconds) == (12.5, 3.0)
    assert total([line, healthy]) == "caught and named: 1 of 1 planted faults; without a fault 7.3 pass the same cases"


def test_the_page_says_who_caught_it_and_what_the_selftests_say(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    paper.fails["run leak"] = [FINE, LEAK]
    rows = markdown(board(paper, fault, tmp_path, selftests=True), "command").splitlines()
    assert "| 7.3 | `leak` | 1 | 12, 3 | conversions/one_chunk: `F +512/+480` | pass |" in rows
    assert "| 7.3 | (no fault) | 0 | 12, 3 | passes | pass |" in rows


def test_a_fault_that_passes_is_missed(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    lines = board(paper, fault, tmp_path)
    assert not lines[0].holds
    assert "MISSED: the verdict is pass and should be deviates" in text(lines)
    assert "caught and named: 0 of 1" in text(lines)
    assert "**MISSED: the verdict is pass and should be deviates**" in markdown(lines, "command")


def test_the_selftests_can_be_asked_alone(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    """What the harness said before stays on the board beside what they say now."""
    paper.fails["run leak"] = [FINE, LEAK]
    board(paper, fault, tmp_path)
    paper.said.clear()
    program.ask_selftests([fault], False, tmp_path / "out", paper)
    assert [words[0] for words in paper.said] == ["kernel", "selftests"] * 2
    line, healthy = program.known_lines([fault], CASES, tmp_path / "out")
    assert (line.said, line.own_tests, healthy.own_tests) == ("caught", "pass (missed)", "pass")
    paper.said.clear()
    program.ask_selftests([fault], True, tmp_path / "out", paper)
    assert not paper.said


@pytest.mark.parametrize(
    "wrong",
    [
        case("one", Verdict.DEVIATES, step(0, finding("nr_anon_pages", 0, 1, verdict=Verdict.DEVIATES))),
        case("one", Verdict.DEVIATES, step(0, finding("F", 0, 1, verdict=Verdict.DEVIATES, reasons=("zap: it goes",)))),
        case("one", Verdict.DEVIATES, step(0, finding("F", 0, 0))),
        case("one", Verdict.DEVIATES, step(0, finding("F2", 0, 1, verdict=Verdict.DEVIATES))),
    ],
    ids=["another counter", "other words", "as predicted", "a part of the name"],
)
def test_a_deviation_that_does_not_name_the_fault_is_missed(
    paper: Paper, fault: Fault, tmp_path: Path, wrong: CaseResult
) -> None:
    paper.fails["run leak"] = [wrong]
    line, _ = board(paper, fault, tmp_path)
    assert line.said == "MISSED: no case says what it should: a counter F|pgfree with the words 'leave the page cache'"


def test_without_a_counter_a_message_or_the_sentence_tells(fault: Fault) -> None:
    fault = msgspec.structs.replace(fault, counter="", words="do not hold zeroes")
    told = msgspec.structs.replace(step(0), messages=("3 pages of g0.r0 do not hold zeroes",))
    found = shown(fault, [FINE, case("zero", Verdict.DEVIATES, told)])
    assert found is not None
    assert (found.case, found.counter, found.reason) == ("conversions/zero", "", "3 pages of g0.r0 do not hold zeroes")
    assert shown(fault, [case("zero", Verdict.PASS, told)]) is None


def test_the_wrong_verdict_is_missed_also_if_the_words_are_there(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    paper.fails["run leak"], paper.verdicts["run leak"] = [LEAK], Verdict.CRASH
    line, _ = board(paper, fault, tmp_path)
    assert line.said == "MISSED: the verdict is crash and should be deviates"


def test_a_testbed_that_fails_decides_nothing(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    paper.verdicts["run leak"] = Verdict.INFRA
    line, _ = board(paper, fault, tmp_path)
    assert not line.holds
    assert line.said == "UNDECIDED: sentence of the run"


def test_a_healthy_kernel_that_fails_is_told(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    paper.fails["run leak"] = paper.fails["run "] = [LEAK]
    lines = board(paper, fault, tmp_path)
    assert lines[1].said == "FAILS: sentence of the run"
    assert "WITHOUT A FAULT 7.3 does not pass the same cases" in text(lines)


def test_a_patch_that_no_longer_applies_is_one_sentence(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    sentence = "the patch leak.patch does not apply: hunk 1 for mm/truncate.c (line 7) finds other text there"
    paper.ends["kernel leak"] = Ended(4, "", f"kernel: build 0 %\ngmem: {sentence}\n", 0.1)
    line, _ = board(paper, fault, tmp_path)
    assert line.said == f"UNDECIDED: {sentence}"


def test_a_run_that_never_ends_is_one_sentence(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    paper.ends["run leak"] = subprocess.TimeoutExpired(["python", "-m", "harness.cli.main", "run"], 3600.0)
    line, _ = board(paper, fault, tmp_path)
    assert line.said == "UNDECIDED: gmem run did not end within 3600 s"


def test_the_kernels_own_selftests_stand_beside_it(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    paper.fails["run leak"] = [LEAK]
    line, healthy = board(paper, fault, tmp_path, selftests=True)
    assert (healthy.own_tests, line.own_tests) == ("pass", "pass (missed)")
    assert total([line, healthy]).startswith(
        "caught and named: 1 of 1 planted faults; the kernel's own selftests fail on 0 of 1"
    )
    paper.fails["selftests leak"] = [case("guest_memfd_test", Verdict.DEVIATES, suite="selftests")]
    line, healthy = board(paper, fault, tmp_path, selftests=True)
    assert line.own_tests == "guest_memfd_test deviates"
    assert line.holds, "what the selftests say does not decide about the harness"
    assert "fail on 1 of 1" in text([line, healthy])


def test_what_is_known_and_unchanged_is_not_run_again(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    paper.fails["run leak"] = [LEAK]
    first = board(paper, fault, tmp_path, selftests=True)
    assert paper.ran() == 4
    assert board(paper, fault, tmp_path, selftests=True, resume=True) == first
    assert paper.ran() == 4
    board(paper, fault, tmp_path)
    assert paper.ran() == 6, "only when it is asked for"


@pytest.mark.parametrize("change", ["patch", "record"])
def test_a_changed_fault_is_run_again(paper: Paper, fault: Fault, tmp_path: Path, change: str) -> None:
    board(paper, fault, tmp_path)
    if change == "patch":
        fault.patch.write_text("--- a/mm/filemap.c\n+++ b/mm/filemap.c\n")
    else:
        fault = msgspec.structs.replace(fault, words="another")
    board(paper, fault, tmp_path, resume=True)
    assert paper.ran() == 3, "the healthy kernel's result stands"


def test_what_was_undecided_is_run_again(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    paper.verdicts["run leak"] = Verdict.INFRA
    board(paper, fault, tmp_path)
    paper.verdicts.clear()
    paper.fails["run leak"] = [LEAK]
    line, _ = board(paper, fault, tmp_path, resume=True)
    assert line.holds
    assert paper.ran() == 3


def test_a_board_that_is_interrupted_keeps_what_it_has(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    paper.ends["run leak"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        board(paper, fault, tmp_path)
    book = Book(tmp_path / "out")
    assert book.read() == []
    book.append(Result(fault="", kernel="7.3", way=CASES, key="", verdict=Verdict.PASS))
    with book.path.open("ab") as stream:
        stream.write(b'{"fault": "le')
    assert [result.fault for result in book.read()] == [""], "a line that was cut off is none"


def test_a_key_is_of_what_judges(fault: Fault, tmp_path: Path) -> None:
    for folder in ("harness/kernel", "harness/run", "harness/model", "suites", "guest-images", "host-configs"):
        (tmp_path / folder).mkdir(parents=True)

    def keys() -> tuple[str, str]:
        return tuple(key_of(fault, "7.3", way, (), tmp_path) for way in (CASES, SELFTESTS))  # type: ignore[return-value]

    first = keys()
    (tmp_path / "harness" / "model" / "rules.py").write_text("x")
    second = keys()
    assert second[0] != first[0]
    assert second[1] == first[1], "the model has no part in selftests"
    (tmp_path / "host-configs" / "selftests.yaml").write_text("x")
    assert keys()[1] != first[1]


def test_the_healthy_kernel_is_asked_for_all_cases_of_its_faults(fault: Fault) -> None:
    other = msgspec.structs.replace(fault, cases="integrity -k neighbours")
    look = look_at_healthy("7.3", CASES, [fault, other, fault])
    assert look.runs == (
        ("smoke", "conversion", "-k", "one_page or (there and back)"),
        ("integrity", "-k", "neighbours"),
    )
    assert look_at_healthy("7.3", WHOLE, [fault, other]).runs == look_at(fault, WHOLE).runs
    assert "c12_repetition" in look_at(fault, WHOLE).runs[0]


def test_the_healthy_kernel_is_as_good_as_its_worst_run(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    other = msgspec.structs.replace(fault, cases="integrity -k neighbours")
    look = look_at_healthy("7.3", CASES, [fault, other])
    paper.fails["run "] = [FINE, LEAK]
    found, _ = result_of(look, Book(tmp_path / "out"), tmp_path / "out", False, paper)
    assert (found.verdict, found.seconds, found.missed) == (Verdict.DEVIATES, 6.0, "sentence of the run")
    assert found.cases == {"conversions/rest": "pass", "conversions/one_chunk": "deviates"}


def test_the_page_takes_the_board_between_its_marks() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    done = put_into(page, f"{BEGIN}\nnew\n{END}")
    assert done == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(ValueError, match="has no lines"):
        put_into("nothing", "new")


def test_a_cell_does_not_break_the_table(fault: Fault) -> None:
    result = Result(fault="leak", kernel="7.3", way=CASES, key="", verdict=Verdict.DEVIATES, missed="a | b\nc")
    rows = markdown([Line("7.3", fault, result)], "python -m tests.planted").splitlines()
    [row] = [row for row in rows if row.startswith("| 7.3 |")]
    assert "a \\| b c" in row


def test_the_program_ends_with_what_it_found(
    paper: Paper, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "gmem", paper)
    words = ["--faults", str(fault.patch.parent), "--out", str(tmp_path / "out")]
    missed = CliRunner().invoke(program.main, words)
    assert missed.exit_code == 1, missed.output
    assert "MISSED" in missed.output
    paper.fails["run leak"] = [LEAK]
    caught = CliRunner().invoke(program.main, [*words, "leak"])
    assert caught.exit_code == 0, caught.output
    assert "python -m tests.planted leak" in (tmp_path / "out" / "board.md").read_text()
    paper.ends["run leak"] = KeyboardInterrupt()
    assert CliRunner().invoke(program.main, words).exit_code == 2
    unknown = CliRunner().invoke(program.main, [*words, "leek"])
    assert unknown.exit_code == 2
    assert "there is no planted fault leek" in unknown.output
    assert "no fault is planted in 6.12" in CliRunner().invoke(program.main, [*words, "--kernel", "6.12"]).output


def test_what_is_known_can_be_shown_without_a_run(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    paper.fails["run leak"] = [LEAK]
    made = board(paper, fault, tmp_path, selftests=True)
    assert list(program.known_lines([fault], CASES, tmp_path / "out")) == made
    changed = msgspec.structs.replace(fault, words="the page cache")
    line, healthy = program.known_lines([changed], CASES, tmp_path / "out")
    assert line.said == "EARLIER STATE: caught"
    assert not line.holds, "what was caught once may not be now"
    assert healthy.holds
    assert paper.ran() == 4
    assert total([Line("7.3", None, None)]).endswith("; without a fault 7.3 was not asked in this state")
    other = msgspec.structs.replace(fault, name="other")
    assert [line.said for line in program.known_lines([other], CASES, tmp_path / "out")] == ["not run", "passes"]


def test_one_result_is_enough_to_continue(paper: Paper, fault: Fault, tmp_path: Path) -> None:
    book = Book(tmp_path / "out")
    look = look_at(fault, CASES)
    _, known = result_of(look, book, tmp_path / "out", True, paper)
    assert not known
    _, known = result_of(look, book, tmp_path / "out", True, paper)
    assert known
    assert load_all(folder=fault.patch.parent) == [fault]
