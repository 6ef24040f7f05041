# SPDX-License-Identifier: GPL-2.0-only
"""The records of planted faults: those that are there can be read, and a wrong one is one clear sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.images.recipes import SOURCE_ROOT
from harness.kernel.patches import touched_files
from harness.run.verdict import Verdict
from tests.planted.faults import FAULTS, UNCAUGHT, load, load_all, names

RECORD = {
    "kernel": '"7.3"',
    "suffers": "the host loses a page",
    "cases": 'smoke conversion -k "one_page or (there and back)"',
    "verdict": "deviates",
    "counter": "F|pgfree",
    "words": "leave the page cache",
}


def planted(folder: Path, name: str = "leak", **changed: str | None) -> Path:
    """A folder with one fault; a key that is None is left out."""
    record = {**RECORD, **changed}
    (folder / f"{name}.patch").write_text("--- a/mm/truncate.c\n+++ b/mm/truncate.c\n")
    text = "".join(f"{key}: {value}\n" for key, value in record.items() if value is not None)
    (folder / f"{name}.yaml").write_text(text)
    return folder


def test_a_record_is_read(tmp_path: Path) -> None:
    fault = load("leak", planted(tmp_path))
    assert (fault.kernel, fault.verdict, fault.counter) == ("7.3", Verdict.DEVIATES, "F|pgfree")
    assert fault.suites == ("smoke", "conversion")
    assert fault.expression == "one_page or (there and back)"
    assert fault.cases_words == ("smoke", "conversion", "-k", "one_page or (there and back)")


def test_a_record_may_leave_the_suites_to_the_run(tmp_path: Path) -> None:
    fault = load("leak", planted(tmp_path, cases="-k one_page"))
    assert (fault.suites, fault.expression) == ((), "one_page")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"kernel": "7.33"}, "there is no kernel 7.33"),
        ({"verdict": "infra"}, "Invalid enum value 'infra'"),
        ({"suffers": None}, "missing required field `suffers`"),
        ({"sufferz": "x"}, "unknown field `sufferz`"),
        ({"suffers": "''"}, "suffers has to be one line"),
        ({"counter": "'(F'"}, "counter is no regular expression"),
        ({"counter": "''", "words": "''"}, "neither counter nor words say what must be named"),
        ({"cases": "smoke --patch mine"}, "--patch"),
        ({"cases": "smoke -k"}, "-k needs an expression"),
        ({"cases": "'smoke -k \"open'"}, "No closing quotation"),
        ({"words": "[a"}, "not YAML"),
    ],
)
def test_a_wrong_record_is_one_sentence_with_its_file(
    tmp_path: Path, changed: dict[str, str | None], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load("leak", planted(tmp_path, **changed))
    assert words in str(caught.value)
    assert str(tmp_path / "leak.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_patch_without_a_record_and_a_record_without_a_patch_are_errors(tmp_path: Path) -> None:
    planted(tmp_path)
    (tmp_path / "leak.yaml").rename(tmp_path / "other.yaml")
    with pytest.raises(UsageError, match=r"leak\.patch has no record leak\.yaml"):
        load_all(folder=tmp_path)
    with pytest.raises(UsageError, match=r"its patch other\.patch is not beside it"):
        load("other", tmp_path)


def test_an_unknown_fault_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no planted fault leek: .* has leak"):
        load("leek", planted(tmp_path))


def test_stock_kernels_come_first(tmp_path: Path) -> None:
    planted(tmp_path, "b")
    planted(tmp_path, "a", kernel="7.3-inplace")
    planted(tmp_path, "c", kernel='"6.12"')
    assert [fault.name for fault in load_all(folder=tmp_path)] == ["b", "c", "a"]


@pytest.mark.parametrize("folder", [FAULTS, UNCAUGHT])
def test_every_fault_there_is(folder: Path) -> None:
    for fault in load_all(folder=folder):
        text = fault.patch.read_text()
        assert text.startswith("SPDX-License-Identifier: GPL-2.0-only\nSubject: "), fault.name
        assert touched_files(text), fault.name
        assert len(fault.suffers) <= 140, fault.name


def test_what_is_not_caught_is_told_with_the_reason() -> None:
    page = (SOURCE_ROOT / "docs" / "planted.md").read_text()
    told = set(re.findall(r"^\| `([a-z0-9-]+)` \|", page.partition("## What is not caught")[2], re.MULTILINE))
    assert told == set(names(UNCAUGHT))
    assert not told & set(names())
