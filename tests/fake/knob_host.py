# SPDX-License-Identifier: GPL-2.0-only
"""A host whose /proc/sys, /sys, /run and /var/lib are a directory: the scripts that run on it are the real ones.

What the kernel does when a knob is written is a line of shell per knob (``$1`` is the file), run by a ``dd`` in front
of the real one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.host.reach import COMMAND_SECONDS, Done, LocalReach, ReachError

_MOVED = ("/proc/sys/", "/sys/", "/run/", "/var/lib/", "/proc/buddyinfo", "/proc/meminfo", "/dev/kmsg")
_DD = """#!/bin/sh
for word; do case $word in of=*/sys/*) : > "${{word#of=}}" ;; esac; done  # one write() is a knob's whole text
{dd} "$@"
code=$?
for word; do
    case $word in
    of=*) rule="${{word#of=}}.rule"; [ -f "$rule" ] && {{ sh "$rule" "${{word#of=}}" || exit 1; }} ;;
    esac
done
exit $code
"""
SELECTION = """
word=$(cat "$1"); words=$(cat "$1.words"); found=
for each in $words; do [ "$each" = "$word" ] && found=1; done
if [ "$found" ]; then echo "$words" | sed "s/\\b$word\\b/[$word]/" > "$1"; cp "$1" "$1.was"
else cp "$1.was" "$1"; echo "dd: error writing '$1': Invalid argument" >&2; exit 1; fi
"""
REFUSED = """cp "$1.was" "$1"; echo "dd: error writing '$1': Invalid argument" >&2; exit 1"""


class KnobHost:
    """A :class:`harness.host.reach.Reach` over a directory."""

    name = "fake"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands: list[list[str]] = []
        self.before: Callable[[list[str]], None] = lambda words: None
        """Called with each command before it runs; what it raises is what the command does."""
        self.lost = False
        for folder in ("run", "var/lib", "tools", "proc/sys/kernel/random"):
            (root / folder).mkdir(parents=True)
        (root / "tools/dd").write_text(_DD.format(dd=shutil.which("dd")))
        (root / "tools/dd").chmod(0o755)
        self.reboot("boot-1")
        self.shell = ["sh"]

    def reboot(self, boot: str) -> None:
        """Another boot id; who calls it also sets knobs as they are after a boot."""
        self.knob("/proc/sys/kernel/random/boot_id", boot)

    def at(self, path: str) -> Path:
        """Where a path of the host is here."""
        return self.root / path.lstrip("/")

    def knob(self, path: str, text: str, rule: str = "", mode: int = 0o644) -> None:
        """Make a knob; with a rule it is what the kernel does once it was written."""
        file = self.at(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
        if rule:
            Path(f"{file}.rule").write_text(rule)
            Path(f"{file}.was").write_text(f"{text}\n")
            Path(f"{file}.words").write_text(text.replace("[", "").replace("]", ""))
        file.chmod(mode)

    def text(self, path: str) -> str:
        """What a knob prints."""
        return self.at(path).read_text().rstrip("\n")

    def knobs(self) -> dict[str, str]:
        """Everything below /proc/sys and /sys."""
        return {
            str(file): file.read_text()
            for folder in ("proc/sys", "sys")
            for file in sorted(self.at(folder).rglob("*"))
            if file.is_file() and file.suffix not in (".rule", ".was", ".words")
        }

    def run(self, arguments: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Done:
        """See ``Reach``."""
        words = list(arguments)
        self.commands.append(words)
        self.before(words)
        if self.lost:
            raise ReachError("fake: the SSH connection broke")
        moved = [f"{self.root}{word}" if word.startswith(_MOVED) else word for word in words]
        if moved[0] == "sh":
            # busybox's shell looks for its own programs before PATH, and for functions before those.
            moved[2] = f'dd() {{ "{self.root}/tools/dd" "$@"; }}\n{moved[2]}'
            moved[0:1] = self.shell
        path = f"{self.root / 'tools'}:{os.environ['PATH']}"
        done = LocalReach().run(["env", f"PATH={path}", *moved], stdin=stdin, timeout=timeout)
        root = str(self.root).encode()
        return Done(done.code, done.output.replace(root, b""), done.errors.replace(root, b""))

    def start(
        self, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """See ``Reach``."""
        moved = [f"{self.root}{word}" if word.startswith(_MOVED) else word for word in arguments]
        return LocalReach().start(moved, environment=environment)

    def close(self) -> None:
        """See ``Reach``."""
