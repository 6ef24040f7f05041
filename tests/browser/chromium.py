# SPDX-License-Identifier: GPL-2.0-only
"""A page in Chromium without a network: what became of it, what the console said, what it asked for, how it looks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SECONDS = 120.0
"""Deadline of one start of the browser; it takes 2 s on an idle machine."""

DESKTOP, PHONE = "1200,2400", "390,1600"

WIDTH_PROBE = """<script>
addEventListener("load", () => { document.body.dataset.tooWide = document.documentElement.scrollWidth - innerWidth; });
</script></body>"""


@dataclass(frozen=True)
class Seen:
    """A page after its scripts ran."""

    dom: str
    console: list[str]
    asked: list[str]
    """Addresses that were asked for, besides files."""
    shot: Path


def browse(page: Path, size: str = DESKTOP) -> Seen:
    """Open a page in a window of that size; the screenshot lies beside it, as an artifact of the run."""
    browser = shutil.which("chromium")
    assert browser, "the browser is missing: apt-get install chromium (ci/setup does)"
    shot = page.with_name(f"{page.stem}-{size.replace(',', 'x')}.png")
    log = page.with_name(f"{page.stem}-{size.replace(',', 'x')}-net.json")
    words = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}",
        "--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
        "--virtual-time-budget=20000", f"--window-size={size}", f"--screenshot={shot}", f"--log-net-log={log}",
        "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=True)
    return Seen(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked_for(log), shot)


def asked_for(log: Path) -> list[str]:
    """Addresses that pages asked for; what the browser asks its maker for by itself is no page's doing."""
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    tabs = [event["params"] for event in events if "initiator" in event.get("params", {})]
    return sorted({one["url"] for one in tabs if one["initiator"] != "not an origin" and "url" in one})


def too_wide(page: Path, size: str = PHONE) -> int:
    """Pixels by which a page is wider than a window of that size; below 1 nobody scrolls sideways."""
    probe = page.with_name(f"{page.stem}-probe.html")
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"script-src[^;\"]*;?|default-src 'none';?", "", text, count=2)  # the probe itself is a script
    probe.write_text(text.replace("</body>", WIDTH_PROBE), encoding="utf-8")
    match = re.search(r'data-too-wide="(-?[0-9]+)"', browse(probe, size).dom)
    assert match, "the probe did not run"
    return int(match[1])
