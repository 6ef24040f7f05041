# SPDX-License-Identifier: GPL-2.0-only
"""The page of ``gmem model`` in a browser that has no network: it shows its curves, and complains of nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from harness.cli.main import main
from harness.report.model_terms import PLOTS
from tests.browser.chromium import browse, too_wide

DESIGNS = ("order0", "thp-discard", "inplace-thp")
COLOURS = ((0x09, 0x69, 0xDA), (0xCF, 0x22, 0x2E), (0x1A, 0x7F, 0x37))
"""What the page paints them in, in this order (harness/report/model.html.j2)."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all curves and a table of predictions, kept for whoever looks at a failed test."""
    out = tmp_path_factory.mktemp("page")
    words = ["model", "--compare", ",".join(DESIGNS), "--scenario", "repeated-partial", "--memory", "2T"]
    assert main([*words, "--conversions", "20000", "--out", str(out)]) == 0
    return out / "model.html"


def drawn(dom: str) -> dict[str, list[str]]:
    """For each plot, the paths of its curves as plotly drew them; samples of a line in the legend are no curves."""
    parts = re.split(r'id="plot-(\w+)"', dom)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    return {name: re.findall(r'class="js-line"[^>]* d="(M[^"]*L[^"]+)"', part) for name, part in found.items()}


def test_curves_are_drawn(page: Path) -> None:
    seen = browse(page)
    dom = seen.dom
    assert (seen.console, seen.asked) == ([], [])
    curves = drawn(dom)
    assert list(curves) == [plot.column for plot in PLOTS]
    for name, paths in curves.items():
        assert len(paths) == len(DESIGNS), f"plot {name} has {len(paths)} curves"
    for name in ("unusable", "pinned", "huge", "splits"):
        points = re.findall(r"[ML]([0-9.]+),([0-9.]+)", curves[name][DESIGNS.index("thp-discard")])
        assert len({height for _, height in points}) > 1, f"the curve of {name} is flat: {points}"
    assert curves["huge"][DESIGNS.index("thp-discard")] != curves["huge"][DESIGNS.index("inplace-thp")]
    for design in DESIGNS:
        assert dom.count(f">{design}</text>") >= len(PLOTS), f"no legend names {design}"


def test_screenshot_is_not_blank(page: Path) -> None:
    """Kept beside the page, as an artifact of the run."""
    shot = browse(page).shot
    with Image.open(shot) as image:
        assert image.size == (1200, 2400)
        painted = {colour: count for count, colour in image.convert("RGB").getcolors(1 << 24) or ()}
    for design, colour in zip(DESIGNS, COLOURS, strict=True):
        assert painted.get(colour, 0) > 500, f"the curves of {design} cannot be seen in {shot}"
    assert len(painted) > 50


def test_blank_page_would_be_seen(page: Path) -> None:
    """The two checks above can fail: without plotly.js there are no curves, and the console says so."""
    text = page.read_text(encoding="utf-8")
    broken = page.with_name("broken.html")
    broken.write_text(re.sub(r"<script>/\*.*?</script>", "", text, count=1, flags=re.S), encoding="utf-8")
    seen = browse(broken)
    assert not any(drawn(seen.dom).values())
    assert "Plotly is not defined" in "".join(seen.console)


def test_phone_needs_no_scrolling_sideways(page: Path) -> None:
    assert too_wide(page) <= 0


def test_nothing_is_asked_of_the_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", text.split("<script>", 1)[0])
