# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of earlier explorations that reached a combination of rules first: what the next one begins with."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from harness.cache import cache_root
from harness.errors import InfraError, UsageError
from harness.explore.draw import Shape
from harness.scenario.scenario import Scenario

MOST = 1000
"""Scenarios in a corpus at most; then it takes no more."""


def default_corpus(design: str, shape: Shape) -> Path:
    """The folder for a design and what scenarios are drawn from: combinations of rules are the design's."""
    kinds = "".join(f"-{word}" for word, has in (("pins", shape.pins), ("pressure", shape.pressure)) if has)
    return cache_root() / "explore" / f"{design.replace(':', '-order')}-{shape.guests}x{shape.chunks}{kinds}"


@dataclass
class Corpus:
    """A folder of scenarios, each named after its combination of rules; several explorations may use it at once."""

    folder: Path
    loaded: int = 0
    added: int = 0
    unreadable: list[str] = field(default_factory=list)
    """Sentences on files that are no scenario; they are left alone."""

    def scenarios(self) -> Iterator[Scenario]:
        """Those that are there, in the order of their names."""
        for path in sorted(self.folder.glob("*.yaml"))[:MOST] if self.folder.is_dir() else ():
            try:
                scenario = Scenario.from_yaml(path.read_text(encoding="utf-8"), str(path))
            except (UsageError, OSError, UnicodeDecodeError) as error:
                self.unreadable.append(str(error))
                continue
            self.loaded += 1
            yield msgspec.structs.replace(scenario, name=f"corpus-{path.stem}", seed=None)

    def add(self, scenario: Scenario, rules: Iterable[str]) -> Path | None:
        """Keep the scenario that reached a combination of rules; None when one is known, or the corpus is full.

        Raises ``InfraError`` for a full disk.
        """
        if self.loaded + self.added >= MOST:
            return None
        path = self.folder / f"{hashlib.sha256(' '.join(sorted(rules)).encode()).hexdigest()[:16]}.yaml"
        if path.exists():
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fd, fresh = tempfile.mkstemp(prefix=".new-", dir=self.folder)
            with os.fdopen(fd, "w", encoding="utf-8") as stream:
                stream.write("# SPDX-License-Identifier: GPL-2.0-only\n" + scenario.to_yaml())
            Path(fresh).replace(path)
        except OSError as error:
            raise InfraError(f"{path} cannot be written: {error.strerror}") from error
        self.added += 1
        return path
