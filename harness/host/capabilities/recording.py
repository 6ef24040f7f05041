# SPDX-License-Identifier: GPL-2.0-only
"""A :class:`HostProbe` as one text file: to look at a host later, elsewhere, and to test against.

A section begins with a line ``==== KIND NAME`` and goes to the next one; ``absent`` sections have no text.  A file may
stand on another: ``==== base NAME`` takes over what it does not say itself.  ``==== expected`` is for tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from harness.errors import UsageError
from harness.host.capabilities.record import HostProbe

_MARK: Final = "==== "
_KINDS: Final = (
    "host",
    "base",
    "file",
    "command",
    "present",
    "absent",
    "kvmcaps",
    "kvmcaps-failed",
    "firmware",
    "expected",
)


def to_text(probe: HostProbe) -> str:
    """The whole probe, in a fixed order."""
    return "".join(_sections(probe))


def _sections(probe: HostProbe) -> Iterator[str]:
    yield _section(f"host {probe.host}", "")
    for kind, texts in (("file", probe.files), ("command", probe.commands)):
        for name, text in texts.items():
            yield _section(f"absent {kind} {name}", "") if text is None else _section(f"{kind} {name}", text)
    for path, there in probe.present.items():
        yield _section(f"present {path}" if there else f"absent present {path}", "")
    yield from (_section(f"firmware {kind}", path) for kind, path in probe.firmware.items())
    if probe.kvmcaps is not None:
        yield _section("kvmcaps", probe.kvmcaps)
    if probe.kvmcaps_failed:
        yield _section("kvmcaps-failed", probe.kvmcaps_failed)


def _section(head: str, text: str) -> str:
    body = re.sub(r"^(\\*====)", r"\\\1", text, flags=re.M)
    return f"{_MARK}{head}\n{body}{'' if body.endswith(chr(10)) or not body else chr(10)}"


def sections(text: str) -> list[tuple[str, str, str]]:
    """Kind, name and text of each section; raises ``UsageError`` for what is no such file."""
    found: list[tuple[str, str, list[str]]] = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.startswith(_MARK):
            kind, _, name = line.removeprefix(_MARK).strip().partition(" ")
            if kind not in _KINDS:
                raise UsageError(f"line {number} of the recorded host: there is no section {kind}")
            found.append((kind, name, []))
        elif found:
            found[-1][2].append(re.sub(r"^\\(\\*====)", r"\1", line))
        elif line.strip() and not line.startswith("#"):
            raise UsageError(f"line {number} of the recorded host stands before the first section")
    return [(kind, name, "".join(lines)) for kind, name, lines in found]


def from_text(text: str, base: Callable[[str], str] | None = None) -> HostProbe:
    """The probe of a file; ``base`` gives the text of the file that another stands on.  Raises ``UsageError``."""
    files: dict[str, str | None] = {}
    commands: dict[str, str | None] = {}
    present: dict[str, bool] = {}
    firmware: dict[str, str] = {}
    host, kvmcaps, failed = "", None, ""
    for kind, name, body in sections(text):
        if kind == "base":
            if base is None:
                raise UsageError(f"the recorded host stands on {name}, which is not at hand")
            below = from_text(base(name), base)
            files, commands, present = dict(below.files), dict(below.commands), dict(below.present)
            host, kvmcaps, failed, firmware = below.host, below.kvmcaps, below.kvmcaps_failed, dict(below.firmware)
        elif kind == "host":
            host = name
        elif kind == "file":
            files[name] = body
        elif kind == "command":
            commands[name] = body
        elif kind == "present":
            present[name] = True
        elif kind == "firmware":
            firmware[name] = body.strip()
        elif kind == "kvmcaps":
            kvmcaps, failed = body, ""
        elif kind == "kvmcaps-failed":
            failed = body.strip()
        elif kind == "absent":
            what, _, which = name.partition(" ")
            kvmcaps = None if what == "kvmcaps" else kvmcaps
            files.update({which: None} if what == "file" else {})
            commands.update({which: None} if what == "command" else {})
            present.update({which: False} if what == "present" else {})
    return HostProbe(host, files, commands, present, kvmcaps, failed, firmware)
