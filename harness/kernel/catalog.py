# SPDX-License-Identifier: GPL-2.0-only
"""``host-configs/kernels.yaml``: the kernels that have a name, read strictly.

Every scalar of the file is text (``7.10`` stays ``7.10``); an unknown or repeated key is an error that names the
nearest known one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.errors import UsageError
from harness.strict_yaml import nearest, parse, read_text

HOST_CONFIGS = Path(__file__).resolve().parents[2] / "host-configs"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"base": "from"}):
    """One kernel as it stands in the file."""

    base: str = ""
    """Another kernel of the file: its source, then its fragments and patches before those given here."""
    series: str = ""
    """Kernel series as Debian ships its source: package ``linux-source-SERIES``."""
    suites: tuple[str, ...] = ()
    """Where to look for it, in this order; ``RELEASE`` stands for the Debian release of the machine."""
    version: str = ""
    """Exact package version; without, what the first suite that has the package offers."""
    config: tuple[str, ...] = ()
    """Fragments below ``host-configs/fragments``, merged in this order over "everything off"."""
    patches: tuple[str, ...] = ()
    """Below the series' folder in ``host-configs/patches``, applied in this order with ``patch -p1``."""
    note: str = ""
    """One sentence for ``gmem kernel list``."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    default: str
    kernels: dict[str, Entry]


@dataclass(frozen=True)
class Recipe:
    """How a named kernel is made; ``from`` is already followed."""

    name: str
    # Kernel series as the distribution names it, e.g. "7.3": package linux-source-7.3.
    series: str
    # Suites to look in, in this order; RELEASE stands for the Debian release of the machine.
    suites: tuple[str, ...]
    # Exact package version, "" for whatever the first suite has.
    version: str
    # Configuration fragments, merged in this order.
    config: tuple[Path, ...]
    # Patches, applied in this order with "patch -p1".
    patches: tuple[Path, ...]
    # One sentence for "gmem kernel list".
    note: str

    @property
    def package(self) -> str:
        """The Debian package with the source of the series."""
        return f"linux-source-{self.series}"


class Catalog:
    """The named kernels of one ``kernels.yaml``."""

    def __init__(self, path: Path, default: str, entries: dict[str, Entry]) -> None:
        self.path = path
        self.default = default
        self._entries = entries

    @classmethod
    def load(cls, path: Path = HOST_CONFIGS / "kernels.yaml") -> Catalog:
        """Reads the file; raises :class:`UsageError` with place and reason."""
        data = parse(read_text(path, "the list of kernels"), path)
        try:
            content = msgspec.convert(data, _File)
        except msgspec.ValidationError as error:
            raise UsageError(f"{path}: {_with_nearest(str(error))}") from error
        catalog = cls(path, content.default, content.kernels)
        for name in catalog.names():
            catalog.recipe(name)
        if content.default not in content.kernels:
            raise UsageError(f"{path}: the default kernel {content.default} is not in the list")
        return catalog

    def names(self) -> tuple[str, ...]:
        """All names, in the order of the file."""
        return tuple(self._entries)

    def recipe(self, name: str) -> Recipe:
        """The recipe of a name; raises :class:`UsageError` naming the nearest name and all of them."""
        if name not in self._entries:
            raise UsageError(
                f"there is no kernel {name}{nearest(name, self._entries)}; "
                f"{self.path.name} has {', '.join(self.names())}"
            )
        chain = self._chain(name)
        root = chain[0]
        folder = self.path.parent
        where = f"{self.path}: kernel {name}"
        if not re.fullmatch(r"[0-9]+\.[0-9]+", root.series):
            raise UsageError(f"{where} needs a series like 7.3 (or a kernel to derive it from with 'from')")
        if not root.suites:
            raise UsageError(f"{where} needs suites: the Debian suites to look for {root.series} in")
        recipe = Recipe(
            name=name,
            series=root.series,
            suites=root.suites,
            version=root.version,
            config=tuple(folder / "fragments" / item for entry in chain for item in entry.config),
            patches=tuple(folder / "patches" / root.series / item for entry in chain for item in entry.patches),
            note=chain[-1].note,
        )
        if not recipe.config:
            raise UsageError(f"{where} needs config: the fragments of {folder / 'fragments'} to configure it with")
        for path in recipe.config + recipe.patches:
            if not path.is_file():
                raise UsageError(f"{where} names {path}, which does not exist")
        return recipe

    def _chain(self, name: str) -> list[Entry]:
        """The entries from the root of ``from`` down to ``name``."""
        chain = [self._entries[name]]
        seen = [name]
        while base := chain[0].base:
            if base in seen:
                raise UsageError(f"{self.path}: kernel {name} is derived from itself ({' from '.join([*seen, base])})")
            if base not in self._entries:
                raise UsageError(f"{self.path}: kernel {seen[-1]} is derived from {base}, which is not in the list")
            if chain[0].series or chain[0].suites or chain[0].version:
                raise UsageError(
                    f"{self.path}: kernel {seen[-1]} has 'from': series, suites and version are those of {base}"
                )
            chain.insert(0, self._entries[base])
            seen.append(base)
        return chain


def _with_nearest(message: str) -> str:
    """The message of msgspec, with the nearest known key if it is about an unknown one."""
    match = re.search(r"unknown field `([^`]*)`", message)
    if match is None:
        return message
    known = ("default", "kernels") if "$." not in message else ("from", *(Entry.__struct_fields__[1:]))
    return f"unknown key {match[1]}{nearest(match[1], known)}; known are {', '.join(known)}"
