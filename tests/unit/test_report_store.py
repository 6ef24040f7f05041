# SPDX-License-Identifier: GPL-2.0-only
"""The output directory: what is on disk at every moment, and what a reader makes of damage."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from report_records import HOSTILE, case, finding, hostile_case, hostile_run, run_info, step

from harness.errors import InfraError, UsageError
from harness.report import store
from harness.report.store import OutDir, load
from harness.run.verdict import Verdict

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REPORTS = ["evidence", "junit.xml", "report.html", "results.jsonl", "results.ktap", "run.json", "started", "summary.md"]


def refuse(line: str) -> None:
    raise AssertionError(f"an unexpected notice: {line}")


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def keys_sorted(text: str) -> bool:
    return json.dumps(json.loads(text), sort_keys=True) == json.dumps(json.loads(text))


def test_a_whole_run_round_trips(tmp_path: Path) -> None:
    out = OutDir.create(tmp_path / "o")
    cases = [case("a", Verdict.PASS, step(0, finding("F", 1, 1), finding("pgfree", 0, None))), case("b", Verdict.SKIP)]
    for member in cases:
        out.append(member)
    out.finish(run_info())
    assert names(out.path) == REPORTS
    assert load(out.path, notify=refuse) == (run_info(), cases)
    lines = (out.path / "results.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert all(keys_sorted(line) for line in [*lines, (out.path / "run.json").read_text()])
    assert out.report.is_file()


def test_started_is_there_first_and_run_json_is_the_end_marker(tmp_path: Path) -> None:
    out = OutDir.create(tmp_path / "o")
    assert names(out.path) == ["evidence", "results.jsonl", "started"]
    out.append(case("a"))
    assert load(out.path, notify=refuse) == (None, [case("a")])


def test_a_case_is_synced_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = OutDir.create(tmp_path / "o")
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((out.path / "results.jsonl").read_bytes()))
    out.append(case("a"))
    assert [line.count(b"\n") for line in synced] == [1]


def test_the_default_directory_has_the_time_in_its_name_and_is_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = OutDir.create(now=lambda: NOW, token=lambda: "aaaa")
    tokens = iter(["aaaa", "bbbb"])
    second = OutDir.create(now=lambda: NOW, token=lambda: next(tokens))
    assert first.path == tmp_path / "gmem-out" / "20260102-030405-aaaa"
    assert second.path.name == "20260102-030405-bbbb"
    assert (tmp_path / "gmem-out" / "latest").resolve() == second.path
    assert names(tmp_path / "gmem-out") == [first.path.name, second.path.name, "latest"]


def test_something_of_the_users_called_latest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gmem-out" / "latest").mkdir(parents=True)
    OutDir.create()
    assert (tmp_path / "gmem-out" / "latest").is_dir()
    assert not (tmp_path / "gmem-out" / "latest").is_symlink()


@pytest.mark.parametrize("mark", ["started", "results.jsonl", "run.json"])
def test_a_directory_with_a_run_in_it_is_refused(tmp_path: Path, mark: str) -> None:
    (tmp_path / mark).write_text("old")
    with pytest.raises(UsageError, match="already is a run in it: name another directory with --out") as caught:
        OutDir.create(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / mark).read_text() == "old"


def test_a_directory_with_something_else_in_it_is_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    OutDir.create(tmp_path).finish(run_info())
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("below", ["file", "file/below"])
def test_a_file_in_the_way_is_one_sentence(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"^--out \S+ cannot be made \(.+\): name another directory with --out$"):
        OutDir.create(tmp_path / below)


def test_a_file_called_like_the_default_directory_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gmem-out").write_text("")
    with pytest.raises(UsageError, match=r"^the output directory \S+/gmem-out cannot be made"):
        OutDir.create()


def test_evidence_has_a_folder_of_its_own_for_every_case(tmp_path: Path) -> None:
    out = OutDir.create(tmp_path / "o")
    folders = [
        out.evidence(name) for name in ("c1/one_page[4k]", "c1/one_page[4k]", "../../etc", "", "x" * 500, "é/..")
    ]
    assert len({folder.resolve() for folder in folders}) == len(folders)
    assert all(folder.is_dir() and folder.parent == out.path / "evidence" for folder in folders)
    assert out.relative(folders[0]) == "evidence/c1_one_page_4k"
    assert out.relative(folders[1]) == "evidence/c1_one_page_4k-2"


def test_an_incomplete_last_line_is_left_out_with_a_notice(tmp_path: Path) -> None:
    out = OutDir.create(tmp_path / "o")
    out.append(case("a"))
    whole = (out.path / "results.jsonl").read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 1):
        (out.path / "results.jsonl").write_bytes(whole + whole[:cut])
        notices: list[str] = []
        assert load(out.path, notify=notices.append) == (None, [case("a")])
        assert len(notices) == 1
        assert f"the last line is incomplete ({cut} bytes)" in notices[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b'"pass"', b'"splendid"', 1),
        lambda text: text.replace(b'"case"', b'"cage"', 1),
        lambda text: b"\0" * 20 + b"\n" + text,
        lambda text: b"\xff\xfe\n" + text,
        lambda text: b"\n" + text,
        lambda text: b"[]\n" + text,
        lambda text: text[:-20] + b"\n",
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    out = OutDir.create(tmp_path / "o")
    out.append(case("a"))
    results = out.path / "results.jsonl"
    results.write_bytes(damage(results.read_bytes()))
    with pytest.raises(UsageError, match=r"results.jsonl line 1 is damaged \(.+\): remove that line") as caught:
        load(out.path, notify=refuse)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b"\xff", b'{"verdict": "pass"}'])
def test_a_damaged_run_json_is_named(tmp_path: Path, text: bytes) -> None:
    out = OutDir.create(tmp_path / "o")
    (out.path / "run.json").write_bytes(text)
    with pytest.raises(UsageError, match=r"run.json is damaged: .+") as caught:
        load(out.path)
    assert "\n" not in str(caught.value)


def test_other_directories_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the output directory of a gmem run"):
        load(tmp_path)
    with pytest.raises(UsageError, match="does not exist or is not a directory"):
        load(tmp_path / "absent")
    (tmp_path / "started").write_text("")
    with pytest.raises(UsageError, match=r"results.jsonl cannot be read: No such file"):
        load(tmp_path)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_kept_and_can_be_read_back(tmp_path: Path, text: str) -> None:
    out = OutDir.create(tmp_path / "o")
    out.append(hostile_case(text))
    out.finish(hostile_run(text))
    info, (found,) = load(out.path, notify=refuse)
    assert info is not None
    assert found.sentence == info.sentence == text.encode(errors="backslashreplace").decode()


def test_a_disk_that_fills_up_leaves_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = OutDir.create(tmp_path / "o")
    out.append(case("a"))
    before = (out.path / "results.jsonl").read_bytes()
    real = os.write
    calls = iter([100])

    def full(fd: int, data: bytes) -> int:
        for part in calls:
            return real(fd, data[:part])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InfraError, match=r"results.jsonl cannot be written: No space left on device"):
        out.append(case("b"))
    assert (out.path / "results.jsonl").read_bytes() == before
    assert out.cases == [case("a")]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = OutDir.create(tmp_path / "o")
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    out.append(case("a"))
    assert load(out.path, notify=refuse) == (None, [case("a")])


def test_the_verdict_is_kept_even_if_a_report_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = OutDir.create(tmp_path / "o")
    (out.path / "report.html").mkdir()
    with pytest.raises(InfraError, match=r"report.html cannot be written"):
        out.finish(run_info(Verdict.DEVIATES))
    assert load(out.path)[0] == run_info(Verdict.DEVIATES)


def test_a_report_is_replaced_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = OutDir.create(tmp_path / "o")
    out.finish(run_info(sentence="old"))

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InfraError, match="Input/output error"):
        out.finish(run_info(sentence="new"))
    assert "old" in (out.path / "report.html").read_text()
    assert store.load(out.path)[0] == run_info(sentence="old")
