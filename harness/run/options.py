# SPDX-License-Identifier: GPL-2.0-only
"""What a run is asked for, and what of it cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.guest.launch import guest_named
from harness.host.config.load import load_host
from harness.kernel.catalog import Catalog
from harness.model.designs import design_named
from harness.run.walk import STEP_SECONDS

EMULATED, LOCAL, SSH = "emulated", "local", "ssh"
"""Transports of a host's file; the first is the host that needs none."""


@dataclass(frozen=True)
class RunOptions:
    """What a run was asked for."""

    kernel: str | None = None
    """A name of kernels.yaml, a source tree or a bzImage; None is the default kernel."""
    patches: tuple[Path, ...] = ()
    """Patches on top of a named kernel."""
    host: str = "emulated"
    design: str = "auto"
    guest: str = "snp-stand-in"
    """Name of a launch record."""
    command_line: str = ""
    """Added to the command line of the kernel under test."""
    seed: int = 0
    deadline: float = STEP_SECONDS
    """Seconds that one request of a step may take."""
    keep: bool = False
    """Save the testbed of a case that does not pass into its evidence."""
    require: bool = False
    """A case that is skipped because the host lacks something fails (``infra``)."""

    def words(self) -> tuple[str, ...]:
        """What a command line needs behind ``gmem run FILE`` for the same kernel, host, design and guests, anywhere.

        >>> RunOptions(kernel="6.12", design="order0", deadline=5.0).words()
        ('--kernel', '6.12', '--design', 'order0', '--deadline=5')
        """
        usual = RunOptions()
        words = ["--host", _host(self.host)] if self.host != usual.host else []
        words += ["--kernel", _kernel(self.kernel)] if self.kernel else []
        words += [word for path in self.patches for word in ("--patch", str(path.absolute()))]
        words += ["--guest", self.guest] if self.guest != usual.guest else []
        words += ["--design", self.design] if self.design != usual.design else []
        words += [f"--cmdline={self.command_line}"] if self.command_line else []
        words += [f"--deadline={self.deadline:g}"] if self.deadline != usual.deadline else []
        return tuple(words)


def _host(place: str) -> str:
    """A file from the root; a name stays a name (``load_host``)."""
    is_file = "/" in place or place.endswith((".yaml", ".yml"))
    return str(Path(place).expanduser().absolute()) if is_file else place


def _kernel(place: str) -> str:
    """A tree or an image from the root; a name stays a name, also beside a folder of that name (``KernelStore``)."""
    path = Path(place).expanduser()
    return str(path.absolute()) if path.exists() and place not in Catalog.load().names() else place


def check_options(options: RunOptions) -> None:
    """Raises ``UsageError`` for an unknown host, design or launch: now, not after a kernel was built."""
    if options.host != EMULATED:
        host = load_host(options.host)
        asked = options.kernel or options.patches or options.command_line
        if asked and host.transport != EMULATED and not (host.transport == SSH and host.handover.how):
            raise UsageError(
                f"host {host.name} runs the kernel that it runs: --kernel, --patch and --cmdline are not for it"
                + (", unless its file has handover: {how: kexec}" if host.transport == SSH else "")
            )
    if options.design != "auto":
        design_named(options.design)
    launch = guest_named(options.guest)
    emulated = options.host == EMULATED or host.transport == EMULATED
    if launch.tee and emulated:
        raise UsageError(
            f"a {launch.kind_text} is one of a host with a KVM of its own (--host FILE with transport ssh or local);"
            " the emulated host has stand-ins"
        )
    if launch.newer_qemu and not emulated:
        raise UsageError(f"--guest {launch.name} is for the emulated host, whose image brings a QEMU for it")
    if launch.bare and (emulated or host.transport != LOCAL):
        raise UsageError("a bare guest_memfd is one of the machine that the harness runs on: --guest bare --host local")
