# SPDX-License-Identifier: GPL-2.0-only
"""The witnesses of conversions besides counters: who asked for them, who carried them out, who refused them.

The guest says what it asked for; its QEMU traces what it did; where the interposer converts it prints what KVM refused.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from harness.errors import InfraError
from harness.guest.console import read_console
from harness.guest.conversions import Conversion, check_traced, parse_trace
from harness.guest.launch import launch_on
from harness.guest.tee.asked import Traced, differences, read_trace
from harness.host.testbed import Testbed
from harness.model.prediction import StepPrediction
from harness.run.judge import compare_conversions, expected_on_guest
from harness.run.refusal import compare_refusals, error_offset
from harness.run.walk import Done

TRACE_SECONDS: Final = 5.0
"""How long a trace may take to arrive: it passes a character device."""
_POLL: Final = 0.005


@dataclass
class Witnesses:
    """Those of one walk."""

    testbed: Testbed
    complaints: dict[str, int] = field(default_factory=dict)
    """Bytes that were read of what each guest's QEMU printed on standard error."""

    @property
    def traced(self) -> dict[str, Path]:
        """Guests whose QEMU lists its conversions, with the file that it lists them in."""
        guests = [spec.name for spec in self.testbed.spec.guests if spec.launch.traces_conversions]
        return {name: self.testbed.trace_log(name) for name in guests}

    def offsets(self) -> dict[str, int]:
        """Where the lists end now."""
        return {name: path.stat().st_size if path.exists() else 0 for name, path in self.traced.items()}

    def check_tracing(self, ended: frozenset[str]) -> None:
        """The trace event must be on in all guests but those that ended.

        Otherwise an empty list of conversions would look like agreement.  A list that agrees shows that it is on, and
        QEMU need not be asked.
        """
        for guest in sorted(self.traced.keys() - ended):
            with self.testbed.channels.monitor(guest) as monitor:
                check_traced(guest, monitor)

    def compare(self, prediction: StepPrediction, done: Done, offsets: Mapping[str, int]) -> list[str]:
        """The three lists of conversions: predicted, asked by the guest, carried out by QEMU since ``offsets``."""
        chunks = {f"{guest.name}.r0": guest.chunks for guest in self.testbed.state.guests}
        expected = expected_on_guest(prediction.conversions, chunks)
        if any(guest.launch.tee for guest in self.testbed.spec.guests):
            return self._compare_exits(expected, done.asked, offsets)
        # Where the interposer converts by itself, only the guest's list exists.
        listed = self._listed(offsets, len(done.asked)) if offsets else done.asked
        return compare_conversions(expected, done.asked, listed)

    def _compare_exits(
        self, expected: Sequence[Conversion], asked: Sequence[Conversion], offsets: Mapping[str, int]
    ) -> list[str]:
        """The same, where KVM joins and splits what the guest's kernel asks for before QEMU sees it."""
        end = time.monotonic() + TRACE_SECONDS
        found = compare_conversions(expected, asked, asked)
        while True:
            traces = [read_trace(text) for text in self._texts(offsets)]
            arrived = sum(one.pages for trace in traces for one in trace.explicit)
            if arrived >= sum(one.pages for one in asked) or time.monotonic() > end:
                break
            time.sleep(_POLL)
        whole = Traced(
            explicit=tuple(one for trace in traces for one in trace.explicit),
            implicit=tuple(one for trace in traces for one in trace.implicit),
            unanswered=tuple(one for trace in traces for one in trace.unanswered),
        )
        return [*found, *differences(asked, whole)]

    def _listed(self, offsets: Mapping[str, int], wanted: int) -> list[Conversion]:
        """What QEMU traced since ``offsets``, once that many conversions have arrived or none come any more."""
        end = time.monotonic() + TRACE_SECONDS
        while True:
            found = [one for text in self._texts(offsets) for one in parse_trace(text[: text.rfind("\n") + 1])]
            if len(found) >= wanted or time.monotonic() > end:
                return found
            time.sleep(_POLL)

    def _texts(self, offsets: Mapping[str, int]) -> list[str]:
        return [read_console(self.testbed.trace_log(name), offset) for name, offset in offsets.items()]

    def compare_refusals(self, prediction: StepPrediction, done: Done) -> list[str]:
        """The error that the step ended with: predicted, and seen, where the kernel says how far it came."""
        ranges, seen = prediction.step.ranges(), done.refused
        if not ranges:
            return []
        guest = ranges[0].guest
        if seen and done.asked:
            seen = replace(seen, offset=self._error_offset(guest))
        return compare_refusals(prediction.refused, seen, self.testbed.guest(guest).chunks)

    def _error_offset(self, name: str) -> int | None:
        """Where the guest's last conversion failed, as the interposer told of it; None where it has none to tell."""
        guest = next(spec for spec in self.testbed.spec.guests if spec.name == name)
        if not launch_on(guest.launch, self.testbed.state.kernel_facts).in_place:
            return None
        text = self.testbed.channels.control.get(guest.error_log).decode(errors="replace")
        known, self.complaints[name] = self.complaints.get(name, 0), len(text)
        offset = error_offset(text[known:])
        if offset is None:
            raise InfraError(f"a conversion of {name} was refused, and its interposer did not say at which page")
        return offset
