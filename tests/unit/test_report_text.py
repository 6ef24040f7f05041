# SPDX-License-Identifier: GPL-2.0-only
"""Cleaning of foreign text: nothing dangerous stays, nothing readable is hidden, nothing grows without bound."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_records import HOSTILE

from harness.report.text import TAIL_LINES, bounded, clean, one_line, storable, tail

any_text = st.text(st.characters(exclude_categories=()), max_size=200) | st.sampled_from(HOSTILE)


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[38;5;196mred\x9b0m", "red"),
        ("a\x1b]0;title\x07b", "ab"),
        ("\x1b]8;;http://host/\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0\x1b\\z", "z"),
        ("\x1b(Bplain\x1b7", "plain"),
        ("a\r\nb\rc\x0bd\u2028e", "a\nb\nc\nd\ne"),
        ("tab\tstays", "tab\tstays"),
        ("bell\x07 null\x00 delete\x7f", "bell null delete"),
        ("\udc80\ufffe\u202e", "\ufffd\ufffd\ufffd"),
        ("\u00e9\N{GRINNING FACE}", "\u00e9\N{GRINNING FACE}"),
    ],
)
def test_clean(foreign: str, shown: str) -> None:
    assert clean(foreign) == shown


@pytest.mark.parametrize("start", ["\x1b]0;", "\x1bP", "\x1b_", "\x90", "\x1b["])
def test_an_unfinished_escape_sequence_does_not_hide_what_follows(start: str) -> None:
    assert "BUG: Bad page state" in clean(f"{start}\nBUG: Bad page state\n")
    assert "Bad page" in clean(f"{start}{'x' * 1000} Bad page")


@given(any_text)
def test_cleaned_text_has_no_control_character(text: str) -> None:
    cleaned = clean(text)
    assert not [c for c in cleaned if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert clean(cleaned) == cleaned


@given(any_text, st.integers(1, 300))
def test_one_line_is_one_bounded_line(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert "\n" not in line
    assert len(line) <= limit + len(" … (999999 more characters)")


def test_what_is_cut_is_said() -> None:
    assert bounded("abcdef", 4) == "abcd … (2 more characters)"
    assert one_line("x" * 100_000, 10) == "x" * 10 + " … (99990 more characters)"
    assert one_line("exact", 5) == "exact"


def test_blanks_are_collapsed_only_if_wanted() -> None:
    assert one_line(" a  b\n c ") == "a b c"
    assert one_line("a  b\nc", collapse=False) == "a  b c"


def test_tail_gives_the_last_lines_only(tmp_path: Path) -> None:
    console = tmp_path / "host-console.txt"
    console.write_bytes(b"".join(b"\x1b[1mline %d\x1b[0m \xff\r\n" % number for number in range(1000)))
    lines = tail(console)
    assert len(lines) == TAIL_LINES
    assert lines[-1] == "line 999 \ufffd"
    assert lines[0] == f"line {1000 - TAIL_LINES} \ufffd"


def test_tail_of_one_endless_line_is_bounded(tmp_path: Path) -> None:
    console = tmp_path / "host-console.txt"
    console.write_bytes(b"x" * 5_000_000)
    (line,) = tail(console, size=10_000)
    assert len(line) < 2100


@given(any_text)
def test_storable_text_can_be_encoded_and_read_back(text: str) -> None:
    stored = storable({text: [text]})
    assert msgspec.json.decode(msgspec.json.encode(stored)) == stored


def test_storable_leaves_ordinary_text_alone() -> None:
    assert storable({"a": ["é\x1b\n", 1, None, 1.5]}) == {"a": ["é\x1b\n", 1, None, 1.5]}
    assert storable("\udc80") == "\\udc80"
