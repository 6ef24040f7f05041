# SPDX-License-Identifier: GPL-2.0-only
"""The record of a planted fault, beside its patch: ``faults/NAME.patch`` and ``faults/NAME.yaml``.

The patch is applied (``patch -p1``) over the tree of the kernel that the record names.  The record says what a user of
such a kernel would suffer, which cases are enough to show it, and what the harness must say: that is written down
before the run, and a run that says something else has not caught the fault.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from harness.errors import UsageError
from harness.kernel.catalog import Catalog
from harness.run.verdict import Verdict

FAULTS = Path(__file__).parent / "faults"
UNCAUGHT = Path(__file__).parent / "uncaught"
"""Faults that no default suite sees; docs/planted.md says of each why."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file NAME.yaml."""

    kernel: str
    suffers: str
    cases: str
    verdict: Literal["deviates", "crash"]
    counter: str
    words: str


class Fault(msgspec.Struct, frozen=True):
    """A patch over a named kernel, and what must be said of the kernel that it makes."""

    name: str
    patch: Path
    kernel: str
    """Name in host-configs/kernels.yaml of the kernel that it is planted in."""
    suffers: str
    """What a user of such a kernel would suffer, one line."""
    cases: str
    """Suites and ``-k EXPRESSION`` as they are typed behind ``gmem run``: enough to show the fault."""
    verdict: Verdict
    """``deviates`` or ``crash``."""
    counter: str
    """Regular expression for the whole name of a counter that must be found outside its prediction; '' when
    contents or a console tell."""
    words: str
    """What the reasons, sentences or messages of the case that shows it must contain."""

    @property
    def cases_words(self) -> tuple[str, ...]:
        """``cases`` as words of a command line."""
        return tuple(shlex.split(self.cases))

    @property
    def suites(self) -> tuple[str, ...]:
        """Suites and paths of ``cases``, none for those that ``gmem run`` takes by itself."""
        return _split(self.cases)[0]

    @property
    def expression(self) -> str:
        """The expression of ``-k``, '' for all cases."""
        return _split(self.cases)[1]


def _split(cases: str) -> tuple[tuple[str, ...], str]:
    """Suites and expression; raises ``ValueError`` with a sentence."""
    words = shlex.split(cases)
    if "-k" not in words:
        suites, expression = words, []
    else:
        at = words.index("-k")
        suites, expression = words[:at] + words[at + 2 :], words[at + 1 : at + 2]
        if not expression:
            raise ValueError("-k needs an expression behind it")
    odd = [word for word in suites if word.startswith("-")]
    if odd:
        raise ValueError(f"it has {odd[0]}, but may have suites and one -k only")
    return tuple(suites), "".join(expression)


def names(folder: Path = FAULTS) -> list[str]:
    """Names of all faults, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load(name: str, folder: Path = FAULTS) -> Fault:
    """The fault of that name; raises :class:`UsageError` with the file and what is wrong in it."""
    path, patch = folder / f"{name}.yaml", folder / f"{name}.patch"
    if not path.is_file():
        raise UsageError(f"there is no planted fault {name}: {folder} has {', '.join(names(folder)) or 'none'}")
    try:
        record = msgspec.convert(yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader), _Record)
        _split(record.cases)
        re.compile(record.counter)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except re.error as error:
        raise UsageError(f"{path}: counter is no regular expression: {error}") from error
    except ValueError as error:  # a msgspec.ValidationError is one too
        raise UsageError(f"{path}: {error}") from error
    if record.kernel not in Catalog.load().names():
        raise UsageError(f"{path}: there is no kernel {record.kernel} in host-configs/kernels.yaml")
    if not patch.is_file():
        raise UsageError(f"{path}: its patch {patch.name} is not beside it")
    for key in ("suffers", "words"):
        if "\n" in getattr(record, key).strip() or (key == "suffers" and not record.suffers.strip()):
            raise UsageError(f"{path}: {key} has to be one line")
    if not record.counter and not record.words:
        raise UsageError(f"{path}: neither counter nor words say what must be named")
    return Fault(
        name=name,
        patch=patch,
        kernel=record.kernel,
        suffers=record.suffers.strip(),
        cases=record.cases,
        verdict=Verdict(record.verdict),
        counter=record.counter,
        words=record.words,
    )


def load_all(chosen: Sequence[str] = (), folder: Path = FAULTS) -> list[Fault]:
    """The named faults in that order, or all of them by name; those of a kernel together, stock kernels first.

    A patch without a record is an error too: nobody would ever run it.
    """
    alone = sorted({path.stem for path in folder.glob("*.patch")} - set(names(folder)))
    if alone:
        raise UsageError(f"{folder / alone[0]}.patch has no record {alone[0]}.yaml beside it")
    order = list(Catalog.load().names())
    faults = [load(name, folder) for name in (chosen or names(folder))]
    return sorted(faults, key=lambda fault: order.index(fault.kernel))
