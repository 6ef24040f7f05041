# SPDX-License-Identifier: GPL-2.0-only
"""Fragments, and the check that each of their lines took effect."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InfraError, UsageError
from harness.kernel.catalog import HOST_CONFIGS
from harness.kernel.config import Wish, check_config, fragment_text, parse_config, read_fragments, unmet

FRAGMENT = """\
# a heading
CONFIG_A=y
# CONFIG_B is not set
CONFIG_NAME="x y"
# optional:
CONFIG_NEW=y
CONFIG_NEWER=n

CONFIG_C=n
"""


@pytest.fixture
def wishes(tmp_path: Path) -> dict[str, Wish]:
    (tmp_path / "one.config").write_text(FRAGMENT)
    return read_fragments([tmp_path / "one.config"])


def test_lines_of_a_fragment(wishes: dict[str, Wish]) -> None:
    assert {symbol: wish.value for symbol, wish in wishes.items()} == {
        "CONFIG_A": "y",
        "CONFIG_B": "n",
        "CONFIG_NAME": '"x y"',
        "CONFIG_NEW": "y",
        "CONFIG_NEWER": "n",
        "CONFIG_C": "n",
    }
    assert [symbol for symbol, wish in wishes.items() if wish.optional] == ["CONFIG_NEW", "CONFIG_NEWER"]
    assert wishes["CONFIG_C"].where == "one.config:9"


def test_the_later_fragment_wins(tmp_path: Path, wishes: dict[str, Wish]) -> None:
    (tmp_path / "two.config").write_text("CONFIG_A=n\n")
    assert read_fragments([tmp_path / "one.config", tmp_path / "two.config"])["CONFIG_A"].value == "n"


def test_text_and_wishes_round_trip(tmp_path: Path, wishes: dict[str, Wish]) -> None:
    (tmp_path / "again").write_text(fragment_text(wishes))
    again = read_fragments([tmp_path / "again"])
    assert {s: (w.value, w.optional) for s, w in again.items()} == {s: (w.value, w.optional) for s, w in wishes.items()}


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.config").write_text("CONFIG_A=y\nCONFIG_B\n")
    with pytest.raises(UsageError, match=r"bad.config, line 2 is not a line of a kernel configuration: CONFIG_B"):
        read_fragments([tmp_path / "bad.config"])
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_fragments([tmp_path / "none.config"])


def test_what_holds_and_what_does_not(wishes: dict[str, Wish]) -> None:
    good = parse_config('CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_NAME="x y"\n# CONFIG_C is not set\n')
    assert unmet(wishes, good) == []
    assert unmet(wishes, {**good, "CONFIG_A": "m"}) == ["CONFIG_A"]
    assert unmet(wishes, {**good, "CONFIG_B": "y"}) == ["CONFIG_B"]
    assert unmet(wishes, {symbol: value for symbol, value in good.items() if symbol != "CONFIG_A"}) == ["CONFIG_A"]


def test_the_error_tells_an_unknown_symbol_from_an_unmet_dependency(tmp_path: Path, wishes: dict[str, Wish]) -> None:
    (tmp_path / "Kconfig").write_text("config A\n\tbool\n")
    (tmp_path / "mm").mkdir()
    (tmp_path / "mm" / "Kconfig").write_text("menuconfig C\n\tbool\n")
    config = {"CONFIG_C": "y"}
    with pytest.raises(InfraError) as caught:
        check_config(wishes, config, tmp_path, "x")
    sentence = str(caught.value)
    assert "CONFIG_A=y (one.config:2; it became n: something that it depends on is missing" in sentence
    assert "CONFIG_C=n (one.config:9; it became y" in sentence
    assert 'CONFIG_NAME="x y" (one.config:4; this kernel has no such option)' in sentence
    assert "CONFIG_NEW" not in sentence


def test_a_wrong_fragment_is_not_listed_line_by_line(tmp_path: Path) -> None:
    wishes = {f"CONFIG_{letter}": Wish("y", False, "f:1") for letter in "ABCDEFGH"}
    with pytest.raises(InfraError, match=r"CONFIG_D=y \([^)]*\); and 4 more; correct the fragment"):
        check_config(wishes, {}, tmp_path, "x")


@pytest.mark.parametrize(
    "symbol",
    ["KVM_SW_PROTECTED_VM", "KVM_AMD", "NUMA", "PAGE_OWNER", "TRANSPARENT_HUGEPAGE", "HUGETLBFS", "CACHESTAT_SYSCALL"],
)
def test_the_fragment_of_the_project_insists_on_the_subject(symbol: str) -> None:
    wish = read_fragments([HOST_CONFIGS / "fragments" / "emulated-host.config"])[f"CONFIG_{symbol}"]
    assert (wish.value, wish.optional) == ("y", False)
