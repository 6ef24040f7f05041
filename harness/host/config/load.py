# SPDX-License-Identifier: GPL-2.0-only
"""Read a host's file strictly: every error is one sentence that says what, where, and what was probably meant.

Every scalar of the file is text until its place says what it is: ``7.10`` stays ``7.10``, ``off`` stays ``off``.
"""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any, Final

import msgspec

from harness.errors import UsageError
from harness.host.config.host import SCHEMA, HostConfig
from harness.host.config.knobs import wanted
from harness.host.reach import IN_CACHE
from harness.strict_yaml import nearest, parse_mapping, read_text

HOST_CONFIGS: Final = Path(__file__).resolve().parents[3] / "host-configs"
_WORDS: Final = {
    "int": "a whole number",
    "str": "text",
    "object": "a mapping",
    "array": "a list",
    "bool": "true or false",
}


def names(folder: Path = HOST_CONFIGS) -> tuple[str, ...]:
    """Names of the hosts that have a file there: those whose file has ``transport`` at its left edge."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        if re.search(r"^transport\s*:", path.read_text(errors="replace"), re.M):
            found.append(path.stem)
    return tuple(sorted(found))


def load_host(place: str | Path, folder: Path = HOST_CONFIGS) -> HostConfig:
    """The host of a file, or of a name whose file is ``host-configs/NAME.yaml``; raises ``UsageError``."""
    path = Path(place).expanduser()
    if "/" not in str(place) and path.suffix not in (".yaml", ".yml"):
        known = names(folder)
        if str(place) not in known:
            listed = f"{folder} has {', '.join(known)}" if known else f"{folder} has none"
            raise UsageError(f"there is no host {place}{nearest(str(place), known)}; {listed}")
        path = folder / f"{place}.yaml"
    return parse_host(read_text(path, "the host's file"), path)


def parse_host(text: str, source: Path) -> HostConfig:
    """The host that the text of a file describes; ``source`` names it in errors and is where its paths start."""
    shape = "a host is a mapping with schema, name and transport"
    plain = parse_mapping(text, source, shape=shape, schema=SCHEMA)
    try:
        config = msgspec.convert(plain, HostConfig, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"{source}: {_sentence(str(error), plain)}") from error
    try:
        config.check()
        wanted(config)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
    return _whole_paths(config, source.resolve().parent)


def _whole_paths(config: HostConfig, folder: Path) -> HostConfig:
    handover = msgspec.structs.replace(config.handover, initrd=_whole(config.handover.initrd, folder))
    config = msgspec.structs.replace(config, handover=handover)
    if config.ssh is None:
        return config
    paths = {name: getattr(config.ssh, name) for name in ("key", "known_hosts", "config")}
    whole = {name: _whole(value, folder) for name, value in paths.items()}
    return msgspec.structs.replace(config, ssh=msgspec.structs.replace(config.ssh, **whole))


def _whole(path: str, folder: Path) -> str:
    return path if not path or path.startswith(IN_CACHE) else str(folder / Path(path).expanduser())


def _sentence(message: str, plain: dict[str, Any]) -> str:
    """msgspec's message in the words of the file."""
    what, _, at = message.partition(" - at ")
    steps = re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", at)
    path, kind, value, is_key = _locate([name or index for name, index in steps], plain, is_key="`key`" in at)
    where = path or "the host"
    if unknown := re.search(r"unknown field `(.*)`", what):
        known = _keys(kind)
        inside = f" in {path}" if path else ""
        return f"unknown key {unknown[1]}{inside}{nearest(unknown[1], known)}; known are {', '.join(known)}"
    if missing := re.search(r"missing required field `(.*)`", what):
        return f"{where} needs {missing[1]}"
    choices = _choices(kind)
    if choices and not isinstance(value, (dict, list)):
        role = f"unknown key {value} in {path}" if is_key else f"{where} cannot be {value or 'empty'}"
        return f"{role}{nearest(str(value), choices)}; known are {', '.join(choices)}"
    if pattern := re.search(r"matching regex '(.*)'", what):
        form = pattern[1].replace("\\\\", "\\")
        role = f"the key {value} in {path}" if is_key else f"{where}: {value or 'nothing'}"
        return f"{role} does not have the form {form}"
    shown = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
    if expected := re.match(r"Expected `([^`]*)`,? ?(got)?(.*)", what):
        words = " or ".join(
            _WORDS.get(word.strip(), word.strip()) for word in expected[1].split("|") if word.strip() != "null"
        )
        bound = "" if expected[2] else expected[3]
        return f"{where} must be {words}{' ' + bound if bound else ''}, not {shown if value else 'empty'}"
    return f"{where}: {what}, not {shown if value else 'empty'}"


def _locate(steps: list[str], plain: Any, *, is_key: bool) -> tuple[str, Any, Any, bool]:
    """Follow msgspec's path, which hides the keys of mappings: path in words, its type, its value, is it a key."""
    path, value = "", plain
    kind: Any = HostConfig
    for step in steps:
        kind = _bare(kind)
        if step == "...":
            kind = typing.get_args(kind)[1] if typing.get_origin(kind) is dict else str
            key = _failing(value, kind, of_keys=False)
            path, value = f"{path}.{key}", value.get(key) if isinstance(value, dict) else value
        elif step.isdigit():
            kind = (typing.get_args(kind) or (str,))[0]
            path, value = f"{path}[{step}]", value[int(step)] if isinstance(value, list) else value
        else:
            kind = next((f.type for f in msgspec.structs.fields(kind) if f.encode_name == step), str)
            path = f"{path}.{step}" if path else step
            value = value.get(step) if isinstance(value, dict) else value
    kind = _bare(kind)
    if is_key and typing.get_origin(kind) is dict:
        keys = typing.get_args(kind)[0]
        return path, _bare(keys), _failing(value, keys, of_keys=True), True
    return path, kind, value, False


def _failing(mapping: Any, kind: Any, *, of_keys: bool) -> Any:
    """First key of a mapping that is wrong itself, or whose value is."""
    for key, value in mapping.items() if isinstance(mapping, dict) else ():
        try:
            msgspec.convert(key if of_keys else value, kind, strict=False)
        except msgspec.ValidationError:
            return key
    return "?"


def _bare(kind: Any) -> Any:
    """Without ``Annotated`` and ``| None``."""
    while True:
        arguments = typing.get_args(kind)
        if typing.get_origin(kind) is typing.Annotated:
            kind = arguments[0]
        elif type(None) in arguments:
            kind = next(a for a in arguments if a is not type(None))
        else:
            return kind


def _keys(kind: Any) -> tuple[str, ...]:
    is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    return tuple(f.encode_name for f in msgspec.structs.fields(kind)) if is_struct else ()


def _choices(kind: Any) -> tuple[str, ...]:
    return tuple(str(c) for c in typing.get_args(kind)) if typing.get_origin(kind) is typing.Literal else ()
