# SPDX-License-Identifier: GPL-2.0-only
"""The reference is what the code says, and complete; the manual page is one; the shell completes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import __version__
from harness.cli.main import COMMANDS
from harness.counters.registry import COUNTERS
from harness.reference.__main__ import main as write
from harness.reference.commands import commands
from harness.reference.pages import FOLDER, pages

NAMES = sorted(pages())


@pytest.mark.parametrize("name", NAMES)
def test_it_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], "run: python -m harness.reference"


def test_nothing_else_lies_there() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == NAMES


def test_every_command_and_option_is_in_it() -> None:
    text = pages()["cli.md"]
    told = commands()
    assert {command.path.split()[1] for command in told[1:]} == set(COMMANDS)
    for command in told:
        assert f" {command.path}\n" in text
        for option in command.options:
            assert option.says, f"{command.path} {option.names} has no help"


def test_every_counter_is_in_it() -> None:
    text = pages()["counters.md"]
    assert all(f"| `{spec.name}` |" in text for spec in COUNTERS)


def test_keys_of_hosts_are_in_it_at_any_depth() -> None:
    text = pages()["config.md"]
    for heading in (
        "### `ssh`",
        "### `thp.sizes.KEY`",
        "### `thp.khugepaged`",
        "### `before_each[]`",
        "### `handover`",
    ):
        assert heading in text
    assert "| `scan_sleep_millisecs` | number, at least 0 |" in text


def test_it_says_nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "40")
    assert pages() == {name: (FOLDER / name).read_text(encoding="utf-8") for name in NAMES}
    assert not any(str(FOLDER.parents[1]) in text for text in pages().values())


def test_only_what_differs_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write([str(tmp_path / "reference")]) == 0
    (tmp_path / "reference" / "cli.md").write_text("old")
    capsys.readouterr()
    assert write([str(tmp_path / "reference")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'reference' / 'cli.md'}\n"


def test_groff_reads_the_manual_page_without_a_complaint() -> None:
    words = ["groff", "-man", "-ww", "-Tutf8", str(FOLDER / "gmem.1")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    shown = re.sub("\x1b\\[[0-9;]*m|.\x08", "", done.stdout)
    assert "gmem history quarantine [OPTIONS] CASE" in shown
    assert "--until DATE" in shown


def completed(*words: str) -> list[str]:
    """What a shell of the kind bash is offered for the last of the words."""
    env = {"_GMEM_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    code = "from harness.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env={**os.environ, **env}
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_the_shell_completes_commands_and_options() -> None:
    assert completed("gmem", "hist") == ["history"]
    assert "--dry-run" in completed("gmem", "run", "--d")
    assert completed("gmem", "history", "quar") == ["quarantine"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_is_told_how(shell: str) -> None:
    env = {**os.environ, "_GMEM_COMPLETE": f"{shell}_source"}
    code = "from harness.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=env)
    assert "_GMEM_COMPLETE" in done.stdout
    assert f"_GMEM_COMPLETE={shell}_source" in pages()["cli.md"]


def test_version() -> None:
    words = [sys.executable, "-m", "harness.cli.main", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"gmem {__version__}\n"
