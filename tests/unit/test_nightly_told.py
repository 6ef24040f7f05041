# SPDX-License-Identifier: GPL-2.0-only
"""What is remembered of cells, which deviations ask for a bisection, and what is kept of old runs."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.history.judgement import CaseStatus, Rate, Result, Spell
from harness.history.record import Line
from harness.nightly import leftovers, once
from harness.nightly.job import fresh
from harness.nightly.leftovers import end_all, marked
from harness.nightly.matrix import Login, parse_matrix
from harness.nightly.once import tip
from harness.nightly.place import MARK, Place, Running, default_state, free_port
from harness.nightly.steps import make_room
from harness.nightly.told import Told, read_told, remember
from harness.nightly.web import users
from harness.run.verdict import Verdict

OLD, NEW = "a" * 40, "b" * 40
LINE = Line("next", "topic", "emulated", "snp-stand-in", "order0")


def told(verdict: Verdict, ended: str, commit: str = "", bisection: str = "") -> Told:
    return Told(
        verdict=verdict, since=ended, ended=ended, seconds=1.0, tries=1, commit=commit, link="", folder="",
        bisection=bisection,
    )  # fmt: skip


def test_since_when_a_verdict_is_so(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert read_told(place, "cell") is None
    for verdict, ended, since in (
        (Verdict.PASS, "1", "1"),
        (Verdict.PASS, "2", "1"),
        (Verdict.DEVIATES, "3", "3"),
        (Verdict.DEVIATES, "4", "3"),
        (Verdict.PASS, "5", "5"),
    ):
        remember(place, "cell", told(verdict, ended))
        kept = read_told(place, "cell")
        assert kept is not None
        assert (kept.ended, kept.since) == (ended, since)


def test_a_bisection_stays_with_the_commit_it_is_about(tmp_path: Path) -> None:
    place = Place(tmp_path)
    remember(place, "cell", told(Verdict.DEVIATES, "1", NEW, "key"))
    assert remember(place, "cell", told(Verdict.DEVIATES, "2", NEW)).bisection == "key"
    assert remember(place, "cell", told(Verdict.DEVIATES, "3", OLD)).bisection == ""


def result(run: str, verdict: Verdict, commit: str) -> Result:
    return Result(
        place=run, verdict=verdict, signature="", sentence="", reason="", seconds=1.0, run=run, started=run,
        release="7.3", build=commit, commit=commit, folder="", evidence="",
    )  # fmt: skip


def status(first: str, good: Result | None, commit: str = NEW) -> CaseStatus:
    """A case whose newest result, of run "now", deviates since the run ``first``."""
    newest = result("now", Verdict.DEVIATES, commit)
    begun = newest if first == "now" else result(first, Verdict.DEVIATES, commit)
    return CaseStatus(
        line=LINE, case="smoke/one_page", newest=newest, decided=newest, spell=Spell(begun, good),
        rate=Rate(1, 1, 0, 1), flaky=False, undecided=0, window=(), quarantine=None, expired=None,
    )  # fmt: skip


GOOD = result("before", Verdict.PASS, OLD)


@pytest.mark.parametrize(
    ("cases", "range_", "sentence"),
    [
        ([status("now", GOOD)], (OLD, NEW), "1 new, smoke/one_page was good at aaaaaaaaaaaa"),
        ([status("before", None), status("now", GOOD)], (OLD, NEW), "1 new"),
        ([status("before", GOOD)], ("", ""), "1 deviations, known before"),
        ([status("now", None)], ("", ""), "1 new, and no good commit before"),
        ([status("now", result("before", Verdict.PASS, ""))], ("", ""), "1 new, and no good commit before"),
        ([status("now", result("before", Verdict.PASS, NEW))], ("", ""), "1 new, and no good commit before"),
        ([], ("", ""), "no deviation that decides"),
    ],
)
def test_what_asks_for_a_bisection(cases: list[CaseStatus], range_: tuple[str, str], sentence: str) -> None:
    found = fresh(cases, "now")
    assert (found.good, found.bad) == range_
    assert found.sentence.startswith(sentence)


def test_what_is_in_quarantine_asks_for_nothing() -> None:
    case = dataclasses.replace(status("now", GOOD), quarantine=object())  # type: ignore[arg-type]
    assert fresh([case], "now").good == ""


def test_the_newest_runs_are_kept(tmp_path: Path) -> None:
    make_room(tmp_path / "nothing", 3)
    for number in range(12):
        (tmp_path / f"{number:08d}-1").mkdir()
    make_room(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000009-1", "00000010-1", "00000011-1"]
    make_room(tmp_path, 1)
    assert len(list(tmp_path.iterdir())) == 2, "one that runs, and the one before"


def test_processes_are_found_by_their_mark_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_END_SECONDS", 0.5)
    assert marked(tmp_path) == []
    assert end_all(tmp_path, 0.1) == 0
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", stubborn], env={MARK: str(tmp_path)}, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process:
        process.stdout.readline()
        assert [one.pid for one in marked(tmp_path)] == [process.pid]
        assert marked(tmp_path / "another") == []
        began = time.monotonic()
        assert end_all(tmp_path, 0.1) == 1
        assert time.monotonic() - began < 30
    assert marked(tmp_path) == []


def test_the_owner_is_who_holds_the_lock(tmp_path: Path) -> None:
    place = Place(tmp_path / "state")
    assert place.running() is None
    assert place.owner() is None
    place.set_running(Running(os.getpid(), "http://127.0.0.1:1/", "today"))
    assert place.running() is None, "it is gone"
    with place.lock("test"):
        assert place.owner() == os.getpid()
        running = place.running()
        assert running is not None
        assert running.url == "http://127.0.0.1:1/"
    assert place.running() is None
    place.set_running(None)


def test_where_the_state_is() -> None:
    assert default_state({"XDG_STATE_HOME": "/s"}) == Path("/s/gmem-harness/nightly")
    assert default_state({}).parts[-4:] == (".local", "state", "gmem-harness", "nightly")


def test_settings_keep_ports_and_password(tmp_path: Path) -> None:
    matrix = tmp_path / "m.yaml"
    matrix.write_text('schema: 1\nkernels: {"7.3": }\nhosts: {emulated: }\nsuites: {smoke: }\n')
    place = Place(tmp_path / "state")
    with pytest.raises(UsageError, match="no state folder of gmem nightly"):
        place.settings()
    first = place.choose(matrix, timers=True)
    assert place.settings() == first
    assert (place.path / "settings.json").stat().st_mode & 0o777 == 0o600
    assert place.choose(matrix, timers=True) == first
    assert free_port() != 0


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        ("someone:long enough a word\n# a note\n\nother:colons: are : fine\n", 0o600, ""),
        ("someone:long enough a word\n", 0o644, "others may read it: chmod 600"),
        ("someone:short\n", 0o600, "line 1 is not NAME:PASSWORD with 12 characters"),
        ("someone\n", 0o600, "line 1 is not NAME:PASSWORD"),
        ("gmem-nightly:long enough a word\n", 0o600, "line 1 is not NAME:PASSWORD"),
        ("# nobody\n", 0o600, "names nobody"),
    ],
)
def test_the_file_of_users(tmp_path: Path, text: str, mode: int, sentence: str) -> None:
    path = tmp_path / "users"
    path.write_text(text)
    path.chmod(mode)
    if not sentence:
        assert users(Login(str(path))) == {"someone": "long enough a word", "other": "colons: are : fine"}
        return
    with pytest.raises(UsageError, match=sentence):
        users(Login(str(path)))


def test_users_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        users(Login(str(tmp_path / "none")))


def test_the_tip_of_a_branch(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q", "-b", "topic"], check=True, timeout=60)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True, timeout=60)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, timeout=60, capture_output=True, text=True)
    for place in (str(tmp_path), f"file://{tmp_path}"):
        assert tip(place, "topic") == head.stdout.strip()
        with pytest.raises(UsageError, match="none"):
            tip(place, "none")


def test_the_worst_of_all_cells() -> None:
    matrix = parse_matrix(
        'schema: 1\nkernels: {"7.3": , "6.12": }\nhosts: {emulated: }\nsuites: {smoke: }\n', Path("m")
    )
    first, second = matrix.cells()
    assert once.verdict({first: told(Verdict.PASS, "1"), second: told(Verdict.PASS, "1")}) is Verdict.PASS
    assert once.verdict({first: told(Verdict.INFRA, "1"), second: told(Verdict.DEVIATES, "1")}) is Verdict.DEVIATES
    assert once.verdict({first: None, second: told(Verdict.DEVIATES, "1")}) is Verdict.INTERRUPTED
