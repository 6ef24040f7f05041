# SPDX-License-Identifier: GPL-2.0-only
"""The HTML report: self-contained, complete, and harmless whatever the guest and the kernel printed."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_records import HOSTILE, case, finding, hostile_case, hostile_run, run_info, step

from harness.report.html import html
from harness.run.result import CaseResult, RunInfo, StepResult
from harness.run.sharpness import sharpness
from harness.run.verdict import Verdict

VOID = {"meta", "br", "img", "link", "input", "hr"}
TAGS = {"html", "head", "meta", "title", "style", "body", "header", "main", "section", "h1", "h2", "h3", "p", "div"}
TAGS |= {"span", "a", "br", "details", "summary", "pre", "table", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd"}
TAGS |= {"nav", "ul", "li", "figure", "figcaption", "svg", "line", "g", "rect", "circle", "path", "text"}
ATTRIBUTES = {
    "viewbox",
    "role",
    "aria-label",
    "x1",
    "x2",
    "y1",
    "y2",
    "x",
    "y",
    "width",
    "height",
    "cx",
    "cy",
    "r",
    "d",
}
ATTRIBUTES |= {"text-anchor", "lang", "charset", "http-equiv", "content", "name", "class", "id", "href", "open"}


@dataclass
class Page(HTMLParser):
    """A parsed report; refuses what the template does not write."""

    text: str
    words: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    details: list[tuple[str, bool]] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        assert tag in TAGS, tag
        assert set(names) <= ATTRIBUTES, names
        if tag not in VOID:
            self.stack.append(tag)
        if "href" in names and "nav" not in self.stack:
            self.links.append(names["href"] or "")
        if tag == "details":
            self.details.append((names.get("class") or names.get("id") or "", "open" in names))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.words.append(data)

    @property
    def shown(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(info: RunInfo, cases: list[CaseResult], out: Path) -> Page:
    return Page(html(info, cases, out))


def test_the_verdict_comes_first_then_the_cases_then_the_facts(tmp_path: Path) -> None:
    good = case("whole", Verdict.PASS, step(0, finding("nr_file_pages", -512, -512)))
    shown = page(run_info(), [good], tmp_path).shown
    position = 0
    for text in (
        "sentence of the run",
        "sw-protected (SNP stand-in): no memory is encrypted",
        "conversions/whole",
        "nr_file_pages -512 / -512",
        "convert g0.r0[0:512] to shared",
        "punch: 512 present pages of g0.r0 leave the page cache",
        "pgfault +3",
        "release 7.3.4",
        "kvm_gmem_get_pfn gives order 0",
        "kind emulated",
        "version 10.0.2",
        "gmem run 'a suite'",
    ):
        position = shown.index(text, position)


def test_a_real_guest_kind_is_not_called_a_stand_in(tmp_path: Path) -> None:
    assert "no memory is encrypted" not in page(run_info(guest_kind="snp"), [], tmp_path).shown


def test_it_needs_no_network_and_no_script(tmp_path: Path) -> None:
    text = html(run_info(), [case("a", Verdict.PASS, step(0, finding("F", 1, 1)))], tmp_path)
    assert "://" not in text
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "@import" not in text


def test_it_is_made_for_phones_and_for_the_dark(tmp_path: Path) -> None:
    text = html(run_info(), [], tmp_path)
    assert 'name="viewport" content="width=device-width' in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize(
    ("verdict", "case_open", "console_open"),
    [
        (Verdict.PASS, False, False),
        (Verdict.SKIP, False, False),
        (Verdict.DEVIATES, True, False),
        (Verdict.CRASH, True, True),
        (Verdict.NO_BOOT, True, True),
    ],
)
def test_what_is_open(tmp_path: Path, verdict: Verdict, case_open: bool, console_open: bool) -> None:
    folder = tmp_path / "evidence" / "a"
    folder.mkdir(parents=True)
    (folder / "host-console.txt").write_text("\n".join(f"line {number} <b>\x1b[31m" for number in range(500)))
    (folder / "g0-console.txt").write_text("the guest's")
    found = page(run_info(verdict), [case("a", verdict, evidence="evidence/a")], tmp_path)
    assert found.details == [("case-1", case_open), ("console", console_open), ("console", console_open)]
    assert "line 499 <b>" in found.shown
    assert "line 300 <b>" in found.shown
    assert "line 299 " not in found.shown
    assert found.shown.index("host-console.txt") < found.shown.index("g0-console.txt")
    assert found.links == ["#case-1", "./evidence/a/"]


OOPS = "WARNING: CPU: 1 PID: 312 at mm/truncate.c:77 truncate_folio+0x1c/0x40"


def test_the_oops_is_open_however_long_before_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "evidence" / "a"
    folder.mkdir(parents=True)
    before = [f"quiet {number}" for number in range(1000)]
    after = [f"later {number}" for number in range(1000)]
    (folder / "host-console.txt").write_text("\n".join([*before, f"[ 1.5] {OOPS}", "<script>\x1b[31m", *after]))
    (folder / "g0-console.txt").write_text("the guest's")
    found = page(run_info(Verdict.CRASH), [case("a", Verdict.CRASH, evidence="evidence/a")], tmp_path)
    assert found.details == [("case-1", True), ("console oops", True), ("console", False), ("console", False)]
    assert "the crash in evidence/a/host-console.txt, line 1001" in found.shown
    assert f"quiet 999 [ 1.5] {OOPS} <script> later 0" in found.shown
    assert "quiet 994 " not in found.shown


def test_counters_are_drawn_over_the_steps(tmp_path: Path) -> None:
    steps = (
        step(0, finding("nr_file_pages", 512, 512), finding("F", -520, -512, high=-510)),
        step(1, finding("nr_file_pages", -1, 0, verdict=Verdict.DEVIATES), text="<b>"),
    )
    text = html(run_info(Verdict.DEVIATES), [case("a", Verdict.DEVIATES, *steps)], tmp_path)
    first, second = text.split("<figure>")[1:]
    assert 'class="c bad">nr_file_pages<' in first, "what deviates comes first"
    assert first.count('<circle class="bad"') == 1
    assert "<title>step 1: predicted -1, observed +0</title>" in first
    assert "<title>step 0: predicted -520..-510, observed -512</title>" in second
    assert second.count("<circle") == 1, "nobody knows where it stood after the second step"
    assert "No case" not in Page(text).shown


def test_a_case_without_steps_has_no_plot(tmp_path: Path) -> None:
    assert "<svg" not in html(run_info(), [case("a"), case("b", Verdict.PASS, step(0))], tmp_path)


def test_the_console_of_a_boot_that_failed_is_shown_without_any_case(tmp_path: Path) -> None:
    folder = tmp_path / "evidence" / "boot"
    folder.mkdir(parents=True)
    (folder / "host-console.txt").write_text("Kernel panic - not syncing")
    found = page(run_info(Verdict.NO_BOOT), [], tmp_path)
    assert "Kernel panic - not syncing" in found.shown
    assert found.details == [("console", True)]
    assert "No case was run." in found.shown


def test_what_is_seen_of_the_kernel_has_the_command_that_makes_it_small(tmp_path: Path) -> None:
    cases = []
    for name, verdict in (("a", Verdict.DEVIATES), ("b", Verdict.CRASH), ("c", Verdict.INFRA), ("d", Verdict.PASS)):
        (tmp_path / "evidence" / name).mkdir(parents=True)
        (tmp_path / "evidence" / name / "scenario.yaml").touch()
        cases.append(case(name, verdict, evidence=f"evidence/{name}"))
    (tmp_path / "evidence" / "empty").mkdir()
    cases.append(case("empty", Verdict.DEVIATES, evidence="evidence/empty"))
    shown = page(run_info(Verdict.DEVIATES, same=("--patch", "a fix.patch")), cases, tmp_path).shown
    for name in ("a", "b"):
        assert f"gmem shrink {tmp_path}/evidence/{name}/scenario.yaml --patch 'a fix.patch'" in shown
    assert shown.count("gmem shrink") == 2


@pytest.mark.parametrize("evidence", ["../secret", "/etc", "evidence/../../secret", "javascript:alert(1)", ".", "a\0b"])
def test_evidence_does_not_lead_out_of_the_directory(tmp_path: Path, evidence: str) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "host-console.txt").write_text("private")
    out = tmp_path / "out"
    out.mkdir()
    found = page(run_info(), [case("a", evidence=evidence)], out)
    assert found.links == ["#case-1"]
    assert "private" not in found.shown


def test_a_console_that_links_out_of_the_directory_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("private")
    folder = tmp_path / "out" / "evidence" / "a"
    folder.mkdir(parents=True)
    (folder / "host-console.txt").symlink_to(tmp_path / "secret.txt")
    assert "private" not in page(run_info(), [case("a", evidence="evidence/a")], tmp_path / "out").shown


def test_odd_names_of_evidence_are_quoted(tmp_path: Path) -> None:
    (tmp_path / "evidence" / 'a b"#?').mkdir(parents=True)
    found = page(run_info(), [case("a", evidence='evidence/a b"#?')], tmp_path)
    assert found.links[1] == "./evidence/a%20b%22%23%3F/"


def test_findings_outside_their_prediction_are_marked_and_come_first(tmp_path: Path) -> None:
    bad = step(0, finding("F", 1, 1), finding("pgfree", 1, 0, verdict=Verdict.DEVIATES), finding("aaa", 0, 0))
    text = html(run_info(Verdict.DEVIATES), [case("a", Verdict.DEVIATES, bad)], tmp_path)
    assert text.count('<tr class="outside">') == 1
    shown = Page(text).shown.partition("Case by case")[2]
    assert shown.index("pgfree") < shown.index("F +1") < shown.index("predicted to stay, and seen to: 1")


def test_an_unknown_counter_is_a_question_mark(tmp_path: Path) -> None:
    unknown = step(0, finding("nr_hugetlb", 4, None, verdict=Verdict.SKIP, reasons=()))
    assert "nr_hugetlb +4 / ?" in page(run_info(), [case("a", Verdict.PASS, unknown)], tmp_path).shown


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_text(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "evidence" / "a"
    folder.mkdir(parents=True)
    (folder / "host-console.txt").write_text(text, errors="surrogatepass")
    (folder / "scenario.yaml").touch()
    hostile = [hostile_case(text), case("a", Verdict.CRASH, evidence="evidence/a")]
    document = html(hostile_run(text), hostile, tmp_path)
    Page(document)
    document.encode("utf-8")
    assert not [c for c in document if ord(c) < 32 and c != "\n"]
    assert len(document) < 200_000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=()), max_size=50))
def test_any_text_leaves_the_document_whole(tmp_path: Path, text: str) -> None:
    Page(html(hostile_run(text), [hostile_case(text)], tmp_path))


def test_escaped_text_is_shown_as_it_was(tmp_path: Path) -> None:
    found = page(run_info(sentence="a < b & 'c' {{ d }}"), [], tmp_path)
    assert "a < b & 'c' {{ d }}" in found.shown


def test_a_flood_is_bounded_and_said(tmp_path: Path) -> None:
    counters = tuple(finding(f"counter_{number}", 1, 1) for number in range(3000))
    flood = StepResult(
        index=0,
        text="flood",
        seconds=0.0,
        findings=counters,
        recorded={f"other_{number}": 1 for number in range(3000)},
        messages=("message",) * 3000,
    )
    document = html(run_info(), [case("a", Verdict.PASS, *[flood] * 300)], tmp_path)
    assert "8400 more rows are in results.jsonl." in document
    assert "100 more steps are in results.jsonl." in document
    assert document.count("flood") == 200


def test_how_sharp_the_predictions_are(tmp_path: Path) -> None:
    """A model whose intervals say nothing is seen as such: they stand first and are marked."""
    cases = [
        case(
            "a", Verdict.PASS,
            step(0, finding("sharp", 99, 100, high=101), finding("poor", 0, 1, high=9), finding("idle", -2, 0, high=2)),
        )
    ]  # fmt: skip
    text = html(run_info(sharpness=sharpness(cases)), cases, tmp_path)
    shown = Page(text).shown
    at = shown.index("How sharp the predictions are")
    assert "0 of no movement, 0 exact, 3 intervals; width to effect: idle up to 4 around nothing, poor 9" in shown[at:]
    position = at
    for row in (
        "idle 0 1 4.0 4 0.0 0 up to 4 around nothing",
        "poor 0 1 9.0 9 1.0 1 9",
        "sharp 0 1 2.0 2 100.0 100 0.02",
    ):
        position = shown.index(row, position)
    poor = [
        line.partition('class="c">')[2].partition("<")[0] for line in text.splitlines() if '<tr class="outside"' in line
    ]
    assert poor == ["idle", "poor"]


def test_a_run_that_predicted_nothing_has_no_such_section(tmp_path: Path) -> None:
    assert "How sharp" not in page(run_info(), [], tmp_path).shown


def test_of_hundreds_of_cases_that_pass_only_some_are_shown_step_by_step(tmp_path: Path) -> None:
    cases = [case(f"good-{n}", Verdict.PASS, step(0, finding("F", 1, 1))) for n in range(100)]
    cases[90] = case("bad", Verdict.DEVIATES, step(0, finding("F", 1, 2, verdict=Verdict.DEVIATES)))
    seen = page(run_info(Verdict.DEVIATES), cases, tmp_path)
    anchors = {name for name, _ in seen.details}
    assert {"case-1", "case-40", "case-91"} <= anchors
    assert not anchors & {"case-41", "case-100"}
    assert "59 more cases that pass are in results.jsonl." in seen.shown
    assert "conversions/good-99" in seen.shown
    assert set(seen.links) == {f"#{anchor}" for anchor in anchors if anchor.startswith("case-")}


def test_counters_that_stayed_are_listed_wherever_they_were_kept(tmp_path: Path) -> None:
    quiet = StepResult(
        index=0, text="x", seconds=0.1, findings=(finding("nr_shmem", 0, 0),), recorded={}, still={"b": ("nr_mlock",)}
    )
    shown = page(run_info(), [case("a", Verdict.PASS, quiet)], tmp_path).shown
    assert "predicted to stay, and seen to: 2 nr_shmem, nr_mlock" in shown
