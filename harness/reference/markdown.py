# SPDX-License-Identifier: GPL-2.0-only
"""Texts of the code as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

NOTE = "<!-- SPDX-License-Identifier: GPL-2.0-only; written by `python -m harness.reference`: do not edit -->"


def page(title: str, *parts: str) -> str:
    """A document."""
    return "\n\n".join([f"# {title}", NOTE, *(part.strip("\n") for part in parts if part.strip())]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; line ends and bars within a cell do not end it."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        lines.append("| " + " | ".join(cell(text) for text in row) + " |")
    return "\n".join(lines)


def cell(text: str) -> str:
    """One line, with bars that are text."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """As code; '' stays ''."""
    return f"`{text}`" if text else ""


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: double backquotes become single ones, roles of Sphinx plain code."""
    text = inspect.cleandoc(docstring or "")
    text = re.sub(r":(?:class|meth|func|data|exc|mod):`~?([^`]*)`", lambda m: f"`{m[1].rpartition('.')[2]}`", text)
    return text.replace("``", "`")


def first_sentences(docstring: str | None) -> str:
    """The first paragraph, as one line."""
    return " ".join(prose(docstring).split("\n\n", 1)[0].split())
