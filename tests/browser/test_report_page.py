# SPDX-License-Identifier: GPL-2.0-only
"""``report.html`` and the history's page in a browser that has no network, on a desk and on a phone."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest
from PIL import Image

from harness.history.database import History
from harness.history.importing import add
from harness.history.page import status_page
from harness.history.record import record
from harness.history.series import statuses
from harness.history.status import Status
from harness.report.store import OutDir
from harness.run.result import Told
from harness.run.verdict import Verdict
from tests.browser.chromium import browse, too_wide
from tests.unit.report_records import case, finding, run_info, step

OOPS = "WARNING: CPU: 1 PID: 312 at mm/truncate.c:77 truncate_folio+0x1c/0x40"
CONSOLE = "\n".join(
    [
        "\x1b[2J\x1b[1;1H\x1b[31mred\x1b[0m \x1b]0;title\x07",
        "<script>document.body.dataset.owned = 1</script>",
        "<img src=http://evil.example/x.png onerror=\"document.body.dataset.owned='2'\">",
        "</pre></details><style>body { display: none }</style>",
        f"[    1.500000] {OOPS}",
        "x" * 5000,
        *(f"later {number}" for number in range(400)),
    ]
)
BAD = (0xA4, 0x0E, 0x26)
"""What the page paints a deviation in (report.html.j2)."""
BOXES = [(0xC1 + red, 0xD3 + green, 0xEA + blue) for red in (-1, 0) for green in (-1, 0) for blue in (0, 1)]
"""A quarter of the colour of links on white, however the browser rounds."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run in which one case passes, one decides a claim, one deviates and one crashes."""
    out = OutDir.create(tmp_path_factory.mktemp("report") / "out")
    folder = out.evidence("crashed")
    (folder / "host-console.txt").write_text(CONSOLE)
    (folder / "g0-console.txt").write_text(CONSOLE)
    steps = [
        step(0, finding("nr_file_pages", 512, 512), finding("F", -520, -512, high=-510), text="populate g0.r0[0:512]"),
        step(1, finding("nr_file_pages", -512, -512), finding("F", 500, 512, high=520)),
    ]
    leak = finding("unaccounted", 0, 1, verdict=Verdict.DEVIATES)
    wrong = step(1, leak, finding("pgfree", 0, 12, high=40), text="convert g0.r0[0:1] to shared")
    told = Told(counter="nr_file_hugepages", first=0, step=1, low=-1, high=-1, observed=-1, text="huge folios -1")
    out.append(case("whole", Verdict.PASS, *steps))
    out.append(
        case("claimed", Verdict.PASS, *steps, claim_id="C1", tells=(told,), design="order0", kernel="7.3.4 [7.3]")
    )
    out.append(case("leaks", Verdict.DEVIATES, steps[0], wrong))
    out.append(case("crashes", Verdict.CRASH, steps[0], evidence=out.relative(folder)))
    kernel = {"name": "7.3", "release": "7.3.4", "image": "/a/very/long/path/" + "0123456789abcdef" * 8}
    out.finish(run_info(Verdict.CRASH, kernel=kernel, counts={"pass": 2, "deviates": 1, "crash": 1}))
    return out.report


def test_it_complains_of_nothing_and_asks_for_nothing(page: Path) -> None:
    seen = browse(page)
    assert (seen.console, seen.asked) == ([], [])
    assert 'id="claim-C1"' in seen.dom
    assert len(re.findall(r"<svg ", seen.dom)) == 2 + 2 + 4 + 2
    assert re.findall(r'<li><span class="verdict (\w+)">', seen.dom) == ["deviates", "crash"]
    assert "12 claims that nothing here decides" in seen.dom


def test_a_console_is_text(page: Path) -> None:
    dom = browse(page).dom
    assert "data-owned" not in dom
    assert not re.search(r"<(script|img)\b", dom)
    assert "&lt;script&gt;document.body.dataset.owned = 1&lt;/script&gt;" in dom
    assert "\x1b" not in dom
    (crash,) = re.findall(r'<details class="console oops" open="">.*?</details>', dom.partition("g0-console")[0], re.S)
    assert OOPS in crash


def test_a_page_that_asks_would_be_seen(page: Path) -> None:
    """The checks above can fail: without its policy and its escaping the console would reach out."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&#34;", '"').replace("&#39;", "'")
    broken = page.with_name("broken.html")
    broken.write_text(text, encoding="utf-8")
    seen = browse(broken)
    assert seen.asked == ["http://evil.example/x.png"]
    assert "data-owned" in seen.dom


@pytest.mark.parametrize("size", ["1200,3200", "390,7000"])
def test_claims_deviations_and_plots_can_be_seen(page: Path, size: str) -> None:
    """The screenshots lie beside the page, as artifacts of the run."""
    with Image.open(browse(page, size).shot) as image:
        painted = {colour: count for count, colour in image.convert("RGB").getcolors(1 << 24) or ()}
        assert image.size == tuple(map(int, size.split(",")))
    assert painted.get(BAD, 0) > 100, "words in red"
    assert sum(painted.get(colour, 0) for colour in BOXES) > 1000, "the box of pgfree, some 20 x 80"


def test_phone_needs_no_scrolling_sideways(page: Path) -> None:
    assert too_wide(page) <= 0


def test_a_page_that_is_too_wide_would_be_seen(page: Path) -> None:
    wide = page.with_name("wide.html")
    text = page.read_text(encoding="utf-8")
    wide.write_text(text.replace("<main>", '<main><p style="width: 60rem">wide</p>'), encoding="utf-8")
    assert too_wide(wide) > 0


def test_the_page_of_the_history(tmp_path: Path) -> None:
    history = History.open(str(tmp_path / "h.sqlite"), make=True)
    for number in range(1, 9):
        verdict = Verdict.DEVIATES if number > 5 else Verdict.PASS
        wrong = step(0, finding("unaccounted", 0, 1, verdict=verdict))
        info = run_info(verdict, started=f"2026-01-{number:02d}T00:00:00+00:00")
        add(history, record(info, [case("<script>" * 9, verdict, wrong), case("b")], tmp_path / f"run{number}"))
    for host in ("snp1", "a-host-with-a-long-name.example", "tdx1", "tdx2"):
        info = run_info(started="2026-01-09T00:00:00+00:00", host={"name": host})
        add(history, record(info, [case("b")], tmp_path / host))
    page = tmp_path / "status.html"
    page.write_text(status_page(Status(date(2026, 1, 9), statuses(history, today=date(2026, 1, 9))), tmp_path))
    seen = browse(page)
    assert (seen.console, seen.asked) == ([], [])
    assert "since 2026-01-06T00:00:00Z" in seen.dom
    assert '<span class="good">·····</span><span class="bad">×××</span>' in seen.dom
    assert '<a href="./run8/report.html">report</a>' in seen.dom
    assert "<script" not in seen.dom
    (row,) = re.findall(r"<tr><td>7.3, sw-protected, order0</td>(.*?)</tr>", seen.dom)
    assert re.findall(r">([a-z-]+)</span>", row) == ["pass", "pass", "pass", "pass", "deviates"]
    assert too_wide(page) <= 0
