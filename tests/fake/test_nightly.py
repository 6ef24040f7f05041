# SPDX-License-Identifier: GPL-2.0-only
"""``gmem nightly`` with a real master and real workers: whatever dies, every result is whole and nothing is left."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
from pathlib import Path

import pytest
from nightly_bench import BAD, GOOD, MATRIX, Bench, get, make_bench, until

from harness.nightly.leftovers import marked


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path, MATRIX)


def test_every_cell_once_whatever_dies(bench: Bench) -> None:
    bench.order(**{"7.3_a": ["slow", 0], "7.3_b": [3, 3, 0], "next_a": [1], "next_b": [1]})
    with bench.start("once", "--config", str(bench.matrix), "--json") as once:
        slow = until(lambda: next((one for one in bench.said() if "slow" in one), None), once)
        settings = json.loads((bench.state / "settings.json").read_text())
        url = f"http://127.0.0.1:{settings['web_port']}/"
        assert "grid_view" in get(url), "the page names the plugin"
        assert "/grid" in get(f"{url}plugins/grid_view/scripts.js")
        os.kill(slow["worker"], signal.SIGKILL)
        stdout, stderr = once.communicate(timeout=240)
    assert once.returncode == 1, stderr
    assert "the worker of a died (SIGKILL): started again" in stderr
    cells = {(cell["kernel"], cell["host"]): cell for cell in json.loads(stdout)["cells"]}
    assert {key: (cell["told"]["verdict"], cell["told"]["tries"]) for key, cell in cells.items()} == {
        ("7.3", "a"): ("pass", 2),
        ("7.3", "b"): ("pass", 3),
        ("next", "a"): ("deviates", 1),
        ("next", "b"): ("deviates", 1),
    }
    assert bench.heard("ended") == ["7.3 a"], "the run ended with its worker"
    folder = Path(cells["7.3", "a"]["told"]["folder"])
    assert re.fullmatch(r"\d{8}-2", folder.name)
    assert (folder / "run.json").is_file(), "the result is that of the second attempt, and whole"
    check_words(bench)
    assert all(cells["next", host]["bisection"]["found"] == BAD for host in ("a", "b"))
    for host in ("a", "b"):
        runs = [one for one in bench.said() if "run" in one and one["run"].endswith(host)]
        assert all(one["to"] <= other["from"] for one, other in itertools.pairwise(runs)), "one at a time"
    assert marked(bench.state) == []


def check_words(bench: Bench) -> None:
    """What the commands of the jobs were."""
    assert len(bench.heard("bisect")) == 1, "the same commits on two hosts are bisected once"
    words = bench.heard("bisect")[0]
    assert words[1:4] == ["smoke", "--tree", str(bench.folder / "linux")]
    assert words[words.index("--good") + 1 : words.index("--good") + 4] == [GOOD, "--bad", BAD]
    assert words[words.index("-k") + 1] == "one_page"
    run = next(one["words"] for one in bench.said() if one.get("run") == "7.3 b")
    assert run[: run.index("--out")] == [
        *("run", "smoke", "--kernel", "7.3", "--host", str(bench.folder / "b.yaml"), "--guest", "snp-stand-in"),
        *("--design", "auto", "-k", "one_page"),
    ]
    added = [words for words in bench.heard("other") if words[:2] == ["history", "add"]]
    assert len(added) == 4, "attempts that are run again are not added"
    assert sum(words[-4:] == ["--branch", "topic", "--commit", BAD] for words in added) == 2
