# SPDX-License-Identifier: GPL-2.0-only
"""What a run shows: on a terminal, into a pipe, as JSON, and under a test run that captures descriptor 1."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.cli.show import final, plain_line, progress
from harness.run.result import CaseResult, Finding, RunInfo, StepResult
from harness.run.verdict import Verdict

HOSTILE = "[bold]x[/nothing] \x1b]0;owned\x07\x1b[2J \x9b31m line\nbreak \udc80"
SECONDS = 60.0


def case(name: str, verdict: Verdict, observed: int = 512, sentence: str = "why it is so") -> CaseResult:
    word = Verdict.PASS if observed == 512 else Verdict.DEVIATES
    judged = Finding(
        counter="nr_file_pages", low=512, high=512, observed=observed, noise=0, verdict=word, reasons=("populate",)
    )
    steps = (StepResult(index=1, text="populate", seconds=0.1, findings=(judged,), recorded={}),)
    return CaseResult(
        suite="conversions",
        case=name,
        claim="a claim",
        verdict=verdict,
        sentence=sentence,
        seconds=1.25,
        steps=() if verdict is Verdict.SKIP else steps,
        evidence="",
    )


def run_info(verdict: Verdict = Verdict.DEVIATES, sentence: str = "one case deviates") -> RunInfo:
    return RunInfo(
        started="",
        finished="",
        verdict=verdict,
        exit_code=verdict.exit_code,
        sentence=sentence,
        kernel={"release": "7.3.4", "version": "#1 SMP Debian 7.3.4-1"},
        design="order0",
        design_evidence=(),
        host={},
        guest_kind="sw-protected",
        qemu={},
        seed=0,
        versions={},
        command=(),
        counts={},
    )


CASES = [
    case("whole", Verdict.PASS),
    case("one_page", Verdict.DEVIATES, observed=511, sentence="a page is missing"),
    case("thp", Verdict.SKIP, sentence="this kernel has no THP"),
]


def test_plain_lines_come_as_cases_end() -> None:
    stdout = io.StringIO()
    with progress(stdout=stdout) as shown:
        shown.note("building the kernel")
        for number, member in enumerate(CASES, 2):
            shown.begin(f"conversions/{member.case}")
            shown.end(member)
            assert stdout.getvalue().count("\n") == number
    assert stdout.getvalue().splitlines() == [
        "building the kernel",
        "pass              1.2 s  conversions/whole  step 1: nr_file_pages +512/+512",
        "deviates          1.2 s  conversions/one_page  step 1: !nr_file_pages +512/+511: a page is missing",
        "skip              1.2 s  conversions/thp: this kernel has no THP",
    ]


def test_the_end_tells_everything_and_where_the_report_is() -> None:
    stdout = io.StringIO()
    final(run_info(), CASES, Path("/some/where"), stdout=stdout)
    assert stdout.getvalue().splitlines() == [
        "",
        "verdict       seconds  case                  predicted/observed",
        "pass              1.2  conversions/whole     step 1: nr_file_pages +512/+512",
        "deviates          1.2  conversions/one_page  step 1: !nr_file_pages +512/+511",
        "                       a page is missing",
        "skip              1.2  conversions/thp",
        "                       this kernel has no THP",
        "",
        "verdict: deviates (exit code 1): one case deviates",
        "kernel:  7.3.4 #1 SMP Debian 7.3.4-1",
        "design:  order0",
        "guest:   sw-protected (SNP stand-in): no memory is encrypted",
        "report:  /some/where/report.html",
    ]


def test_an_end_without_cases() -> None:
    stdout = io.StringIO()
    final(run_info(Verdict.NO_BOOT), [], Path("/o"), stdout=stdout)
    assert stdout.getvalue().startswith("no case was run\nverdict: no-boot (exit code 7)")


def test_json_is_one_object_on_standard_output_and_progress_is_elsewhere() -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    with progress(json_output=True, stdout=stdout, stderr=stderr) as shown:
        shown.end(CASES[0])
    assert stdout.getvalue() == ""
    assert "conversions/whole" in stderr.getvalue()
    final(run_info(), CASES, Path("/o"), json_output=True, stdout=stdout)
    assert stdout.getvalue().count("\n") == 1
    whole = json.loads(stdout.getvalue())
    assert sorted(whole) == ["cases", "out", "report", "run"]
    assert [member["verdict"] for member in whole["cases"]] == ["pass", "deviates", "skip"]
    assert (whole["run"]["exit_code"], whole["report"]) == (1, "/o/report.html")
    assert json.dumps(whole, sort_keys=True) == json.dumps(whole)


def test_hostile_text_cannot_steer_a_terminal_or_a_reader_of_lines() -> None:
    hostile = case(HOSTILE, Verdict.CRASH, sentence=HOSTILE)
    stdout = io.StringIO()
    with progress(stdout=stdout) as shown:
        shown.note(HOSTILE)
        shown.end(hostile)
    final(run_info(Verdict.CRASH, HOSTILE), [hostile], Path("/o"), stdout=stdout)
    text = stdout.getvalue()
    assert "[bold]x[/nothing]" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)
    assert len(text.splitlines()) == len(text.split("\n")) - 1 == 2 + 5 + 5
    assert "\n" not in plain_line(hostile)
    final(run_info(Verdict.CRASH, HOSTILE), [hostile], Path("/o"), json_output=True, stdout=stdout)


PLAY = """
import os, sys, time
sys.path.insert(0, {folder!r})
from pathlib import Path
from test_cli_show import CASES, HOSTILE, case, run_info
from harness.cli.show import final, progress
from harness.run.verdict import Verdict
cases = [*CASES, case(HOSTILE, Verdict.CRASH, sentence=HOSTILE)]
with progress() as shown:
    saved = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # as pytest does while a case runs
    shown.note("a note " + HOSTILE)
    for member in cases:
        shown.begin("conversions/" + member.case)
        time.sleep({pause})
        shown.end(member)
    time.sleep({pause})
    os.dup2(saved, 1)
final(run_info(), cases, Path("/o"))
"""


def play(stdout: int, pause: float, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    script = PLAY.format(folder=str(Path(__file__).parent), pause=pause)
    return subprocess.Popen([sys.executable, "-c", script], stdout=stdout, env={**os.environ, **environment})


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_lines_pass_a_capture_of_descriptor_1(encoding: str) -> None:
    with play(subprocess.PIPE, 0, {"PYTHONIOENCODING": encoding}) as process:
        text = process.communicate(timeout=SECONDS)[0].decode(encoding)
    assert process.returncode == 0
    assert text.count("conversions/whole") == 2
    assert text.endswith("report:  /o/report.html\n")
    assert "\x1b" not in text


def on_a_terminal(pause: float, **environment: str) -> str:
    """Everything a process writes to a terminal of its own."""
    ours, theirs = os.openpty()
    parts = []
    with play(theirs, pause, {"TERM": "xterm", "COLUMNS": "100", "LINES": "12", **environment}) as process:
        os.close(theirs)
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:  # EIO: the other end is closed, which is how Linux ends a terminal
            pass
        finally:
            os.close(ours)
        process.wait(timeout=SECONDS)
    assert process.returncode == 0
    return b"".join(parts).decode("utf-8")


def test_a_terminal_gets_a_live_table_and_then_the_whole_one() -> None:
    written = on_a_terminal(0.6)
    live, _, end = written.partition("\x1b[?25h")  # the cursor comes back: the live table is over
    assert "…" in live
    assert "conversions/whole" in live
    assert "a note [bold]x[/nothing]" in live
    plain = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", end)
    for text in ("│ pass ", "│ deviates ", "│ skip ", "│ crash ", "+512/+511", "a page is missing", "7.3.4 #1 SMP"):
        assert text in plain
    assert "report:  /o/report.html" in plain


def test_a_terminal_gets_no_sequence_of_a_guest() -> None:
    written = on_a_terminal(0.0)
    for sequence in ("\x1b]0;", "\x07", "\x1b[2J", "\x9b"):
        assert sequence not in written


def test_a_terminal_that_can_do_nothing_gets_plain_lines() -> None:
    written = on_a_terminal(0.0, TERM="dumb")
    assert "pass              1.2 s  conversions/whole  step 1" in written
    assert "\x1b" not in written
