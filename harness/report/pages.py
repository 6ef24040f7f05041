# SPDX-License-Identifier: GPL-2.0-only
"""What every page of a report is made with: templates that escape, and plotly.js within the page.

Numbers and labels of plots reach the script as JSON in a script element that is never executed; everything else goes
through a template that escapes, cleans and bounds it.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from harness.report.text import one_line

_HERE: Final = Path(__file__).parent


@cache
def template(name: str) -> Template:
    """The template of that file name in this folder."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=finalize, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string((_HERE / name).read_text(encoding="utf-8"))


def finalize(value: object) -> object:
    """Every value that a template prints; what a macro made is markup whose values came through here before."""
    return one_line(value, collapse=False) if isinstance(value, str) and not isinstance(value, Markup) else value


def plotly() -> Markup:
    """plotly.js as its Python package carries it; a closing tag within would end the script element early."""
    text = files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    return Markup(text.replace("</script", "<\\/script"))


def in_script(value: object) -> Markup:
    """JSON that holds nothing that HTML could take for a tag or a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
