# SPDX-License-Identifier: GPL-2.0-only
"""``python -m harness.reference [FOLDER]``: write docs/reference (or FOLDER) anew."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.reference.pages import FOLDER, pages


def main(words: list[str]) -> int:
    """Write what differs; the exit code is 0."""
    folder = Path(words[0]) if words else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
