# SPDX-License-Identifier: GPL-2.0-only
"""The blob of one sample: sections ``"@ NAME LENGTH\\n" + text + "\\n"``, sealed by a last one named ``end``.

The seal holds the number of sections and the crc32 of everything before it, so that a blob kept as evidence can still
be told from a torn or altered one. ``time`` holds the host's monotonic clock around the reading.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Final

from harness.errors import InfraError

_HEAD: Final = re.compile(rb"@ ([!-~]{1,160}) ([0-9]{1,9})\n")
_SEAL: Final = re.compile(rb"sections=([0-9]+) crc32=([0-9a-f]{8})\n")
_HEAD_MAX: Final = 200


class SampleFormatError(InfraError):
    """A sample's blob is torn or damaged."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"a sample of the host's counters is damaged: {problem}; take it again")


def decode_sections(blob: bytes) -> Mapping[str, str]:
    """Section texts by name, without the seal. Raises SampleFormatError unless the blob is whole and unchanged."""
    sections: dict[str, str] = {}
    position = 0
    while True:
        match = _HEAD.match(blob, position, position + _HEAD_MAX)
        if match is None:
            raise SampleFormatError(f"no section begins at byte {position} of {len(blob)}")
        name, begin = match[1].decode("ascii"), match.end()
        end = begin + int(match[2])
        if blob[end : end + 1] != b"\n":
            raise SampleFormatError(f"section {name!r} does not end at byte {end} of {len(blob)}")
        if name == "end":
            _check_seal(blob, position, blob[begin:end], len(sections), end + 1)
            return sections
        if name in sections:
            raise SampleFormatError(f"section {name!r} appears twice")
        try:
            sections[name] = blob[begin:end].decode()
        except UnicodeDecodeError as error:
            raise SampleFormatError(f"section {name!r} is not text: {error.reason}") from error
        position = end + 1


def _check_seal(blob: bytes, position: int, text: bytes, sections: int, end: int) -> None:
    match = _SEAL.fullmatch(text)
    if match is None:
        raise SampleFormatError("its seal cannot be read")
    if end != len(blob):
        raise SampleFormatError(f"{len(blob) - end} bytes follow its seal")
    if int(match[1]) != sections:
        raise SampleFormatError(f"its seal counts {int(match[1])} sections, there are {sections}")
    if int(match[2], 16) != zlib.crc32(blob[:position]):
        raise SampleFormatError("its checksum is wrong")


def encode_sections(sections: Mapping[str, str]) -> bytes:
    """The blob that decode_sections takes apart; for keeping a sample, and for stand-ins of the probe."""
    body = b"".join(_section(name, text.encode()) for name, text in sections.items())
    return body + _section("end", b"sections=%d crc32=%08x\n" % (len(sections), zlib.crc32(body)))


def _section(name: str, text: bytes) -> bytes:
    return b"@ %s %d\n%s\n" % (name.encode("ascii"), len(text), text)
