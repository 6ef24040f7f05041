# SPDX-License-Identifier: GPL-2.0-only
"""Drives the kernel's own make: configure, build, modules; with a log on disk and a sentence when it fails."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.cache import require_space
from harness.errors import InfraError, UsageError
from harness.kernel.commands import Finished, run
from harness.kernel.config import SourceError, Wish, check_config, fragment_text, parse_config
from harness.kernel.progress import Progress, silent
from harness.kernel.toolchain import Compiler, build_environment, jobs

BUILD_SECONDS = 4 * 3600.0
CONFIGURE_SECONDS = 300.0
# Measured: the O= folder of the emulated host's kernel, 7.3.4, has 200 MiB.
BUILD_BYTES = 400_000_000
# Fixed, so that the same source makes the same image.
BUILD_TIMESTAMP = "Thu Jan  1 00:00:00 UTC 1970"

_STEP = re.compile(r"  [A-Z][A-Z0-9_]*(?: \[M\])? +\S")
# What compiler, linker and Kconfig say, in contrast to what each level of make then says about it.
_ERROR = re.compile(r"error: |undefined reference|^ld: |^\S+:\d+: (?!warning|note)|^\*\*\* |modpost: ")
_ECHO = re.compile(r"make(\[\d+\])?: ")
_KILLED = re.compile(
    r"fatal error: Killed|Killed signal|\bSegmentation fault|internal compiler error|Cannot allocate memory"
)
"""Of a compiler that somebody, or a lack of memory, ended: says nothing about the source."""


@dataclass(frozen=True)
class Make:
    """One O= build of one source tree."""

    source: Path
    build: Path
    compiler: Compiler
    # What the kernel is called in messages.
    kernel: str
    # Goes into /proc/version as the name of the build host.
    mark: str
    log: Path
    # Descriptors that the commands keep open: the lock of the build folder.
    hold: tuple[int, ...] = ()
    progress: Progress = silent

    def configure(self, wishes: Mapping[str, Wish]) -> str:
        """Makes ``.config`` from everything off plus the wishes; returns it as text.

        Raises :class:`InfraError` if the kernel does not take a line of the wishes.  An unchanged configuration is not
        written again, so that nothing is compiled for it.
        """
        self.build.mkdir(parents=True, exist_ok=True)
        asked = self.build / "gmem.config"
        asked.write_text(fragment_text(wishes))
        self._require(self._run(["allnoconfig"], CONFIGURE_SECONDS, {"KCONFIG_ALLCONFIG": str(asked)}), "configuring")
        text = (self.build / ".config").read_text()
        check_config(wishes, parse_config(text), self.source, self.kernel)
        return text

    def image(self, expected: int | None) -> Finished:
        """Builds the bzImage and what external modules need.  ``expected``: lines that make will print, if known."""
        require_space(self.build, BUILD_BYTES, f"building kernel {self.kernel}")
        done = self._run(["bzImage", "modules_prepare"], BUILD_SECONDS, {}, expected)
        self._require(done, "building")
        return done

    def prepare(self) -> None:
        """Only what external modules need."""
        self._require(self._run(["modules_prepare"], BUILD_SECONDS, {}), "preparing for modules")

    def module(self, folder: Path) -> None:
        """Builds the external module in ``folder`` (files are written there)."""
        warn = {} if (self.build / "Module.symvers").exists() else {"KBUILD_MODPOST_WARN": "1"}
        done = self._run([f"M={folder}", "modules"], CONFIGURE_SECONDS, warn)
        self._require(done, f"building the module {folder.name} for")

    def _run(
        self, targets: Sequence[str], timeout: float, extra: Mapping[str, str], expected: int | None = None
    ) -> Finished:
        steps = 0

        def line(text: str) -> None:
            nonlocal steps
            if _STEP.match(text):
                steps += 1
                self.progress("build", steps, None if expected is None else max(expected, steps))

        argv = [
            "make",
            "-C",
            str(self.source),
            f"O={self.build}",
            "ARCH=x86_64",
            f"-j{jobs()}",
            f"CC={self.compiler.command}",
            "KBUILD_BUILD_USER=gmem",
            f"KBUILD_BUILD_HOST={self.mark}",
            "KBUILD_BUILD_VERSION=1",
            f"KBUILD_BUILD_TIMESTAMP={BUILD_TIMESTAMP}",
            *targets,
        ]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", buffering=1) as log:
            log.write(f"$ {' '.join(argv)}\n")
            done = run(
                argv,
                timeout=timeout,
                env={**build_environment(), **extra},
                line=line,
                log=log,
                pass_fds=self.hold,
                tail_lines=400,
            )
        return done

    def _require(self, done: Finished, work: str) -> None:
        """Raises the error of a make that failed, with its first line of error: :class:`SourceError` in the end."""
        if done.code == 0:
            return
        if "No space left on device" in done.text:
            raise InfraError(f"{work} kernel {self.kernel} failed: the disk below {self.build} is full")
        if "source tree is not clean" in done.text:
            raise UsageError(not_clean(self.source))
        kind = InfraError if _KILLED.search(done.text) else SourceError
        errors = [text.strip() for text in done.tail if _ERROR.search(text) and not _ECHO.match(text)]
        errors += [text.strip() for text in done.tail if "*** " in text]
        raise kind(f"{work} kernel {self.kernel} failed: {(errors or ['make gave no reason'])[0]} (log: {self.log})")


def count_steps(log: Path) -> int:
    """How many lines of progress a build's log holds."""
    return sum(1 for text in log.read_text(errors="replace").splitlines() if _STEP.match(text))


def not_clean(tree: Path) -> str:
    """The sentence for a source tree in which somebody built without ``O=``."""
    return (
        f"the source tree {tree} was built in place, so make refuses to build it elsewhere: "
        f"run 'make mrproper' there (it removes .config: keep a copy), then run again"
    )
