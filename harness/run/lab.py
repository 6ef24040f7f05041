# SPDX-License-Identifier: GPL-2.0-only
"""From what a user calls a kernel to a lab: the kernel under test, the guest's kernel and module, and both images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.cache import ContentCache, content_key
from harness.guest.launch import NEWER_QEMU, SNP_STAND_IN, LaunchRecord
from harness.guest.tee.debian import unpacked_qemu
from harness.host.config.host import HostConfig
from harness.host.emulated.launching import STAND_INS, Starter
from harness.host.emulated.prepare import Clock
from harness.host.emulated.testbed import Lab
from harness.host.reach import Reach
from harness.host.remote.files import payload
from harness.host.remote.testbed import RemoteTestbeds
from harness.images.recipes import MODULE_SOURCES, guest_image, host_image
from harness.kernel.progress import Progress, silent
from harness.kernel.record import Kernel
from harness.kernel.store import KernelStore


@dataclass(frozen=True)
class MadeLab:
    """A lab, and the kernel under test of which it makes testbeds."""

    lab: Lab
    kernel: Kernel


def make_lab(
    kernel: str | None,
    *,
    clock: Clock,
    notice: Callable[[str], None],
    patches: Sequence[Path] = (),
    progress: Progress = silent,
    launch: LaunchRecord = SNP_STAND_IN,
) -> MadeLab:
    """The lab of a kernel (a name of kernels.yaml, a source tree, a bzImage; None is the default).

    Its host can start guests of the distribution's QEMU, and those of ``launch``.

    Fetches, builds and packs what is not in the cache.  Phases of ``clock``: kernel, guest kernel, images.
    """
    cache = ContentCache(notify=notice)
    store = KernelStore(cache, progress=progress)
    clock.begin("kernel")
    under_test = store.resolve(kernel, patches=patches)
    clock.begin("guest kernel")
    guest_kernel = store.resolve(None)
    clock.begin("images")
    guest = guest_image(cache, _module(cache, store, guest_kernel))
    more = {}
    if launch.newer_qemu:
        more = {f"{NEWER_QEMU}/{name}": path for name, path in unpacked_qemu(cache).files().items()}
    initrd = host_image(cache, guest=guest, guest_kernel=guest_kernel.image, more=more)
    clock.begin("")
    return MadeLab(Lab(cache, kernel=under_test.image, initrd=initrd, notice=notice), under_test)


CONFIDENTIAL_GUEST = "7.3-confidential-guest"
"""Kernel of the guests that a host's own KVM runs, in ``host-configs/kernels.yaml``."""


def remote_testbeds(
    reach: Reach,
    host: HostConfig,
    option: str,
    *,
    clock: Clock,
    notice: Callable[[str], None],
    progress: Progress = silent,
    guest_kernel: str | None = None,
    starter: Starter = STAND_INS,
) -> RemoteTestbeds:
    """Testbeds on a host that runs the kernel under test already; raises ``ReachError`` where it cannot be used.

    The guest's kernel (a name of kernels.yaml; None is the default) and image are made here, as for the emulated host.
    """
    cache = ContentCache(notify=notice)
    store = KernelStore(cache, progress=progress)
    clock.begin("guest kernel")
    kernel = store.resolve(guest_kernel)
    clock.begin("images")
    wanted = payload(guest_image(cache, _module(cache, store, kernel)), kernel.image)
    clock.begin("")
    return RemoteTestbeds(reach, wanted, host, option, notice, starter)


def _module(cache: ContentCache, store: KernelStore, kernel: Kernel) -> Path:
    """The conversion module for the guest's kernel."""
    sources = [path for path in sorted(MODULE_SOURCES.iterdir()) if path.suffix == ".c" or path.name == "Makefile"]

    def build(folder: Path) -> None:
        store.build_module(kernel, MODULE_SOURCES, folder)

    key = content_key("module", kernel.key, *sources)
    return cache.entry("module", key, build, what="conversion module") / "gmem_conv.ko"
