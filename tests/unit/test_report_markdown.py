# SPDX-License-Identifier: GPL-2.0-only
"""The summary in Markdown, as a renderer of CommonMark with tables reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from report_records import HOSTILE, case, finding, hostile_case, hostile_run, run_info, step

from harness.report.markdown import markdown, plain
from harness.run.verdict import Verdict

OURS = {"<details>\n", "</details>\n", "<summary>"}


def tokens(text: str) -> list[Token]:
    """All tokens, those within a line too."""
    outer = MarkdownIt("commonmark").enable("table").parse(text)
    return [inner for token in outer for inner in (token, *(token.children or ()))]


def alive(text: str) -> list[str]:
    """What a renderer would not show as the characters that they are, save what the summary itself is made of."""
    kinds = {"link_open", "image", "html_inline", "code_inline", "em_open", "s_open"}
    found = [token.content or token.type for token in tokens(text) if token.type in kinds]
    blocks = [token.content for token in tokens(text) if token.type == "html_block"]
    return found + [block for block in blocks if not any(block.startswith(own.strip()) for own in OURS)]


def rows(text: str) -> int:
    return sum(token.type == "tr_open" for token in tokens(text))


def test_the_verdict_comes_first_and_failures_before_passes() -> None:
    bad = step(0, finding("pgfree", 1, 0, verdict=Verdict.DEVIATES))
    text = markdown(run_info(Verdict.DEVIATES), [case("a"), case("b", Verdict.DEVIATES, bad), case("c", Verdict.SKIP)])
    assert text.startswith("## ❌ deviates: sentence of the run\n")
    assert "guest | **sw-protected (SNP stand-in): no memory is encrypted**" in text
    assert text.index("conversions/b") < text.index("conversions/a")
    assert "pgfree: predicted +1, observed +0 (noise 0): deviates" in text
    assert "<summary>2 that pass or were skipped</summary>" in text
    assert alive(text) == []


def test_a_run_without_cases_says_so() -> None:
    assert "No case was run." in markdown(run_info(Verdict.NOTHING_RAN), [])
    assert "gmem/run" in markdown(run_info(Verdict.NO_BOOT), [])


def test_a_flood_is_bounded() -> None:
    cases = [case(f"c{number}", Verdict.DEVIATES) for number in range(3000)]
    text = markdown(run_info(Verdict.DEVIATES), cases)
    assert len(text) < 1_000_000
    assert "2950 more are in results.jsonl." in text


def test_mentions_references_and_links_are_taken_away() -> None:
    text = plain("@someone #12 https://evil.example www.evil.example a_b_c :tada: $x$")
    assert plain("at 20:18:42") == "at 20:18:42"
    for lively in ("@someone", "#12", "https://", "www.evil", ":tada:", "a_b_c", " $x$"):
        assert lively not in text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_shown_as_text(text: str) -> None:
    calm = markdown(run_info(Verdict.DEVIATES), [hostile_case("x")])
    told = markdown(hostile_run(text), [hostile_case(text), hostile_case(text, Verdict.SKIP)])
    assert alive(told) == []
    assert rows(told) == rows(calm) + 2
    assert len(told) < 100_000


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_text_is_shown_as_text(text: str) -> None:
    assert alive(markdown(hostile_run(text), [hostile_case(text)])) == []


@given(st.text("`~<>&|[]()!*_\\#-+=:/@ \t\n", max_size=80))
def test_any_punctuation_is_shown_as_text(text: str) -> None:
    assert alive(markdown(hostile_run(text), [hostile_case(text)])) == []
