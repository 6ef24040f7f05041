# SPDX-License-Identifier: GPL-2.0-only
"""``gmem history``, in a file of SQLite and on a server of PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from history_bench import a_case, a_folder, emptied, postgres
from sqlalchemy import func, select, text, update

import harness.cli.history
from harness.cli.main import main
from harness.history.database import History
from harness.history.tables import quarantine, results, runs, schema
from harness.run.verdict import Verdict

P, D, I, C = Verdict.PASS, Verdict.DEVIATES, Verdict.INFRA, Verdict.CRASH  # noqa: E741 - one letter a night
GMEM = [sys.executable, "-m", "harness.cli.main"]
SECONDS = 120


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty history, which ``gmem history`` uses without being told."""
    found = str(tmp_path / "state" / "history.sqlite")
    if request.param == "postgresql":
        found = request.getfixturevalue("server")
        emptied(found)
    monkeypatch.setenv("GMEM_HISTORY", found)
    monkeypatch.setattr(harness.cli.history, "today", lambda: date(2026, 2, 1))
    return found


def nights(
    tmp_path: Path, *verdicts: Verdict, counter: str = "unaccounted", first: int = 1, **more: object
) -> list[str]:
    """A folder for each night, with the case ``one`` as told and the case ``two``, which passes."""
    made = []
    for number, verdict in enumerate(verdicts, first):
        cases = [a_case("one", verdict, counter=counter), a_case("two")]
        made.append(str(a_folder(tmp_path / f"run{number}-{counter}", number, cases, **more)))
    return made


def status(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and the object of ``gmem history status --json``."""
    capsys.readouterr()
    code = main(["history", "status", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def one(told: dict[str, Any], case: str = "smoke/one") -> dict[str, Any]:
    (found,) = [row for row in told["cases"] if row["case"] == case]
    return found


def count(place: str) -> tuple[int, int]:
    """Runs and results."""
    with History.open(place).read() as connection:
        return tuple(
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (runs, results)
        )


Captured = pytest.CaptureFixture[str]


class TestAdd:
    def test_twice_is_once(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        folders = nights(tmp_path, P, D)
        assert main(["history", "add", *folders]) == 0
        assert capsys.readouterr().out.startswith("2 added, 0 there already: ")
        moved = Path(folders[0]).rename(tmp_path / "elsewhere")
        assert main(["history", "add", str(moved), folders[1]]) == 0
        assert capsys.readouterr().out.startswith("0 added, 2 there already: ")
        assert count(place) == (2, 4)

    def test_older_runs_may_come_later(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        assert main(["history", "add", *nights(tmp_path, P, P, D, D)[::-1]]) == 0
        assert one(status(capsys)[1])["since"]["started"] == "2026-01-03T03:04:05Z"

    def test_one_that_is_none_stops_no_other(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        first, second, third, fourth, fifth = map(Path, nights(tmp_path, P, P, P, P, P))
        (second / "run.json").unlink()
        (third / "results.jsonl").write_text("{\n")
        info = json.loads((fourth / "run.json").read_text())
        (fourth / "run.json").write_text(json.dumps({**info, "started": "yesterday"}))
        words = [first, second, third, fourth, tmp_path / "nowhere", fifth]
        assert main(["history", "add", *map(str, words)]) == 4
        captured = capsys.readouterr()
        died, damaged, timeless, absent = captured.err.splitlines()
        assert "is a run that died or is still going on (no run.json; started 2026-01-01T00:00:00+00:00" in died
        assert "results.jsonl line 1 is damaged" in damaged
        assert "run.json is damaged: 'yesterday' is no time" in timeless
        assert "does not exist or is not a directory" in absent
        assert "2 added, 0 there already, 4 refused" in captured.out
        assert count(place)[0] == 2

    def test_a_run_without_cases(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        """A kernel that did not come up has no case, and is no good night."""
        folder = str(a_folder(tmp_path / "r", 1, [], verdict=Verdict.NO_BOOT, exit_code=7))
        assert main(["history", "add", folder, folder]) == 0
        assert "1 added, 1 there already" in capsys.readouterr().out
        code, told = status(capsys)
        assert (code, told["verdict"], told["cases"][0]["case"]) == (7, "no-boot", "gmem/run")

    def test_hostile_text(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        text = "<script>\x1b[31m'; DROP TABLE gmem_runs; -- \ud800 \x00"
        bad = a_case(text, D, counter=text)
        assert main(["history", "add", str(a_folder(tmp_path / "r", 1, [bad], design=text))]) == 0
        page = tmp_path / "page.html"
        assert main(["history", "status", "--html", str(page)]) == 1
        assert "\x1b" not in capsys.readouterr().out
        assert "<script" not in page.read_text()
        assert "&lt;script&gt;" in page.read_text()
        assert count(place) == (1, 1)


class TestStatus:
    def test_since_last_good_and_rate(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        assert main(["history", "add", *nights(tmp_path, P, D, P, P, D, I, D)]) == 0
        code, told = status(capsys)
        found = one(told)
        assert (code, told["verdict"], told["sentence"]) == (1, "deviates", "1 of 2 cases deviate")
        assert found["since"]["commit"] == f"{5:040x}"
        assert found["last_good"]["commit"] == f"{4:040x}"
        assert (found["deviating"], found["decided"], found["undecided"]) == (3, 6, 1)
        assert (found["rate_low"], found["rate_high"]) == (
            pytest.approx(0.1876, abs=1e-4),
            pytest.approx(0.8124, abs=1e-4),
        )
        assert not found["flaky"], "every night had another build"
        assert one(told, "smoke/two")["since"] is None

    def test_the_spell_may_be_longer_than_the_window(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        assert main(["history", "add", *nights(tmp_path, P, P, *[D] * 9)]) == 0
        found = one(status(capsys, "--last", "3")[1])
        assert (found["decided"], found["since"]["commit"]) == (3, f"{3:040x}")
        assert found["last_good"]["commit"] == f"{2:040x}"

    def test_another_deviation_is_another_spell(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        folders = nights(tmp_path, P, D, D) + nights(tmp_path, D, first=4, counter="pgfree")
        assert main(["history", "add", *folders]) == 0
        found = one(status(capsys)[1])
        assert found["since"]["commit"] == f"{4:040x}"
        assert found["last_good"]["commit"] == f"{1:040x}"
        assert found["signature"] == "deviates: pgfree too high, rule untouched"

    def test_flaky_is_one_build_with_both(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        kernel = {"name": "7.3", "release": "7.3.4", "key": "ab" * 16}
        assert main(["history", "add", *nights(tmp_path, D, P, P, kernel=kernel)]) == 0
        code, told = status(capsys)
        assert (code, one(told)["flaky"]) == (0, True)
        assert "1 flaky" in told["sentence"]

    def test_an_undecided_night_hides_no_deviation(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        assert main(["history", "add", *nights(tmp_path, P, D, I)]) == 0
        code, told = status(capsys)
        assert (code, one(told)["verdict"], one(told)["newest"]["verdict"]) == (1, "deviates", "infra")

    def test_an_undecided_night_is_no_pass(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        assert main(["history", "add", *nights(tmp_path, P, I)]) == 0
        assert status(capsys)[0] == 3

    def test_lines_are_apart(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        assert main(["history", "add", *nights(tmp_path, P, P)]) == 0
        other = {"name": "6.12", "release": "6.12.1", "key": "cd" * 16, "patches": "a.patch"}
        assert main(["history", "add", *nights(tmp_path, D, first=5, kernel=other, host={"name": "snp1"})]) == 0
        assert status(capsys)[0] == 1
        assert status(capsys, "--branch", "next")[0] == 0
        assert status(capsys, "--kernel", "6.12", "--host", "snp1")[0] == 1
        assert main(["history", "status", "--kernel", "6"]) == 4
        assert "has no result of kernel 6: " in capsys.readouterr().err

    def test_old_lines_can_be_left_out(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        assert main(["history", "add", *nights(tmp_path, D)]) == 0
        assert status(capsys, "--within", "31")[0] == 1
        assert main(["history", "status", "--within", "30"]) == 4

    def test_show_and_compare(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        folders = nights(tmp_path, P, P, D)
        assert main(["history", "add", *folders]) == 0
        capsys.readouterr()
        assert main(["history", "show", "smoke/one"]) == 1
        shown = capsys.readouterr().out
        assert "deviates          1 x  2026-01-03T03:04:05Z  000000000000" in shown
        assert "pass              2 x  2026-01-01T03:04:05Z .. 2026-01-02T03:04:05Z" in shown
        assert "rule untouched: untouched (order0): nothing moves it" in shown
        assert main(["history", "compare", folders[0], f"{3:040x}"]) == 1
        assert "smoke/one: pass -> deviates: unaccounted too high, rule untouched" in capsys.readouterr().out
        assert main(["history", "compare", folders[0], folders[1]]) == 0
        assert main(["history", "compare", os.path.relpath(folders[0]), f"{folders[1]}/"]) == 0
        assert main(["history", "compare", folders[0], "nonsense"]) == 4
        assert main(["history", "show", "smoke/three"]) == 4
        assert main(["history", "runs", "-n", "1"]) == 0
        assert capsys.readouterr().out.rstrip().endswith(folders[2])


class TestQuarantine:
    ASKED = ("--reason", "known since v7", "--link", "https://bugs.example/1", "--until", "2026-02-10")

    def put(self, *words: str) -> int:
        return main(["history", "quarantine", "smoke/one", *words])

    def test_it_is_shown_and_does_not_decide(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        assert main(["history", "add", *nights(tmp_path, P, D)]) == 0
        assert self.put(*self.ASKED) == 0
        code, told = status(capsys)
        assert (code, told["sentence"]) == (0, "no case of 2 deviates, 1 in quarantine")
        assert one(told)["quarantine"]["link"] == "https://bugs.example/1"
        assert main(["history", "status"]) == 0
        shown = capsys.readouterr().out
        assert "deviates      smoke/one  (in quarantine)" in shown
        assert "in quarantine until 2026-02-10: known since v7 (https://bugs.example/1)" in shown

    def test_after_its_last_day_it_decides(
        self, place: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert main(["history", "add", *nights(tmp_path, P, D)]) == 0
        assert self.put(*self.ASKED) == 0
        monkeypatch.setattr(harness.cli.history, "today", lambda: date(2026, 2, 10))
        assert status(capsys)[0] == 0
        monkeypatch.setattr(harness.cli.history, "today", lambda: date(2026, 2, 11))
        assert status(capsys)[0] == 1
        assert main(["history", "status"]) == 1
        assert "its quarantine ended on 2026-02-10: known since v7" in capsys.readouterr().out

    def test_another_deviation_is_not_covered(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        assert main(["history", "add", *nights(tmp_path, P, D)]) == 0
        assert self.put(*self.ASKED) == 0
        assert main(["history", "add", *nights(tmp_path, D, first=3, counter="pgfree")]) == 0
        code, told = status(capsys)
        assert (code, one(told)["quarantine"]) == (1, None)

    def test_another_branch_is_not_covered(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        assert main(["history", "add", *nights(tmp_path, P, D)]) == 0
        kernel = {"name": "7.3", "branch": "topic", "key": "ab" * 16}
        assert main(["history", "add", *nights(tmp_path, D, first=3, kernel=kernel)]) == 0
        assert self.put(*self.ASKED, "--branch", "topic") == 0
        assert status(capsys, "--branch", "topic")[0] == 0
        assert status(capsys, "--branch", "next")[0] == 1

    def test_a_flaky_case_can_be_quarantined_while_it_passes(
        self, place: str, tmp_path: Path, capsys: Captured
    ) -> None:
        assert main(["history", "add", *nights(tmp_path, D, P)]) == 0
        assert self.put(*self.ASKED) == 0
        assert main(["history", "add", *nights(tmp_path, D, first=3)]) == 0
        assert status(capsys)[0] == 0

    def test_lifted_and_put_again(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        assert main(["history", "add", *nights(tmp_path, P, D)]) == 0
        assert self.put(*self.ASKED) == 0
        assert self.put(*self.ASKED[:-1], "2026-03-01") == 0
        with History.open(place).read() as connection:
            assert [row.until for row in connection.execute(select(quarantine))] == ["2026-03-01"]
        assert self.put("--lift") == 0
        assert status(capsys)[0] == 1
        assert self.put("--lift") == 4

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (ASKED[:4], "a quarantine needs a reason, a link and a last day: --until missing"),
            ((), "--reason and --link and --until missing"),
            ((*ASKED[:5], "2026-01-31"), "the last day 2026-01-31 is over"),
            (("--reason", " ", *ASKED[2:]), "a quarantine has a reason"),
            ((*ASKED[:3], "javascript:alert(1)", *ASKED[4:]), "'javascript:alert(1)' is no link"),
            ((*ASKED, "--branch", "none"), "the history has no case smoke/one"),
        ],
    )
    def test_mistakes(
        self, place: str, tmp_path: Path, capsys: Captured, words: tuple[str, ...], sentence: str
    ) -> None:
        assert main(["history", "add", *nights(tmp_path, P, D)]) == 0
        capsys.readouterr()
        assert self.put(*words) == 4
        [line] = capsys.readouterr().err.splitlines()
        assert sentence in line

    def test_a_case_that_never_deviated(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        assert main(["history", "add", *nights(tmp_path, P, P)]) == 0
        assert self.put(*self.ASKED) == 4
        assert "smoke/one shows no deviation" in capsys.readouterr().err


class TestPlace:
    def test_another_schema(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        assert main(["history", "add", *nights(tmp_path, P)]) == 0
        with History.open(place).write() as connection:
            connection.execute(update(schema).values(version=99))
        for words in (["add", str(tmp_path)], ["status"], ["show", "x"]):
            assert main(["history", *words]) == 4
            assert "is a history of schema 99, and this gmem reads 1" in capsys.readouterr().err

    def test_none_yet(self, place: str, capsys: Captured) -> None:
        assert main(["history", "status"]) == 4
        assert "gmem history add RUN... makes it" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("db", "code", "sentence"),
        [
            ("postgresql://someone:secret@127.0.0.1:9/db", 3, "cannot be used: connection"),
            ("mysql://someone:secret@127.0.0.1/db", 4, "the history is a file (of SQLite), or postgresql://"),
            ("what://someone:secret@else", 4, "the history is a file"),
            ("://someone:secret@else", 4, "is no address of a database"),
            ("/proc/nothing/history", 4, "cannot be made"),
            ("/tmp", 4, "is a folder"),
        ],
    )
    def test_no_database(self, tmp_path: Path, capsys: Captured, db: str, code: int, sentence: str) -> None:
        assert main(["history", "add", *nights(tmp_path, P), "--db", db]) == code
        [line] = capsys.readouterr().err.splitlines()
        assert sentence in line
        assert "secret" not in line

    def test_a_file_of_another_kind(self, tmp_path: Path, capsys: Captured) -> None:
        (tmp_path / "x").write_bytes(b"something else\n" * 500)
        assert main(["history", "add", *nights(tmp_path, P), "--db", str(tmp_path / "x")]) == 4
        assert "is no history: it is a file of another kind" in capsys.readouterr().err

    def test_it_lies_where_state_lies(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("GMEM_HISTORY", raising=False)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        assert main(["history", "add", *nights(tmp_path, P)]) == 0
        assert (tmp_path / "gmem-harness" / "history.sqlite").is_file()


class TestConcurrency:
    def test_two_importers_at_once(self, place: str, tmp_path: Path) -> None:
        """Each has runs of its own and all of the other's, in the opposite order; the tables are new to both."""
        folders = nights(tmp_path, *[P, D, I] * 9)
        words = [folders, folders[::-1]]
        both = [subprocess.Popen([*GMEM, "history", "add", *some], stdout=subprocess.PIPE, text=True) for some in words]
        told = [process.communicate(timeout=SECONDS)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert sum(int(line.split()[0]) for line in told) == len(folders)
        assert count(place) == (27, 54)

    def test_killed_in_the_middle(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        folders = nights(tmp_path, *[P] * 28)
        assert main(["history", "add", folders[0]]) == 0
        process = subprocess.Popen([*GMEM, "history", "add", *folders * 3], stdout=subprocess.DEVNULL)
        end = time.monotonic() + SECONDS
        while count(place)[0] < 5 and time.monotonic() < end:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=SECONDS)
        before = count(place)
        assert before[0] >= 5
        assert before[1] == 2 * before[0], "a run is there as a whole, or not at all"
        assert main(["history", "add", *folders]) == 0
        assert count(place) == (28, 56)

    def test_killed_before_it_commits(self, place: str, tmp_path: Path, capsys: Captured) -> None:
        """What is not committed is not there, and disturbs nobody."""
        folders = nights(tmp_path, P, P)
        assert main(["history", "add", folders[0]]) == 0
        script = (
            "import os, signal, sys\n"
            "from harness.history.database import History\n"
            "from harness.history import importing, record\n"
            "from pathlib import Path\n"
            "history = History.open(sys.argv[1])\n"
            "importing._series = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "importing.add(history, record.read_folder(Path(sys.argv[2])))\n"
        )
        done = subprocess.run([sys.executable, "-c", script, place, folders[1]], timeout=SECONDS, check=False)
        assert done.returncode == -signal.SIGKILL
        assert count(place) == (1, 2)
        assert main(["history", "add", folders[1]]) == 0
        assert count(place) == (2, 4)

    def test_sqlite_is_whole_after_it(self, tmp_path: Path) -> None:
        place = str(tmp_path / "h")
        assert main(["history", "add", *nights(tmp_path, P, D), "--db", place]) == 0
        with History.open(place).read() as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
