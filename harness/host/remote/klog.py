# SPDX-License-Identifier: GPL-2.0-only
"""Streams of a host that end in a file here: consoles, and the kernel log in the records of ``/dev/kmsg``."""

from __future__ import annotations

import re
from pathlib import Path

_RECORD = re.compile(rb"^\d+,\d+,(\d+),[^;\n]*;(.*)$")
"""kernel/printk/printk.c: info_print_ext_header; priority, sequence number, microseconds."""


class Append:
    """Appends what arrives to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)


class KernelLog(Append):
    """Appends the lines of the records, as a console has them; what is known of devices is left out."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._begun = b""

    def __call__(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        told = b"".join(
            b"[%5d.%06d] %s\n" % (*divmod(int(record[1]), 1_000_000), record[2])
            for line in lines
            if (record := _RECORD.match(line))
        )
        if told:
            super().__call__(told)
