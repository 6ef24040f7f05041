# SPDX-License-Identifier: GPL-2.0-only
"""``gmem model`` from the command line: what it answers, what it writes, and one clear sentence for what cannot be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.model.curves.designs import DESIGNS
from harness.model.curves.simulate import COLUMNS
from harness.model.curves.whatif import SCENARIOS
from tests.fake.kernel_texts import BUDDYINFO, PAGETYPEINFO, TEXTS, VMSTAT, ZONEINFO

Ask = Callable[..., str]
SMALL = ("--memory", "64M", "--conversions", "300")


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs ``gmem model`` in an empty folder; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path, code: int = 0) -> str:
        assert main(["model", *map(str, words)]) == code
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return said.out if code == 0 else said.err

    return run


def answer(ask: Ask, *words: str | Path) -> dict[str, Any]:
    found = json.loads(ask(*words, "--json"))
    assert isinstance(found, dict)
    return found


def test_comparison(ask: Ask, tmp_path: Path) -> None:
    """The command of the documentation, smaller."""
    said = ask("--compare", "order0,thp-discard,inplace-thp", "--scenario", "repeated-partial", *SMALL)
    for words in ("huge folios left", "pageblocks pinned", "thp-discard", "▁", "█", "page: gmem-model/model.html"):
        assert words in said
    page = (tmp_path / "gmem-model/model.html").read_text(encoding="utf-8")
    assert "plotly" in page
    assert '"name":"thp-discard"' in page
    assert "enters the page cache" in page, "reasons of the step model are on the page"


def test_json_is_one_object(ask: Ask) -> None:
    found = answer(ask, "repeated-partial", "--compare", "order0,inplace", *SMALL)
    assert [curve["label"] for curve in found["curves"]] == ["order0", "inplace"]
    for curve in found["curves"]:
        assert set(curve["columns"]) == {column.name for column in COLUMNS}
        assert len({len(values) for values in curve["columns"].values()}) == 1
        assert 100 <= len(curve["columns"]["huge"]) <= 200
    assert found["guest_pages"] == 64 << 8
    assert found["predictions"][0]["steps"][1]["counters"]["nr_file_pages"]["low"] == 512


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_runs(ask: Ask, name: str) -> None:
    found = answer(ask, name, *SMALL)
    assert found["curves"] or found["predictions"]
    assert all(not curve["ended"] for curve in found["curves"])


def test_every_claim_has_a_scenario() -> None:
    claims = {claim for scenario in SCENARIOS.values() for claim in scenario.claim.split()}
    assert claims == {f"C{number}" for number in range(1, 13)}


@pytest.mark.parametrize("design", DESIGNS)
def test_every_design_runs(ask: Ask, design: str) -> None:
    (curve,) = answer(ask, "random-4k", "--design", design, *SMALL)["curves"]
    assert curve["columns"]["converted"][-1] > 0


def test_same_seed_same_answer(ask: Ask) -> None:
    one, again, other = (answer(ask, "random-4k", "--seed", seed, *SMALL)["curves"] for seed in ("5", "5", "6"))
    assert one == again != other


def test_folio_order_by_name(ask: Ask) -> None:
    (curve,) = answer(ask, "random-4k", "--design", "thp-discard:4", *SMALL)["curves"]
    assert curve["columns"]["huge"][0] == 64 << 8 >> 4


def test_explain(ask: Ask) -> None:
    said = ask("partial-free", "--explain", "nr_unevictable", "--step", "2", "--design", "order0")
    assert "step 2 (convert g0.r0[7:8] to shared): nr_unevictable -1" in said
    assert "punch: 1 present private page of g0.r0[7:8] leaves the page cache" in said
    both = ask("partial-free", "--explain", "nr_unevictable", "--step", "2", "--compare", "order0,inplace")
    assert both.count("nr_unevictable") >= 2
    assert "design inplace\n" in both
    plain = answer(ask, "partial-free", "--explain", "F", "--step", "1", "--compare", "order0,inplace")
    assert set(plain["explanations"]) == {"order0", "inplace"}


def test_list(ask: Ask) -> None:
    said = ask("--list")
    assert all(name in said for name in [*SCENARIOS, *DESIGNS])
    assert [row["name"] for row in answer(ask, "--list")["scenarios"]] == list(SCENARIOS)


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def kept(values: dict[str, int]) -> str:
    return json.dumps({"raw": {"zoneinfo": ZONEINFO}, "time_ns": 1, "values": values})


def test_sample_that_a_run_kept(ask: Ask, tmp_path: Path) -> None:
    values = {"F": 1 << 20, "free_order/9": 100, "free_order/10": 800, "free/Movable": 1, "free/Unmovable": 0}
    sample = write(tmp_path, "start.json", kept(values))
    found = answer(ask, "random-4k", "--sample", sample, "--conversions", "100")
    assert found["guest_pages"] == 1 << 19, "half of what is free"
    assert found["host"] == {"blocks": 1700 - 1024, "free": 1 << 19, "pcp_pages": 4096, "says": "host of start.json"}
    assert found["notes"] == []
    (thp,) = answer(ask, "random-4k", "--sample", sample, "--memory", "4G", "--design", "thp-discard")["curves"]
    assert thp["columns"]["huge"][0] == 1700, "windows beyond the host's free blocks get single pages"


ORDERS = ("vmstat zoneinfo pagetypeinfo buddyinfo", "buddyinfo pagetypeinfo vmstat zoneinfo")


@pytest.mark.parametrize("order", [*ORDERS, "pagetypeinfo buddyinfo zoneinfo vmstat"])
@pytest.mark.parametrize("marks", [False, True], ids=["cat", "tail"])
def test_texts_in_one_file(ask: Ask, tmp_path: Path, order: str, marks: bool) -> None:
    parts = [f"==> /proc/{name} <==\n{TEXTS[name]}\n" if marks else TEXTS[name] for name in order.split()]
    text = "".join(parts)
    found = answer(ask, "random-4k", "--sample", write(tmp_path, "host.txt", text), *SMALL)
    assert found["host"]["free"] == 2097152 + 100 - (64 << 8)
    assert found["host"]["blocks"] == 4096 - 32
    assert found["host"]["pcp_pages"] == 4096
    assert [note for note in found["notes"] if "meminfo" not in note] == []


def test_texts_in_a_folder(ask: Ask, tmp_path: Path) -> None:
    for name, text in TEXTS.items():
        write(tmp_path, name, text)
    assert answer(ask, "random-4k", "--sample", tmp_path, *SMALL)["host"]["blocks"] == 4096 - 32


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (VMSTAT + ZONEINFO + PAGETYPEINFO, "free 2 MiB blocks are unknown without buddyinfo"),
        (VMSTAT + ZONEINFO + BUDDYINFO, "free Unmovable pages are unknown"),
        (VMSTAT + BUDDYINFO + PAGETYPEINFO, "pages on per-CPU lists are unknown without zoneinfo"),
        (
            VMSTAT + ZONEINFO + BUDDYINFO + PAGETYPEINFO.replace("  2048 ", " >100000 "),
            "free Movable pages are unknown",
        ),
        (VMSTAT + ZONEINFO.replace("  pagesets", "  novelty of 8.1") + BUDDYINFO, "counters of zoneinfo are unknown"),
    ],
    ids=["no-buddyinfo", "no-pagetypeinfo", "no-zoneinfo", "more-than-100000", "new-line"],
)
def test_what_a_sample_does_not_say_is_unknown(ask: Ask, tmp_path: Path, text: str, words: str) -> None:
    """Said so, and not taken for 0."""
    sample = write(tmp_path, "host.txt", text)
    notes = answer(ask, "random-4k", "--sample", sample, *SMALL)["notes"]
    assert any(words in note for note in notes), notes
    assert "note: " in ask("random-4k", "--sample", sample, *SMALL)


BAD = {
    "design": (("--design", "thp-discrad"), "unknown gmem design 'thp-discrad': did you mean 'thp-discard'?"),
    "designs": (("--compare", "order0,inplac"), "did you mean 'inplace'?"),
    "both": (("--compare", "order0", "--design", "order0"), "exclude each other"),
    "scenario": (("repeated-partail",), "unknown scenario 'repeated-partail': did you mean 'repeated-partial'?"),
    "two scenarios": (("strided", "--scenario", "bursts"), "name one scenario"),
    "backing": (("--backing", "anon-4K"), "unknown shared backing 'anon-4K': did you mean 'anon-4k'?"),
    "no size": (("--memory", "lots"), "--memory 'lots' is not a size"),
    "no memory": (("--memory", "0"), "between 2M and 256T"),
    "much memory": (("--memory", "4096P"), "between 2M and 256T"),
    "odd memory": (("--memory", "2101248"), "multiple of 2 MiB"),
    "no conversions": (("--conversions", "0"), "between 1 and"),
    "many conversions": (("--conversions", "1000000000000"), "between 1 and"),
    "order": (("--design", "thp-discard:40"), "it has orders 0 to 9"),
    "order of order0": (("--design", "order0:9"), "it has orders 0 to 0"),
    "order word": (("--design", "thp-discard:big"), "after the colon comes the order"),
    "seed": (("--seed", "-1"), "not in the range"),
    "step alone": (("--step", "1"), "--explain COUNTER and --step N belong together"),
    "step outside": (("--explain", "F", "--step", "99"), "it has steps 0 to"),
    "counter": (("--explain", "nr_unevictible", "--step", "1"), "did you mean 'nr_unevictable'?"),
    "explain a stream": (("random-4k", "--explain", "F", "--step", "1"), "is a stream of conversions"),
    "no file": (("nothing.yaml",), "nothing.yaml cannot be read: No such file"),
    "no sample": (("--sample", "nothing.json"), "nothing.json cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_command_lines(ask: Ask, name: str) -> None:
    words, sentence = BAD[name]
    said = ask(*words, code=4)
    assert sentence in said
    assert said.count("\n") == 1


STREAM = "name: mine\nstream: {pattern: share"
BAD_FILES = {
    "outside": ("name: x\nsteps:\n- {do: populate, range: 'g0.r0[0:9999]'}\n", "ends at page 9999"),
    "other region": ("name: x\nsteps:\n- {do: populate, range: 'g0.r1[0:1]'}\n", "guest g0 has only g0.r0"),
    "overlap": (STREAM + ", regions: ['0:1024', '512:2048']}\n", "regions of a stream overlap: 0:1024"),
    "outside the guest": (STREAM + ", regions: ['0:9999999999']}\n", "ends outside the guest"),
    "no region": (STREAM + ", regions: ['5:5']}\n", "not of the form 0:512"),
    "cut": (STREAM + ", cell_order: 9, regions: ['0:100']}\n", "cut within a conversion"),
    "pattern": ("name: x\nstream: {pattern: bonce}\n", "did you mean 'bounce'?"),
    "key": ("name: x\nstream: {patern: bounce}\n", "unknown key 'patern': did you mean 'pattern'?"),
    "zero": ("name: x\nstream: {live: 0}\n", "at least 1"),
    "no yaml": ("name: [\n", "not readable as YAML"),
    "empty": ("", "a scenario is a mapping"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_scenario_files(ask: Ask, tmp_path: Path, name: str) -> None:
    text, sentence = BAD_FILES[name]
    said = ask(write(tmp_path, "mine.yaml", text), "--memory", "64M", code=4)
    assert sentence in said
    assert said.count("\n") == 1


BAD_SAMPLES = {
    "torn json": (kept({"F": 1 << 20})[:-30], "is torn"),
    "other json": ('{"values": {"F": "many"}}', "no sample that gmem run kept"),
    "empty json": ('{"values": {}}', "has no counters"),
    "nothing free": (kept({"nr_file_pages": 5}), "does not say how much memory is free"),
    "too small": (kept({"F": 1000}), "does not fit the host of host, which has 1000 pages free"),
    "negative": (kept({"F": 1 << 20, "free_order/9": -7}), "negative"),
    "torn text": (VMSTAT + ZONEINFO[:-5], "is torn"),
    "prose": ("Once upon a time\n", "neither JSON nor a text of /proc"),
    "empty": ("", "has no text of /proc"),
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_bad_samples(ask: Ask, tmp_path: Path, name: str) -> None:
    text, sentence = BAD_SAMPLES[name]
    said = ask("random-4k", "--sample", write(tmp_path, "host", text), "--memory", "1G", code=4)
    assert sentence in said
    assert said.count("\n") == 1


def test_steps_from_a_file(ask: Ask, tmp_path: Path) -> None:
    text = "name: mine\nsteps:\n- {do: convert, range: 'g0.r0[0:512]', to: private}\n"
    text += "- {do: populate, range: 'g0.r0[0:512]'}\n"
    found = answer(ask, write(tmp_path, "mine.yaml", text), "--design", "order0")
    assert found["curves"] == []
    pages = found["predictions"][0]["steps"][1]["counters"]["nr_file_pages"]
    assert (pages["low"], pages["high"], len(pages["reasons"])) == (512, 512, 1)


def test_stream_from_a_file_stays_in_its_regions(ask: Ask, tmp_path: Path) -> None:
    text = STREAM + ", regions: ['512:1024', '4096:4608']}\n"
    found = answer(ask, write(tmp_path, "mine.yaml", text), "--design", "thp-discard", *SMALL)
    huge = found["curves"][0]["columns"]["huge"]
    assert huge[0] - huge[-1] == 2


def test_names_are_escaped_on_the_page(ask: Ask, tmp_path: Path) -> None:
    text = "name: '</script><script>alert(1)</script>'\nquestion: '<img src=x onerror=alert(1)>'\nstream: {}\n"
    ask(write(tmp_path, "mine.yaml", text), *SMALL)
    page = (tmp_path / "gmem-model/model.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_page_that_cannot_be_written(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    assert "cannot be written" in ask("partial-free", "--out", "taken/below", *SMALL, code=3)


HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto-model.md"


def test_documented_scenarios_are_the_built_in_ones() -> None:
    said = HOWTO.read_text(encoding="utf-8").split("## Scenarios", 1)[1].split("##", 1)[0]
    rows = [line.split("|")[1:3] for line in said.splitlines() if line.startswith("| `")]
    assert [(name.strip(" `"), claim.strip()) for name, claim in rows] == [
        (s.name, s.claim) for s in SCENARIOS.values()
    ]


def test_documented_stream_runs(ask: Ask, tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", HOWTO.read_text(encoding="utf-8"), re.S)
    found = answer(ask, write(tmp_path, "mine.yaml", example), "--memory", "2G", "--conversions", "300")
    assert found["question"] == "What do the bounce buffers of my guest do?"
    assert found["scenario"] == "bounce buffers"
