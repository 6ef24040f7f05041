# SPDX-License-Identifier: GPL-2.0-only
"""Hosts of ``tests/fake/hosts`` behind a connection that answers as they do."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.host.capabilities.gather import COMMANDS
from harness.host.capabilities.record import HostProbe
from harness.host.capabilities.recording import from_text, sections
from harness.host.reach import COMMAND_SECONDS, Done, ReachError

HOSTS = Path(__file__).parent / "hosts"


def host_text(name: str) -> str:
    """The file of a host."""
    return (HOSTS / f"{name}.txt").read_text()


def recorded(name: str) -> HostProbe:
    """The texts of a host."""
    return from_text(host_text(name), host_text)


def expectations(name: str) -> list[tuple[str, str, list[str]]]:
    """Capability, state, and words that its causes have to contain."""
    found = []
    for kind, _, body in sections(host_text(name)):
        for line in body.splitlines() if kind == "expected" else ():
            head, _, words = line.partition(": ")
            capability, _, state = head.rpartition(" ")
            found.append((capability, state, [word.strip() for word in words.split("|") if word.strip()]))
    return found


class FakeReach:
    """A host that exists as text; remembers what was asked of it."""

    def __init__(
        self, probe: HostProbe, *, takes: Sequence[str] = ("/tmp",), noexec: str = "", qemu: str = "qemu-system-x86_64"
    ) -> None:
        self.probe = probe
        self.takes = takes
        self.noexec = noexec
        self.asked: list[list[str]] = []
        self.folders: set[str] = set()
        self.closed = False
        self.answers = {words: name for name, words in COMMANDS.items()}
        self.answers[(qemu, "--version")] = "qemu version"
        self.answers[(qemu, "-object", "help")] = "qemu objects"
        self.name = probe.host

    def run(self, arguments: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Done:
        words = list(arguments)
        self.asked.append(words)
        if tuple(words) in self.answers:
            text = self.probe.commands.get(self.answers[tuple(words)])
            return self._said(text)
        if words[:2] == ["head", "-c"]:
            return self._said(self.probe.files.get(words[3]))
        if words[:2] == ["test", "-e"]:
            return Done(0 if self.probe.present.get(words[2]) else 1, b"", b"")
        return self._program(words)

    def _program(self, words: list[str]) -> Done:
        if words[:2] == ["mktemp", "-d"]:
            place = str(Path(words[2]).parent)
            if place not in self.takes:
                return Done(1, b"", b"mktemp: failed to create directory")
            folder = words[2].replace("XXXXXXXX", "abcdefgh")
            self.folders.add(folder)
            return Done(0, folder.encode() + b"\n", b"")
        if words[:2] == ["rm", "-rf"]:
            self.folders.discard(words[2])
            return Done(0, b"", b"")
        if words[0] == "sh" and "cat >" in words[2]:
            return Done(0, b"", b"")
        if self.noexec and words[0].startswith(f"{self.noexec}/"):
            return Done(126, b"", b"sh: Permission denied")
        if words[0].endswith("/gmem-kvmcaps"):
            return self._kvmcaps()
        raise AssertionError(f"nobody expected {words}")

    def _kvmcaps(self) -> Done:
        failed = self.probe.kvmcaps_failed
        if "did not end" in failed:
            raise ReachError(failed)
        if failed:
            return Done(139, (self.probe.kvmcaps or "").encode(), b"Segmentation fault")
        return self._said(self.probe.kvmcaps)

    @staticmethod
    def _said(text: str | None) -> Done:
        return Done(1, b"", b"no such file") if text is None else Done(0, text.encode(), b"")

    def start(
        self, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        raise AssertionError("nothing is started")

    def close(self) -> None:
        self.closed = True
