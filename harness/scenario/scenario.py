# SPDX-License-Identifier: GPL-2.0-only
"""A scenario: a named, ordered list of steps on the regions of a testbed's guests; to and from YAML.

>>> from harness.scenario.steps import Convert, Side
>>> print(Scenario("there", (Convert(PageRange("g0.r0", 0, 512), Side.PRIVATE),)).to_yaml(), end="")
name: there
steps:
- {do: convert, range: 'g0.r0[0:512]', to: private}
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

import msgspec
import yaml

from harness.errors import UsageError
from harness.scenario.steps import CHUNK_PAGES, STEP_TYPES, Close, Migrate, PageRange, Step

_STEP_BY_WORD = {str(t.__struct_config__.tag): t for t in STEP_TYPES}
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.+?)`")
_MISSING_FIELD = re.compile(r"Object missing required field `(.+?)`")


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Steps on ``guests`` guests, each with one region ``gN.r0`` of ``chunks`` chunks of 512 pages.

    ``seed`` is the number a generated scenario was drawn with; nothing but its origin.  ``frames``: watch, too, which
    physical frames the guest_memfds hold.  ``pcp_room``: per-CPU page lists may keep what a CPU frees, instead of being
    capped.  ``backing``: what the shared side of the guests is made of, by name.
    """

    name: str
    steps: tuple[Step, ...]
    guests: int = 1
    chunks: int = 8
    seed: int | None = None
    frames: bool = False
    pcp_room: bool = False
    backing: str = "anon-4k"

    @property
    def pages(self) -> int:
        """Guest pages of each region."""
        return self.chunks * CHUNK_PAGES

    @property
    def nodes(self) -> int:
        """NUMA nodes of the host that the steps need."""
        return 1 + max((step.node for step in self.steps if isinstance(step, Migrate)), default=0)

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions a step may use."""
        return tuple(f"g{n}.r0" for n in range(self.guests))

    def check(self) -> None:
        """Raises UsageError for the first thing that no testbed of this shape could do."""
        if not self.name or not self.name.isprintable():
            raise UsageError(f"scenario name {self.name!r} is empty or not a printable line: give it one")
        for what, number in (("guests", self.guests), ("chunks", self.chunks)):
            if number < 1:
                raise UsageError(f"scenario {self.name!r} has {number} {what}: at least 1 is needed")
        closed: dict[str, int] = {}
        for index, step in enumerate(self.steps):
            where = f"step {index} ({step.text()}) of scenario {self.name!r}"
            for guest in step.guest_names():
                if int(guest[1:]) >= self.guests or guest != f"g{int(guest[1:])}":
                    raise UsageError(f"{where} uses guest {guest}: the scenario has {_count(self.guests, 'guest')}")
                if guest in closed:
                    raise UsageError(f"{where} uses guest {guest}, which step {closed[guest]} closed")
            for pages in step.ranges():
                self._check_range(pages, where)
            if isinstance(step, Close):
                closed[step.guest] = index

    def _check_range(self, pages: PageRange, where: str) -> None:
        if pages.region not in self.regions:
            raise UsageError(f"{where} uses region {pages.region}: guest {pages.guest} has only {pages.guest}.r0")
        if pages.end > self.pages:
            raise UsageError(
                f"{where} ends at page {pages.end}: {pages.region} has {_count(self.chunks, 'chunk')},"
                f" {self.pages} pages"
            )

    def to_yaml(self) -> str:
        """The scenario as YAML, keys sorted, defaults left out; :meth:`from_yaml` reads it back equal."""
        plain = msgspec.to_builtins(self)
        for step in plain["steps"]:
            if "range" in step:
                pages = step["range"]
                step["range"] = f"{pages['region']}[{pages['start']}:{pages['start'] + pages['count']}]"
        return yaml.safe_dump(plain, default_flow_style=None, width=120, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str, source: str = "scenario") -> Scenario:
        """Reads and checks a scenario; ``source`` names the text in errors.

        Raises UsageError with one sentence: what is wrong, where, and the nearest known key.
        """
        try:
            plain = yaml.load(text, _StrictLoader)
        except yaml.YAMLError as error:
            raise UsageError(f"{source}: not readable as YAML: {_yaml_sentence(error)}") from None
        if not isinstance(plain, dict):
            raise UsageError(f"{source}: a scenario is a mapping with the keys {', '.join(cls.__struct_fields__)}")
        _parse_ranges(plain, source)
        try:
            scenario = msgspec.convert(plain, cls)
        except msgspec.ValidationError as error:
            raise UsageError(f"{source}: {_sentence(str(error), plain)}") from None
        except UsageError as error:
            raise UsageError(f"{source}: {error}") from None
        try:
            scenario.check()
        except UsageError as error:
            raise UsageError(f"{source}: {error}") from None
        return scenario


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse_ranges(plain: dict[str, Any], source: str) -> None:
    """Replaces each step's ``g0.r0[0:512]`` by the fields of a PageRange, in place."""
    steps = plain.get("steps")
    for index, step in enumerate(steps if isinstance(steps, list) else ()):
        if isinstance(step, dict) and isinstance(step.get("range"), str):
            try:
                pages = PageRange.parse(step["range"])
            except UsageError as error:
                raise UsageError(f"{source}: step {index}: {error}") from None
            step["range"] = {"region": pages.region, "start": pages.start, "count": pages.count}


def _sentence(message: str, plain: dict[str, Any]) -> str:
    """msgspec's message with its place in words and, for a wrong word, the nearest known one."""
    what, _, path = message.partition(" - at `$")
    path = path.rstrip("`")
    match = re.match(r"\.steps\[(\d+)\]", path)
    step = plain["steps"][int(match[1])] if match else None
    place = f"step {match[1]}" if match else (path.lstrip(".") or "top level")
    if match and not isinstance(step, dict):
        return f"{place} is not a mapping: write e.g. {{do: settle}}"
    rest = path[match.end() :].lstrip(".") if match else ""
    if rest == "do":
        return f"{place} has {_unknown('step', str((step or {}).get('do')), _STEP_BY_WORD)}"
    word = step.get("do") if step else None
    if isinstance(word, str):
        place += f" ({word})"
    if rest == "range":
        return f"{place}: the range is not of the form 'g0.r0[0:512]'"
    if unknown := _UNKNOWN_FIELD.match(what):
        known = ("do", *_STEP_BY_WORD[str(word)].__struct_fields__) if step else Scenario.__struct_fields__
        return f"{place} has {_unknown('key', unknown[1], known)}"
    if missing := _MISSING_FIELD.match(what):
        return f"{place} lacks the key {missing[1]!r}"
    return f"{place}: {rest + ': ' if rest else ''}{what[:1].lower()}{what[1:]}"


def _unknown(kind: str, word: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
    return f"an unknown {kind} {word!r}: {hint}"


def _yaml_sentence(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "malformed"
    return f"{problem} in line {mark.line + 1}" if mark else str(problem)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
