# SPDX-License-Identifier: GPL-2.0-only
"""Requests to ``gmem-control``, the small program that runs things in the emulated host and in a guest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import InfraError
from harness.guest.agent import words_blob
from harness.host.frames import FrameChannel, Reply

_GRACE = 2.0
"""Seconds that a reply may take beyond the work it reports."""


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit status (128 + signal when killed) and what it printed on both streams."""

    code: int
    output: str


class Control:
    """One control program, reached by its channel; every call has a deadline."""

    def __init__(self, where: str, channel: FrameChannel) -> None:
        self.where = where
        self.channel = channel
        self.children: list[int] = []
        """Process ids of what was spawned, running or not."""

    def hello(self, nonce: int, timeout: float = 5.0) -> None:
        """Raises ``ChannelTimeout`` when nobody answers."""
        reply = self.channel.request(f"hello nonce={nonce}", timeout=timeout)
        if reply.fields.get("nonce") != str(nonce):
            raise InfraError(f"{self.where}: gmem-control answered to another hello than was said")

    def run(self, arguments: Sequence[str], timeout: float = 10.0) -> Finished:
        """Run a command to its end."""
        blob = words_blob(arguments)
        reply = self.channel.request(f"run ms={int(timeout * 1000)}", blob, timeout=timeout + _GRACE)
        return Finished(self._number(reply, "code"), reply.blob.decode("utf-8", "replace"))

    def check(self, arguments: Sequence[str], timeout: float = 10.0) -> str:
        """Run a command that must succeed; returns its output, raises ``InfraError`` with its last line."""
        done = self.run(arguments, timeout)
        if done.code:
            last = done.output.strip().splitlines()[-1:] or ["it printed nothing"]
            raise InfraError(f"{self.where}: {' '.join(arguments)} ended with status {done.code}: {last[0][:300]}")
        return done.output

    def spawn(self, arguments: Sequence[str], environment: dict[str, str], log: str) -> int:
        """Start a process whose output is appended to ``log`` there; returns its pid."""
        reply = self.channel.request(f"spawn log={log}", words_blob(arguments, environment), timeout=5.0)
        self.children.append(self._number(reply, "pid"))
        return self.children[-1]

    def status(self, pid: int) -> str:
        """State of a spawned process: ``running``, ``exited with status N`` or ``killed by signal N``."""
        reply = self.channel.request(f"status pid={pid}", timeout=5.0)
        state = reply.fields.get("state", "")
        if state == "exited":
            return f"exited with status {self._number(reply, 'code')}"
        if state == "killed":
            return f"killed by signal {self._number(reply, 'signal')}"
        if state != "running":
            raise self._nonsense(reply, "state")
        return state

    def signal(self, pid: int, number: int) -> None:
        """Send a signal."""
        self.channel.request(f"signal pid={pid} sig={number}", timeout=5.0)

    def end(self, pid: int, timeout: float = 10.0) -> None:
        """Kill a spawned process and wait until it is gone; raises ``RemoteError`` when it is not in time."""
        self.channel.request(f"end pid={pid} ms={int(timeout * 1000)}", timeout=timeout + _GRACE)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file there, whole or not at all."""
        self.channel.request(f"put path={path} mode={mode:o}", data, timeout=10.0)

    def get(self, path: str, limit: int = 1 << 18) -> bytes:
        """The first ``limit`` bytes of a file there."""
        return self.channel.request(f"get path={path} off=0 max={limit}", timeout=10.0).blob

    def cpuid(self, leaf: int) -> dict[str, int]:
        """CPUID of that machine, as its user space sees it: registers eax, ebx, ecx, edx."""
        reply = self.channel.request(f"cpuid leaf={leaf}", timeout=5.0)
        return {name: self._number(reply, name) for name in ("eax", "ebx", "ecx", "edx")}

    def _number(self, reply: Reply, key: str) -> int:
        try:
            return int(reply.fields[key])
        except (KeyError, ValueError) as error:
            raise self._nonsense(reply, key) from error

    def _nonsense(self, reply: Reply, key: str) -> InfraError:
        return InfraError(
            f"{self.where}: the reply of gmem-control has no {key} that makes sense: {dict(reply.fields)}"
        )
