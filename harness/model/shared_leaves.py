# SPDX-License-Identifier: GPL-2.0-only
"""KVM's read-only leaves over what QEMU's page table maps to the huge zero folio."""

from __future__ import annotations

from dataclasses import replace

from harness.model import pages
from harness.model.aligned import PMD_ORDER, full_groups, spread
from harness.model.context import Context, Outcome
from harness.model.mapping import map_shared, map_zero
from harness.model.state import RegionState


def map_huge_zero(context: Context, region: RegionState, touched: int) -> Outcome:
    """Read-only leaves to the zero page, of 2 MiB where QEMU has the huge zero folio and the window is all shared.

    KVM asks QEMU's page table for the size and not what is behind it (mmu/mmu.c:host_pfn_mapping_level), so that the
    leaf is installed as one of a shared folio is; it is kept apart here, for the first write replaces it.
    """
    fault = touched & ~region.leaf_zero & ~region.leaf_zero_large.covered()
    shared = region.zero_huge.touching(fault).covered() & ~region.attr_private
    windows = pages.groups(fault, PMD_ORDER) & full_groups(shared, PMD_ORDER)
    under = spread(windows, PMD_ORDER)
    large = map_shared(context, region, fault & under, region.zero_huge)
    apart = replace(
        large.region,
        leaf_shared_large=region.leaf_shared_large,
        leaf_zero_large=region.leaf_zero_large.add(PMD_ORDER, windows) if windows else region.leaf_zero_large,
    )
    rest = map_zero(context, apart, fault & ~under)
    return Outcome(rest.region, large.events + rest.events)
