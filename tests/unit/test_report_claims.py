# SPDX-License-Identifier: GPL-2.0-only
"""The table of claims: each claim has a verdict or a reason in each run, the worst wins, and text stays text."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from report_records import HOSTILE, case, finding, run_info, step

from harness.errors import UsageError
from harness.model.designs import DESIGNS
from harness.report.claims import CLAIMS, FAMILIES, claim_named, family, why_not
from harness.report.claims_curves import cumulated, curves
from harness.report.claims_page import claims_page, claims_section
from harness.report.claims_table import Cell, Run, Table, claims_table
from harness.report.claims_text import headlines, plain_claims, show_claims
from harness.report.series import series
from harness.run.result import CaseResult, RunInfo, StepResult, Told
from harness.run.verdict import Verdict

THP = {"name": "7.3-thp-discard", "release": "7.3.4", "patches": "thp-discard.patch, hold.patch"}


def told(text: str = "huge folios -1 (predicted -1)", observed: int = -1, **more: object) -> Told:
    usual = Told(counter="nr_file_hugepages", first=3, step=3, low=-1, high=-1, observed=observed, text=text)
    return msgspec.structs.replace(usual, **more)


def about(claim: str, /, name: str = "one_page", verdict: Verdict = Verdict.PASS, **more: object) -> CaseResult:
    return case(name, verdict, **{"claim_id": claim, **more})


def run(tmp_path: Path, *cases: CaseResult, info: RunInfo | None = None) -> Run:
    return Run(info or run_info(design="thp-discard", kernel=THP), cases, (), tmp_path)


def cell(table: Table, claim: str, place: int = 0) -> Cell:
    [row] = [row for row in table.claims if row.id == claim]
    return row.cells[place]


class TestRecords:
    def test_ids(self) -> None:
        assert [claim.id for claim in CLAIMS] == [*(f"C{number}" for number in range(1, 13)), "Integrity"]

    @pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
    def test_each_claim_concerns_a_design_or_says_why_not(self, claim: object) -> None:
        for name in FAMILIES:
            assert (name in claim.concerns) != bool(claim.why_not.get(name)), name  # type: ignore[attr-defined]

    @pytest.mark.parametrize("design", DESIGNS)
    def test_each_design_of_the_model_has_a_family(self, design: str) -> None:
        assert family(design) in FAMILIES

    def test_variants(self) -> None:
        assert why_not(claim_named("C8"), "thp-2m-truncate-noop") == ""
        assert why_not(claim_named("C9"), "thp-discard:4") == why_not(claim_named("C1"), "thp-discard") == ""
        assert "what another order changes is C9" in why_not(claim_named("C1"), "thp-discard:4")
        assert "C8" in why_not(claim_named("c1"), "thp-2m-truncate-noop")

    def test_unknown_claim(self) -> None:
        with pytest.raises(UsageError, match=r"there is no claim 'C13': known are C1, C2, .*Integrity"):
            claim_named("C13")

    def test_docs_have_the_same_claims(self) -> None:
        text = (Path(__file__).parents[2] / "docs" / "claims.md").read_text()
        for claim in CLAIMS:
            assert f"| {claim.id} | {claim.sentence} |" in text


class TestCells:
    def test_numbers_and_evidence(self, tmp_path: Path) -> None:
        (tmp_path / "evidence" / "one").mkdir(parents=True)
        one = about("C1", tells=(told(),), evidence="evidence/one")
        found = cell(claims_table([run(tmp_path, one)], tmp_path), "C1")
        assert (found.status, found.verdict, found.reason) == ("decided", Verdict.PASS, "")
        assert headlines(found) == ["huge folios -1 (predicted -1)"]
        assert found.cases[0].evidence == "evidence/one"

    def test_a_case_that_deviates_decides_its_cell(self, tmp_path: Path) -> None:
        bad = about("C1", "two_pages", Verdict.DEVIATES, tells=(told("huge folios +0 (predicted -1)", 0),))
        found = cell(claims_table([run(tmp_path, about("C1"), bad, about("C1", "three"))], tmp_path), "C1")
        assert (found.status, found.verdict) == ("decided", Verdict.DEVIATES)
        assert found.reason == "sentence of two_pages"
        assert found.cases[0].name == "conversions/two_pages"

    def test_trouble_leaves_a_claim_undecided(self, tmp_path: Path) -> None:
        found = cell(claims_table([run(tmp_path, about("C1", "x", Verdict.INFRA), about("C1"))], tmp_path), "C1")
        assert (found.status, found.verdict, found.reason) == ("undecided", Verdict.INFRA, "sentence of x")

    def test_no_cell_is_empty(self, tmp_path: Path) -> None:
        table = claims_table([run(tmp_path, about("C1"))], tmp_path)
        for row in table.claims:
            assert row.cells[0].verdict is not None or row.cells[0].reason, row.id
        assert cell(table, "C3").status == "not concerned"
        assert "discarding" in cell(table, "C3").reason
        assert (cell(table, "C2").status, cell(table, "C2").reason) == ("not run", "no case of this run decides it")

    def test_what_was_skipped_says_why(self, tmp_path: Path) -> None:
        found = cell(claims_table([run(tmp_path, about("C2", "x", Verdict.SKIP))], tmp_path), "C2")
        assert (found.status, found.verdict, found.reason) == ("not run", None, "sentence of x")

    def test_what_was_measured_beats_what_the_records_say(self, tmp_path: Path) -> None:
        found = cell(claims_table([run(tmp_path, about("C3"))], tmp_path), "C3")
        assert found.verdict is Verdict.PASS

    def test_evidence_outside_the_run_is_not_linked(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        table = claims_table([run(tmp_path / "run", about("C1", evidence="../.."))], tmp_path)
        assert cell(table, "C1").cases[0].evidence == ""


class TestSeveralRuns:
    def runs(self, tmp_path: Path) -> list[Run]:
        good = run(tmp_path / "a", about("C12"), info=run_info(design="order0"))
        bad = run(
            tmp_path / "b",
            about("C12", verdict=Verdict.DEVIATES),
            info=run_info(Verdict.DEVIATES, design="thp-discard", kernel=THP),
        )
        return [good, bad]

    def test_the_worst_wins(self, tmp_path: Path) -> None:
        table = claims_table(self.runs(tmp_path), tmp_path / "out")
        assert (table.verdict, table.exit_code) == (Verdict.DEVIATES, 1)
        assert [cell(table, "C12", place).verdict for place in (0, 1)] == [Verdict.PASS, Verdict.DEVIATES]
        assert [one.label for one in table.runs] == ["order0 on 7.3.4 [7.3]", "thp-discard on 7.3.4 [7.3-thp-discard]"]
        assert [one.folder for one in table.runs] == ["../a", "../b"]

    def test_twice_the_same(self, tmp_path: Path) -> None:
        first, second = self.runs(tmp_path)
        again = Run(first.info, first.cases, (), tmp_path / "c")
        with pytest.raises(UsageError, match=r"/a and .*/c are both runs of order0 on 7.3.4 \[7.3\]: name one"):
            claims_table([first, second, again], tmp_path)

    def test_a_patch_makes_another_kernel(self, tmp_path: Path) -> None:
        first, _ = self.runs(tmp_path)
        kernel = {**first.info.kernel, "patches": "fix.patch"}
        other = Run(msgspec.structs.replace(first.info, kernel=kernel), first.cases, (), tmp_path / "c")
        assert claims_table([first, other], tmp_path).runs[1].kernel == "7.3.4 [7.3 + fix.patch]"


class TestText:
    def test_plain(self, tmp_path: Path) -> None:
        table = claims_table([run(tmp_path, about("C1", tells=(told(),)))], tmp_path)
        lines = plain_claims(table)
        assert lines[1] == "claims on thp-discard on 7.3.4 [7.3-thp-discard]"
        assert lines[2] == "C1        a partial conversion breaks a window for good"
        assert lines[3] == "  pass          huge folios -1 (predicted -1)"
        assert lines[-2] == "claims: 1 decided, 2 not concerned, 10 not run"

    def test_words_where_there_are_no_numbers(self, tmp_path: Path) -> None:
        found = cell(claims_table([run(tmp_path, about("C1"))], tmp_path), "C1")
        assert headlines(found) == ["A conversion of a whole chunk gives every page back."]

    def test_many_numbers_are_bounded(self, tmp_path: Path) -> None:
        cases = [about("C1", f"c{number}", tells=(told(f"number {number}"),)) for number in range(9)]
        found = cell(claims_table([run(tmp_path, *cases)], tmp_path), "C1")
        assert headlines(found) == ["number 0", "number 1", "number 2", "number 3", "and 5 more"]

    @pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
    def test_hostile(self, tmp_path: Path, text: str) -> None:
        bad = about("C1", text, Verdict.DEVIATES, claim=text, sentence=text, tells=(told(text, counter=text),))
        table = claims_table([run(tmp_path, bad, info=run_info(design=text, kernel={"release": text}))], tmp_path)
        stream = io.StringIO()
        show_claims(table, stream)
        assert "\x1b" not in stream.getvalue()
        assert len(stream.getvalue()) < 10_000


class Tags(HTMLParser):
    """Every tag of a document, and every attribute that starts a script or leaves the page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name.startswith("on") or (
                name in ("href", "src") and not (value or "").startswith(("#", "./", "claims"))
            ):
                self.bad.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")


def tags(document: str) -> Tags:
    found = Tags()
    found.feed(document)
    return found


class TestPage:
    @pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
    def test_text_stays_text(self, tmp_path: Path, text: str) -> None:
        steps = tuple(long_case().steps)
        bad = about(
            "C12",
            text,
            Verdict.DEVIATES,
            claim=text,
            sentence=text,
            steps=steps,
            tells=(told(text, counter=text, x=1.0, axis=text),),
        )
        harmless = about(
            "C12",
            "x",
            Verdict.DEVIATES,
            claim="x",
            sentence="x",
            steps=steps,
            tells=(told("x", counter="x", x=1.0, axis="x"),),
        )
        pages = []
        for one, name in ((bad, text), (harmless, "x")):
            info = run_info(Verdict.DEVIATES, design=name, sentence=name, kernel={"release": name, "name": name})
            pages.append(tags(claims_page(claims_table([run(tmp_path, one, info=info)], tmp_path))))
        assert pages[0].tags == pages[1].tags
        assert pages[0].bad == []

    def test_every_claim_is_on_the_page(self, tmp_path: Path) -> None:
        page = claims_section(claims_table([run(tmp_path, about("C1"))], tmp_path))
        for claim in CLAIMS:
            assert f'id="claim-{claim.id}"' in page

    def test_without_curves_there_is_no_script(self, tmp_path: Path) -> None:
        assert "script" not in tags(claims_page(claims_table([run(tmp_path, about("C1"))], tmp_path))).tags

    def test_figures(self, tmp_path: Path) -> None:
        page = claims_page(claims_table([run(tmp_path, long_case())], tmp_path))
        match = re.search(r'id="figures">(.*?)</script>', page)
        assert match
        [figure] = json.loads(match[1])
        assert (figure["claim"], figure["counter"], figure["axis"]) == ("C12", "nr_file_hugepages", "conversions")
        low, high, measured = figure["traces"]
        assert measured["x"] == [0, 1, 2, 3, 4, 5]
        assert measured["y"] == [8, 7, 6, 5, 4, 3]
        assert low["y"] == [8, 7, 6, 5, 4, 3]
        assert high["y"] == [8, 8, 8, 8, 8, 8]


def long_case(conversions: int = 5) -> CaseResult:
    """Eight huge folios, of which each conversion breaks one where none or one was predicted to break."""
    setup = step(0, finding("nr_file_hugepages", 8, 8))
    steps: list[StepResult] = [setup]
    for index in range(1, conversions + 1):
        made = step(2 * index - 1, finding("nr_file_hugepages", -1, -1, high=0))
        steps += [msgspec.structs.replace(made, conversions=1), step(2 * index)]
        still = {"nothing moves it": ("nr_file_hugepages",)}
        steps[-1] = msgspec.structs.replace(steps[-1], still=still)
    return about("C12", "long", steps=tuple(steps))


class TestCurves:
    def test_cumulated(self) -> None:
        line = cumulated("run", long_case(2), "nr_file_hugepages")
        assert (line.x, line.observed, line.low, line.high) == ((0, 1, 2), (8, 7, 6), (8, 7, 6), (8, 8, 8))

    def test_a_step_without_prediction_ends_the_predicted_line(self) -> None:
        told = long_case(3)
        steps = list(told.steps)
        steps[3] = msgspec.structs.replace(steps[3], findings=(), recorded={"nr_file_hugepages": -1})
        line = cumulated("run", msgspec.structs.replace(told, steps=tuple(steps)), "nr_file_hugepages")
        assert line.observed == (8, 7, 6, 5)
        assert line.low == (8, 7, None, None)

    def test_thousands_of_points_are_thinned(self) -> None:
        line = cumulated("run", long_case(5000), "nr_file_hugepages")
        assert 1000 < len(line.x) <= 2001
        assert line.x[-1] == 5000

    def test_short_cases_make_no_curve(self) -> None:
        assert curves([("run", [long_case(2)], [])]) == ()
        assert len(curves([("run", [long_case(3)], [])])) == 1

    def test_cases_along_an_axis(self) -> None:
        cases = [
            about("C11", f"at[{x}]", tells=(told("", -x, low=-x, high=0, x=float(x), axis="% in pieces"),))
            for x in (90, 10, 50)
        ]
        [curve] = curves([("run", cases, [])])
        assert (curve.claim, curve.counter, curve.axis) == ("C11", "nr_file_hugepages", "% in pieces")
        assert (curve.lines[0].x, curve.lines[0].observed) == ((10, 50, 90), (-10, -50, -90))

    def test_recorded(self) -> None:
        made = series(about("C11"), "fallback rate", "% used", [1, 2], [0.5, 0.75], [(0, 1), 0.75])
        [curve] = curves([("run", [], [made])])
        assert (curve.counter, curve.lines[0].low, curve.lines[0].high) == ("fallback rate", (0, 0.75), (1, 0.75))

    def test_recorded_parts_go_together(self) -> None:
        with pytest.raises(UsageError, match="the curve 'y' has 2 places, 1 values and 2 predictions"):
            series(about("C11"), "y", "x", [1, 2], [1], None)
