# SPDX-License-Identifier: GPL-2.0-only
"""YAML files that people write, read strictly: every error is one sentence that says where, and what is wrong there.

Every scalar is text until its place says what it is: ``7.10`` stays ``7.10``, ``off`` stays ``off``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from harness.errors import UsageError

FILE_BYTES: Final = 1 << 20
"""No file that a person writes is longer."""


class StrictLoader(yaml.BaseLoader):
    """All scalars as text; a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                problem = f"the key {key.value} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_text(path: Path, what: str) -> str:
    """The text of a file, which an error calls ``what``; raises ``UsageError``."""
    try:
        with path.open("rb") as stream:
            text = stream.read(FILE_BYTES + 1).decode("utf-8")
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} {path} is no text in UTF-8") from error
    if len(text) > FILE_BYTES:
        raise UsageError(f"{what} {path} has more than {FILE_BYTES} bytes")
    return text


def parse(text: str, source: Path) -> Any:
    """What the text of a file says, all scalars as text; raises ``UsageError`` with the line."""
    try:
        return yaml.load(text, StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise UsageError(f"{source}{line}: {error.problem or 'not YAML'}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{source}: not YAML: {str(error).splitlines()[0]}") from error


def parse_mapping(text: str, source: Path, *, shape: str, schema: int) -> dict[str, Any]:
    """The same for a file that is a mapping with a number of its schema; ``shape`` says what it should be."""
    plain = parse(text, source)
    if not isinstance(plain, dict):
        raise UsageError(f"{source}: {shape}")
    if plain.get("schema", str(schema)) != str(schema):
        raise UsageError(f"{source}: schema is {plain['schema']}, this harness reads {schema}")
    return plain


def nearest(word: str, known: Iterable[str]) -> str:
    """What was probably meant, to be put behind a word that is not known; '' where nothing is near.

    >>> nearest("kernal", ["kernel", "host"])
    ' (did you mean kernel?)'
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f" (did you mean {near[0]}?)" if near else ""
