# SPDX-License-Identifier: GPL-2.0-only
"""docs/reference/fixtures.md: what the pytest plugin gives to a suite."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from typing import Any

from harness.pytest_case import Case
from harness.pytest_marks import DECLARED
from harness.pytest_plugin import pytest_addoption
from harness.reference.markdown import code, page, prose, table
from harness.run.tell import Tell

INTRO = """\
A suite is a pytest file; a case is a test function that takes the fixture `gmem`, gives it steps, and has its claim as
its docstring. [howto-suite.md](../howto-suite.md) shows how one is written, with the table of steps."""


@dataclass
class _Options:
    """Stands where pytest collects options."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def getgroup(self, *_: str) -> _Options:
        return self

    def addoption(self, name: str, **more: Any) -> None:
        default = more.get("default")
        says = str(more.get("help", ""))
        self.rows.append((code(name), says, code("" if default in (None, [], "") else str(default))))


def fixtures_page() -> str:
    """The document."""
    options = _Options()
    pytest_addoption(options)  # type: ignore[arg-type]
    marker, _, says = DECLARED.partition(": ")
    return page(
        "Fixtures, marker and options",
        INTRO,
        "## Fixture `gmem`",
        *(_method(name) for name in ("run", "run_scenario", "record_series")),
        "## Fixture `gmem_seed`",
        "A function that takes it too becomes `--gmem-cases` cases, each with a seed of its own, from `--gmem-seed` "
        "on: it makes a random scenario of it.",
        "## `Tell`",
        _signature("Tell", inspect.signature(Tell)),
        prose(Tell.__doc__),
        "## Marker",
        f"`@pytest.mark.{marker}`: {says}.",
        "## Options of pytest",
        "`gmem run` has the same ones under shorter names, see [the command line](cli.md).",
        table(("option", "", "default"), options.rows),
    )


def _method(name: str) -> str:
    method = getattr(Case, name)
    return f"### gmem.{name}\n\n{_signature(f'gmem.{name}', inspect.signature(method))}\n\n{prose(method.__doc__)}"


def _signature(name: str, signature: inspect.Signature) -> str:
    """As code, without ``self`` and without the modules that types come from."""
    text = re.sub(r"\(self(?:, )?", "(", str(signature))
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)  # annotations are texts, as defaults are
    text = re.sub(r"\b(?:[a-z]\w*\.)+([A-Z]\w*)", r"\1", text)
    return f"    {name}{text}"
