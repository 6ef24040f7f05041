# SPDX-License-Identifier: GPL-2.0-only
"""All documents of the reference, by the name of their file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from harness.reference.commands import commands_page, manual
from harness.reference.configuration import configuration_page
from harness.reference.counters import counters_page
from harness.reference.fixtures import fixtures_page

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "reference"


def pages() -> dict[str, str]:
    """The same text from the same code on every machine."""
    return {
        "cli.md": commands_page(),
        "config.md": configuration_page(),
        "counters.md": counters_page(),
        "fixtures.md": fixtures_page(),
        "gmem.1": manual(),
    }
