# SPDX-License-Identifier: GPL-2.0-only
"""The host of tests about states: two guests with a region each, and the first two windows of one."""

from __future__ import annotations

from harness.model import pages
from harness.model.facts import HostFacts

FACTS = HostFacts(ncpu=2, regions={"g0.r0": 8, "g1.r0": 8})
ONE, TWO = pages.span(0, 512), pages.span(512, 512)
