# SPDX-License-Identifier: GPL-2.0-only
"""Which firmware a guest gets: the first image on the host that can do what its kind needs.

Tried with direct kernel boot under TCG: a generic OVMF.fd boots an unsigned kernel; OVMF.amdsev.fd boots one only with
a hash table; OVMF.inteltdx.ms.fd has Secure Boot on and refuses it.  Hence the order, and the conditions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from harness.errors import NothingRanError
from harness.guest.tee.firmware import FirmwareError, read_firmware
from harness.guest.tee.kinds import TeeKind
from harness.host.reach import Reach, read_file


@dataclass(frozen=True)
class Place:
    """Where a distribution puts an image."""

    path: str
    package: str
    """What has it, for a person who has to install it."""
    hashes_only: bool = False
    """Whether it boots a kernel that it is handed only when that is measured."""
    secure_boot: bool = False
    """Whether it boots signed kernels only."""


PLACES: Final = (
    Place("/usr/share/ovmf/OVMF.fd", "Debian or Ubuntu package ovmf (ovmf-generic since 2025.11)"),
    Place("/usr/share/edk2/ovmf/OVMF.amdsev.fd", "Fedora package edk2-ovmf", hashes_only=True),
    Place("/usr/share/edk2/ovmf/OVMF.inteltdx.fd", "Fedora package edk2-ovmf"),
    Place("/usr/share/ovmf/OVMF.amdsev.fd", "Debian package ovmf-amdsev (forky or newer)", hashes_only=True),
    Place("/usr/share/ovmf/OVMF.inteltdx.ms.fd", "Debian package ovmf-inteltdx (forky or newer)", secure_boot=True),
)

_FIX_METADATA: Final = "install Debian's package ovmf (bookworm or newer: OVMF.fd, not OVMF_CODE), or name an image"
_FIX_HASHES: Final = (
    "install Debian's package ovmf-generic 2026.08 or ovmf-amdsev (forky; they install on trixie too), or do without "
    "kernel hashes"
)


@dataclass(frozen=True)
class Candidate:
    """An image, or a place where none is."""

    place: Place
    image: bytes | None


@dataclass(frozen=True)
class Choice:
    """The image that was chosen, and why."""

    path: str
    reason: str


def gather(reach: Reach, places: Iterable[Place] = PLACES) -> list[Candidate]:
    """The images of a host; raises ``ReachError`` when it is not reached."""
    return [Candidate(place, read_file(reach, place.path)) for place in places]


def choose_firmware(kind: TeeKind, candidates: Iterable[Candidate], wants_hashes: bool) -> Choice:
    """The first image that can do what ``kind`` needs.

    Raises ``NothingRanError`` (a skip) when none can: which image lacks what, and what to install.  An ordinary guest
    then gets QEMU's own, SeaBIOS: an empty path.
    """
    lacks = []
    for candidate in candidates:
        problem = _problem(kind, candidate, wants_hashes)
        if not problem:
            return Choice(candidate.place.path, _reason(kind, wants_hashes))
        lacks.append(f"{candidate.place.path} {problem}")
    if not kind.metadata and not wants_hashes:
        return Choice("", "no OVMF on the host: QEMU's own SeaBIOS, which an ordinary guest can do with")
    shown = "; ".join(lacks) or "none was looked for"
    fix = _FIX_HASHES if wants_hashes else _FIX_METADATA
    raise NothingRanError(f"no firmware for a {kind.says}: {shown}: {fix}")


def _problem(kind: TeeKind, candidate: Candidate, wants_hashes: bool) -> str:
    """The rest of the sentence "IMAGE ..."; '' for an image that will do."""
    place = candidate.place
    if candidate.image is None:
        return f"is not there ({place.package})"
    try:
        firmware = read_firmware(candidate.image)
    except FirmwareError as error:
        return str(error)
    if not firmware.metadata(kind.metadata):
        return f"has no {kind.metadata} metadata"
    if wants_hashes and not firmware.hashes:
        base, size = firmware.hash_table or (0, 0)
        return f"has no place for hashes of the kernel (base {base:#x}, size {size:#x})"
    if place.secure_boot:
        return "has Secure Boot on, and refuses a kernel that is not signed"
    if place.hashes_only and not wants_hashes:
        return "boots a kernel only with kernel hashes"
    return ""


def _reason(kind: TeeKind, wants_hashes: bool) -> str:
    has = [f"{kind.metadata} metadata"] if kind.metadata else []
    has += ["a place for hashes of the kernel"] if wants_hashes else []
    return "first of the images that has " + " and ".join(has) if has else "first of the images that is an OVMF"
