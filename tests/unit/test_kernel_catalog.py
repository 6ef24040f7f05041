# SPDX-License-Identifier: GPL-2.0-only
"""kernels.yaml is read strictly: what is wrong is named, with place and nearest known word."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.kernel.catalog import HOST_CONFIGS, Catalog

GOOD = """\
default: stock
kernels:
  stock:
    series: 7.10
    suites: [sid]
    config: [base.config]
  patched:
    from: stock
    config: [more.config]
    patches: [one.patch]
  twice:
    from: patched
    patches: [two.patch]
    note: patched twice
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fragments").mkdir()
    for name in ("base.config", "more.config"):
        (tmp_path / "fragments" / name).write_text("CONFIG_X=y\n")
    (tmp_path / "patches" / "7.10").mkdir(parents=True)
    for name in ("one.patch", "two.patch"):
        (tmp_path / "patches" / "7.10" / name).write_text("")
    return tmp_path


def load(folder: Path, text: str) -> Catalog:
    (folder / "kernels.yaml").write_text(text)
    return Catalog.load(folder / "kernels.yaml")


def test_a_derived_kernel_has_everything_of_its_bases_first(folder: Path) -> None:
    catalog = load(folder, GOOD)
    assert catalog.names() == ("stock", "patched", "twice")
    recipe = catalog.recipe("twice")
    assert recipe.series == "7.10", "a series is text, not a number"
    assert recipe.package == "linux-source-7.10"
    assert recipe.suites == ("sid",)
    assert [path.name for path in recipe.config] == ["base.config", "more.config"]
    assert recipe.patches == (folder / "patches/7.10/one.patch", folder / "patches/7.10/two.patch")
    assert recipe.note == "patched twice"
    assert catalog.recipe("stock").patches == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("    from: stock", "    form: stock"), r"unknown key form \(did you mean from\?\); known are from, series"),
        (
            ("default: stock", "defalt: stock"),
            r"unknown key defalt \(did you mean default\?\); known are default, kern",
        ),
        (("default: stock", "default: stack"), "the default kernel stack is not in the list"),
        (("    from: stock", "    from: stack"), "kernel patched is derived from stack, which is not in the list"),
        (("    from: stock", "    from: twice"), r"derived from itself \(\w+ from \w+ from \w+\)"),
        (("    from: stock", "    from: stock\n    series: 7.3"), "series, suites and version are those of stock"),
        (("    series: 7.10", "    series: seven"), "kernel stock needs a series like 7.3"),
        (("    suites: [sid]\n", ""), "kernel stock needs suites"),
        (("    config: [base.config]\n", ""), "kernel stock needs config"),
        (("[one.patch]", "[three.patch]"), "names .*7.10/three.patch, which does not exist"),
        (("[one.patch]", "one.patch"), r"Expected `array`.*patched.*patches|Expected `array`"),
        (("  patched:", "  stock:"), "line 7: the key stock is given twice"),
        (("kernels:", "kernels: ["), "line"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, change: tuple[str, str], sentence: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(UsageError, match=sentence) as caught:
        load(folder, GOOD.replace(*change, 1))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_an_unknown_name_gets_the_nearest_and_all(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no kernel patchd \(did you mean patched\?\); kernels.yaml has stock, pat"):
        load(folder, GOOD).recipe("patchd")


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        Catalog.load(folder / "none.yaml")


def test_the_list_of_the_project_is_valid() -> None:
    catalog = Catalog.load(HOST_CONFIGS / "kernels.yaml")
    assert {"7.3", "6.12"} <= set(catalog.names())
    assert catalog.recipe(catalog.default).package == f"linux-source-{catalog.default}"


def test_every_patch_of_a_demonstrator_is_used_and_described() -> None:
    catalog = Catalog.load(HOST_CONFIGS / "kernels.yaml")
    used = {patch for name in catalog.names() for patch in catalog.recipe(name).patches}
    assert used == set((HOST_CONFIGS / "patches").glob("*/*.patch"))
    document = (HOST_CONFIGS.parent / "docs" / "kernels.md").read_text()
    for name in catalog.names():
        for patch in catalog.recipe(name).patches:
            assert f"\n## {patch.stem}\n" in document
            assert f"`{name}`" in document
    for patch in used:
        assert patch.read_text().startswith("SPDX-License-Identifier: GPL-2.0-only\nSubject: ")
