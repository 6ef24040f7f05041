# SPDX-License-Identifier: GPL-2.0-only
"""Which scenarios a guest of a host's own KVM can carry out; see ``harness/host/remote/tee.py``.

What a confidential guest's kernel cannot do is from the source of Linux 7.3, and unverified on hardware.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.errors import NothingRanError
from harness.guest.tee.kinds import SNP, TeeKind
from harness.model.state import page_set
from harness.scenario.scenario import Scenario
from harness.scenario.steps import (
    Check,
    Compact,
    Convert,
    DropCaches,
    Empty,
    Populate,
    PunchHole,
    Settle,
    Side,
    Step,
    Touch,
)

WITHOUT_PRIVATE_MEMORY = (Empty, Settle, Compact, DropCaches)


@dataclass
class _Region:
    """Pages of a region as sets, while a scenario is read."""

    private: int = 0
    written: int = 0
    """Private ones that the guest has written since they became so."""


@dataclass
class _Reader:
    kind: TeeKind
    regions: dict[str, _Region] = field(default_factory=dict)

    def why_not(self, step: Step) -> str:
        """What keeps such a guest from the step; '' for nothing.  Takes notice of what the step does."""
        if isinstance(step, PunchHole):
            # the page that comes instead is not validated or accepted: the guest ends at its next touch
            return f"takes memory away from under a {self.kind.says}, which does not survive that"
        if isinstance(step, Convert):
            return self._convert(step)
        if isinstance(step, Populate) or (isinstance(step, Touch) and step.write):
            region = self._region(step.range.region)
            pages = step.pages() if isinstance(step, Touch) else range(step.range.start, step.range.end)
            for page in pages:
                region.written |= 1 << page
        if isinstance(step, Check) and self.kind == SNP and step.expect != "pattern":
            region = self._region(step.range.region)
            if page_set(step.range) & region.private & ~region.written:
                return "expects zeroes of private pages, and a SEV-SNP guest reads them deciphered until it writes them"
        return ""

    def _region(self, name: str) -> _Region:
        return self.regions.setdefault(name, _Region())

    def _convert(self, step: Convert) -> str:
        region, pages = self._region(step.range.region), page_set(step.range)
        private = step.to is Side.PRIVATE
        if pages & (region.private if private else ~region.private):
            # SNP: PVALIDATE that changes nothing ends the guest (arch/x86/coco/sev, pval_pages).  TDX: a page that is
            # accepted is not accepted again (arch/x86/coco/tdx, tdx_enc_status_changed).
            return f"converts pages that are {step.to.value} already, which the kernel of a {self.kind.says} cannot"
        region.private = region.private | pages if private else region.private & ~pages
        region.written &= ~pages
        return ""


def check_tee(scenario: Scenario, kind: TeeKind) -> None:
    """Raises ``NothingRanError`` with the first step that a guest of that kind cannot carry out."""
    reader = _Reader(kind)
    for index, step in enumerate(scenario.steps):
        if kind.confidential:
            why = reader.why_not(step)
        elif isinstance(step, WITHOUT_PRIVATE_MEMORY):
            why = ""
        else:
            why = "takes private memory, and an ordinary guest has none: no page of it is converted"
        if why:
            raise NothingRanError(f"step {index} ({step.text()}) {why}")
