# SPDX-License-Identifier: GPL-2.0-only
"""Where the model and its tests lie, and which files of the project one of them depends on."""

from __future__ import annotations

import ast
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

# They run copies of the model or other programs, or need the plugin of the suites: not the model that they import.
NOT_OF_THE_MODEL = ("test_model_mutants.py", "test_mutation_tool.py", "test_claim_suites.py", "test_docs.py")

EXAMPLES = "GMEM_MUTATION"
"""The environment variable that bounds searches; tests/conftest.py reads it."""
RECORD = 2
"""Of the form and meaning of the records of what tests execute; a change of either needs another number."""


@dataclass(frozen=True)
class Places:
    """A project: its folder, the package whose mutants are made, and the folder with the tests."""

    root: Path
    model: Path
    tests: Path
    _found: dict[Path, list[Path]] = field(default_factory=dict, repr=False, compare=False)

    def module(self, file: Path) -> str:
        """The dotted name by which a file of the model is imported."""
        return ".".join(file.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")

    def test_files(self) -> list[Path]:
        """The test files that import the model, themselves or by way of others."""
        found = [path for path in sorted(self.tests.glob("test_*.py")) if path.name not in NOT_OF_THE_MODEL]
        return [path for path in found if any(self.model in other.parents for other in self.closure(path))]

    def closure(self, file: Path) -> frozenset[Path]:
        """The file and every file of the project that importing it reads."""
        seen: set[Path] = set()
        waiting = [file]
        while waiting:
            path = waiting.pop()
            if path not in seen:
                seen.add(path)
                if path not in self._found:
                    self._found[path] = self._imported_by(path)
                waiting += self._found[path]
        return frozenset(seen)

    def key(self, file: Path) -> str:
        """A digest of all that a test file does: its closure, the data files beside the tests, how far it searches."""
        data = [path for path in self.tests.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
        digest = hashlib.sha256(f"{RECORD} {os.environ.get(EXAMPLES)} {file.relative_to(self.root)}".encode())
        for path in sorted({*self.closure(file), *data}):
            digest.update(f"{path.name}:{path.stat().st_size}:".encode() + path.read_bytes())
        return digest.hexdigest()[:32]

    def _imported_by(self, path: Path) -> list[Path]:
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        found = []
        for name in names:
            parts = name.split(".")
            for base in (self.root, self.tests):
                for length in range(1, len(parts) + 1):
                    place = base.joinpath(*parts[:length])
                    found += [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]
        return found


_ROOT = Path(__file__).resolve().parents[2]
PROJECT = Places(_ROOT, _ROOT / "harness" / "model", _ROOT / "tests" / "unit")
