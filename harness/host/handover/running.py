# SPDX-License-Identifier: GPL-2.0-only
"""Which kernel a host runs, whether that is the one that was wanted, and waiting for a host that restarts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from harness.host.reach import Reach, ReachError, check, read_file
from harness.kernel.buildid import BuildId, of_image, of_notes
from harness.kernel.image import read_image
from harness.kernel.record import Kernel

PAUSE_SECONDS: Final = 1.0
"""Between two attempts to reach a host that restarts."""
_SHORT: Final = 12


@dataclass(frozen=True)
class Running:
    """The kernel that a host runs, as the host says it."""

    release: str
    """``uname -r``"""
    version: str
    """``uname -v``"""
    banner: str
    """``/proc/version``, which has the user and the host of the build besides."""
    build_id: str
    """Of ``/sys/kernel/notes``, hexadecimal; ``""`` where there is none."""
    command_line: str
    boot: str
    """``/proc/sys/kernel/random/boot_id``: another one after each start of a kernel."""

    @property
    def text(self) -> str:
        """For a sentence."""
        return f"{self.release} {self.version}" + (f", build id {self.build_id[:_SHORT]}" if self.build_id else "")


def read_running(reach: Reach) -> Running:
    """What runs there; raises ``ReachError``."""
    return Running(
        release=check(reach, ["uname", "-r"]).strip(),
        version=check(reach, ["uname", "-v"]).strip(),
        banner=check(reach, ["cat", "/proc/version"]).strip(),
        build_id=of_notes(read_file(reach, "/sys/kernel/notes") or b""),
        command_line=check(reach, ["cat", "/proc/cmdline"]).strip(),
        boot=check(reach, ["cat", "/proc/sys/kernel/random/boot_id"]).strip(),
    )


@dataclass(frozen=True)
class Expected:
    """The kernel that is wanted, as its image says it."""

    release: str
    version: str
    builder: str
    """user@host of the build; ``""`` if the image does not say."""
    build_id: BuildId

    @property
    def text(self) -> str:
        """For a sentence."""
        known = self.build_id.value
        return f"{self.release} {self.version}" + (f", build id {known[:_SHORT]}" if known else "")


def expected(kernel: Kernel) -> Expected:
    """What has to run after a kernel was booted; raises ``UsageError`` for an image that is no bzImage."""
    header = read_image(kernel.image)
    return Expected(header.release, header.version, header.builder, of_image(kernel.image))


@dataclass(frozen=True)
class Comparison:
    """Whether the kernel that runs is the one that is wanted, and what was compared."""

    same: bool
    text: str


def compare(wanted: Expected, running: Running) -> Comparison:
    """By the build id where both sides have one, else by everything that the image's header has."""
    if wanted.build_id.value and running.build_id:
        same = wanted.build_id.value == running.build_id
        is_it = "is" if same else "is not"
        return Comparison(
            same,
            f"build id {running.build_id} in /sys/kernel/notes {is_it} that of the image"
            + ("" if same else f", {wanted.build_id.value}"),
        )
    reason = wanted.build_id.reason or "the host has no /sys/kernel/notes"
    built = f" ({wanted.builder}) " if wanted.builder else ""
    parts = {
        "uname -r": wanted.release == running.release,
        "uname -v": wanted.version == running.version,
        **({"the builder in /proc/version": built in running.banner} if built else {}),
    }
    wrong = [name for name, equal in parts.items() if not equal]
    told = f"{', '.join(parts)} compared with the image's header, and no build id: {reason}"
    return Comparison(not wrong, told + (f"; not the same: {', '.join(wrong)}" if wrong else ""))


@dataclass(frozen=True)
class Waited:
    """What came of waiting: a connection with what runs, or neither; ``reason`` is the last refusal."""

    reach: Reach | None
    running: Running | None
    reason: str


def wait_for_start(
    connect: Callable[[], Reach], before: str, seconds: float, *, pause: float = PAUSE_SECONDS
) -> Waited:
    """Wait until the host answers and its boot id is not ``before``.

    At the deadline: what runs if the host answers still (with the old boot id) or nothing.  The caller closes the
    connection.
    """
    end = time.monotonic() + seconds
    while True:
        reach: Reach | None = None
        running: Running | None = None
        reason = ""
        try:
            reach = connect()
            running = read_running(reach)
        except ReachError as error:
            reason = str(error)
        if running is not None and running.boot != before:
            return Waited(reach, running, "")
        late = time.monotonic() + pause > end
        if late and running is not None:
            return Waited(reach, running, "")
        if reach is not None:
            with contextlib.suppress(ReachError):
                reach.close()
        if late:
            return Waited(None, None, reason)
        time.sleep(pause)
