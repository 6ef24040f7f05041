# SPDX-License-Identifier: GPL-2.0-only
"""docs/reference/config.md: the keys of the files that a user writes, from the records that read them."""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from harness.host.config.host import HostConfig
from harness.kernel.catalog import Entry
from harness.nightly.matrix import Matrix
from harness.reference.markdown import code, first_sentences, page, table

INTRO = """\
Files are YAML, and read strictly: a key that is not here is an error which names the nearest one. `gmem host schema`
prints the schema of a host's file as JSON for editors."""

ENVIRONMENT = (
    ("GMEM_HISTORY", "where `gmem history` keeps its database: a file, or `postgresql://USER@HOST/NAME`"),
    ("XDG_CACHE_HOME", "kernels, images and saved testbeds lie in `gmem-harness` below it (`~/.cache`)"),
    ("XDG_STATE_HOME", "the history and the journals of hosts lie in `gmem-harness` below it (`~/.local/state`)"),
    ("TMPDIR", "sockets and pipes of running testbeds lie in folders below it (`/tmp`)"),
)


def configuration_page() -> str:
    """The document."""
    return page(
        "Configuration",
        INTRO,
        "## A host: a file such as `host-configs/snp-example.yaml`",
        "[lab.md](../lab.md) says how it is written, [lab-knobs.md](../lab-knobs.md) what a run does with it.",
        *_records(HostConfig, "", set()),
        "## Named kernels: `host-configs/kernels.yaml`",
        "`default` names the kernel that is used without `--kernel`; `kernels` maps names to these keys:",
        _keys(Entry),
        "## A nightly matrix",
        "[howto-nightly.md](../howto-nightly.md) has examples.",
        *_records(Matrix, "", set()),
        "## Environment",
        table(("variable", "for"), [(code(name), says) for name, says in ENVIRONMENT]),
    )


def _records(kind: type[msgspec.Struct], where: str, seen: set[type]) -> Iterator[str]:
    """The table of a record, then those of the records within it."""
    seen.add(kind)
    if where:
        yield f"### `{where}`"
        yield first_sentences(kind.__doc__)
    yield _keys(kind)
    hints = typing.get_type_hints(kind)
    for one in msgspec.structs.fields(kind):
        for inner, suffix in _structs(hints[one.name], ""):
            if inner not in seen:
                yield from _records(inner, f"{where}.{one.encode_name}{suffix}".lstrip("."), seen)


def _structs(hint: Any, suffix: str) -> Iterator[tuple[type[msgspec.Struct], str]]:
    """Records within a type, with how they are reached: ``.KEY`` of a mapping, ``[]`` of a list."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint, suffix
        return
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        yield from _structs(inner[1], f"{suffix}.KEY")
    elif origin is tuple:
        yield from _structs(inner[0], f"{suffix}[]")
    elif origin is not Literal:
        for part in inner:
            yield from _structs(part, suffix)


def _keys(kind: type[msgspec.Struct]) -> str:
    told = field_docs(kind)
    hints = typing.get_type_hints(kind, include_extras=True)
    rows = [
        (code(one.encode_name), type_text(hints[one.name]), "yes" if one.required else "", told.get(one.name, ""))
        for one in msgspec.structs.fields(kind)
    ]
    return table(("key", "value", "needed", ""), rows)


def field_docs(kind: type) -> dict[str, str]:
    """What stands below each field of a class, by its name."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for one, behind in zip(tree.body, tree.body[1:], strict=False):
        text = isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant) and behind.value.value
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and isinstance(text, str):
            found[one.target.id] = first_sentences(text)
    return found


def type_text(hint: Any) -> str:
    """A type for people: ``text``, ``number, at least 0``, ``a or b``, ``list of text``."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = [part for meta in hint.__metadata__ for part in _limits(meta)]
        return ", ".join([type_text(inner[0]), *limits])
    if origin is Literal:
        return " or ".join(code(str(word)) for word in inner)
    if origin is dict:
        return f"mapping of {type_text(inner[0])} to {type_text(inner[1])}"
    if origin is tuple:
        return f"list of {type_text(inner[0])}"
    if inner:
        return " or ".join(type_text(part) for part in inner if part is not type(None))
    names = {str: "text", int: "number", float: "number", bool: "true or false"}
    return names.get(hint, "a mapping, see below" if isinstance(hint, type) else str(hint))


def _limits(meta: msgspec.Meta) -> Iterator[str]:
    if meta.ge is not None:
        yield f"at least {meta.ge}"
    if meta.gt is not None:
        yield f"more than {meta.gt}"
    if meta.le is not None:
        yield f"at most {meta.le}"
    if meta.pattern is not None:
        yield f"as {code(meta.pattern)}"
