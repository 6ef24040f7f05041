# SPDX-License-Identifier: GPL-2.0-only
"""The command line: every command of ``gmem``, as Markdown and as a manual page, both from the parser itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from harness import __version__
from harness.cli.main import gmem
from harness.reference.markdown import code, page, table
from harness.run.verdict import Verdict

ROOT: Final = Path(__file__).resolve().parents[2]
_CASE_ONLY: Final = (Verdict.SKIP, Verdict.XFAIL)

COMPLETION: Final = """\
The shell completes commands, options and their words once it is told how:

    eval "$(_GMEM_COMPLETE=bash_source gmem)"           # in ~/.bashrc
    eval "$(_GMEM_COMPLETE=zsh_source gmem)"            # in ~/.zshrc
    _GMEM_COMPLETE=fish_source gmem | source            # in ~/.config/fish/config.fish

`man ./docs/reference/gmem.1` shows this page as a manual page; `gmem --version` says which version is installed."""


@dataclass(frozen=True)
class Option:
    """An option as people write it."""

    names: str
    says: str
    default: str


@dataclass(frozen=True)
class Command:
    """One command, with its name as it is typed."""

    path: str
    usage: str
    help: str
    options: tuple[Option, ...]
    group: bool


def commands() -> list[Command]:
    """All commands, each group before its members."""
    with click.Context(gmem, info_name="gmem") as context:
        return list(_walk(gmem, context))


def _walk(command: click.Command, context: click.Context) -> Iterator[Command]:
    yield _command(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None, name
            with click.Context(member, info_name=name, parent=context) as inner:
                yield from _walk(member, inner)


def _command(command: click.Command, context: click.Context) -> Command:
    options = [_option(one, context) for one in command.get_params(context) if isinstance(one, click.Option)]
    return Command(
        path=context.command_path if isinstance(command, click.Group) else _bare_path(context),
        usage=" ".join([_bare_path(context), *command.collect_usage_pieces(context)]),
        help=re.sub("^\x08\n", "", inspect.cleandoc(command.help or ""), flags=re.M).strip(),
        options=tuple(option for option in options if option is not None),
        group=isinstance(command, click.Group),
    )


def _bare_path(context: click.Context) -> str:
    """The words of the command without the arguments of the groups above it."""
    words: list[str] = []
    step: click.Context | None = context
    while step is not None:
        words.insert(0, step.info_name or "")
        step = step.parent
    return " ".join(words)


def _option(option: click.Option, context: click.Context) -> Option | None:
    if option.hidden:
        return None
    names = ", ".join(option.opts) + (f" / {', '.join(option.secondary_opts)}" if option.secondary_opts else "")
    extra = [*_limits(option.type), *(["may be repeated"] if option.multiple else [])]
    says = (option.help or "").strip() + (f" ({', '.join(extra)})" if extra else "")
    takes = "" if option.is_flag or option.count else option.metavar or _metavar(option.type)
    return Option(f"{names} {takes}".strip(), says, _default(option, context))


def _limits(kind: click.ParamType[Any]) -> list[str]:
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return []
    low = [f"{'more than' if kind.min_open else 'at least'} {kind.min}"] if kind.min is not None else []
    high = [f"{'less than' if kind.max_open else 'at most'} {kind.max}"] if kind.max is not None else []
    return low + high


def _metavar(kind: click.ParamType[Any]) -> str:
    """What an option takes, in our words: the parser's own differ from version to version."""
    if isinstance(kind, click.Choice):
        return "|".join(map(str, kind.choices))
    if isinstance(kind, click.Path):
        return "DIRECTORY" if not kind.file_okay else "FILE" if not kind.dir_okay else "PATH"
    return "NUMBER" if kind.name.startswith(("integer", "float")) else "TEXT"


def _default(option: click.Option, context: click.Context) -> str:
    """A default that the help shows."""
    if isinstance(option.show_default, str):
        return _portable(option.show_default)
    return _portable(str(option.get_default(context))) if option.show_default and not option.is_flag else ""


def _portable(text: str) -> str:
    """Without the folder that this checkout happens to lie in."""
    return text.replace(f"{ROOT}/", "")


def commands_page() -> str:
    """docs/reference/cli.md."""
    parts = []
    for command in commands():
        level = "##" if command.path.count(" ") < 2 else "###"
        rows = [(code(one.names), one.says, code(one.default)) for one in command.options if "--help" not in one.names]
        options = table(("option", "", "default"), rows) if rows else ""
        parts += [f"{level} {command.path}", f"    {command.usage}", _text(command.help), options]
    exits = table(("code", "verdict"), [(str(code_), word) for code_, word in _exits()])
    intro = "Every command ends with one of these, and says it in the same words as every report:"
    return page("The command line", intro, exits, COMPLETION, *parts)


def _text(help_: str) -> str:
    """The help of a command; options within it are code."""
    return re.sub(r"(?<![`\w-])(--[a-z][a-z-]+)", r"`\1`", help_)


def _exits() -> list[tuple[int, str]]:
    return sorted((verdict.exit_code, verdict.value) for verdict in Verdict if verdict not in _CASE_ONLY)


def manual() -> str:
    """docs/reference/gmem.1."""
    lines = [
        '.\\" SPDX-License-Identifier: GPL-2.0-only',
        '.\\" written by "python -m harness.reference" from the code: do not edit',
        f'.TH GMEM 1 "" "gmem-harness {__version__}" "User Commands"',
        ".SH NAME",
        "gmem \\- judge what a Linux kernel does with guest_memfd memory",
        ".SH SYNOPSIS",
        ".B gmem",
        "COMMAND [OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        *_roff(gmem.help or ""),
        ".SH COMMANDS",
    ]
    for command in commands()[1:]:
        lines += [f".SS {_escaped(command.usage)}", *_roff(command.help)]
        for option in command.options:
            default = f" [default: {option.default}]" if option.default else ""
            lines += [".TP", f".B {_escaped(option.names)}", *_roff((option.says + default) or "-")]
    lines += [".SH EXIT STATUS"]
    for number, word in _exits():
        lines += [".TP", f".B {number}", word]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> list[str]:
    """Paragraphs of text; a line that begins like a request does not become one."""
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines += [".PP"] if lines else []
        lines.append(_escaped(" ".join(paragraph.split())))
    return lines


def _escaped(text: str) -> str:
    """What troff would read as its own: backslashes, hyphens that break, quotes and dots at the beginning of a line."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
