# SPDX-License-Identifier: GPL-2.0-only
"""What the model is told about the host under test, and which design the kernel shows."""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import InfraError, UsageError
from harness.host.emulated.state import TestbedSpec
from harness.model.designs import DESIGNS, design_named
from harness.model.facts import HostFacts

# A module parameter of kvm that only a kernel of that design has (KERNEL_FACTS: designs T and P).
_SIGNS = {"kvm.gmem_2m_enabled": "thp-discard", "kvm.gmem_in_place_conversion": "inplace"}


def host_facts(facts: Mapping[str, str], spec: TestbedSpec) -> HostFacts:
    """The model's facts from what was read of the kernel; raises ``InfraError`` for text that makes no sense."""
    try:
        objects, pages = (int(word) for word in facts["slab.radix_tree_node"].split(","))
        ncpu = int(facts["ncpu"])
        if min(objects, pages, ncpu) < 1:
            raise ValueError("a number below 1")
    except (KeyError, ValueError) as error:
        raise InfraError(f"the emulated host told no usable facts about its kernel ({error}): {dict(facts)}") from error
    return HostFacts(
        ncpu=ncpu,
        regions={f"{guest.name}.r0": spec.chunks for guest in spec.guests},
        slab_pages=pages,
        slab_objects=objects,
        pt_reclaim=facts.get("config.PT_RECLAIM") == "y",
        # The region's last use before the save was private; converting to private emptied whole page tables.
        tables_present=facts.get("config.PT_RECLAIM") != "y",
    )


def choose_design(wanted: str, facts: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """The design to judge by, with the evidence for it.

    ``auto`` reads the kernel's module parameters.  Raises ``UsageError`` for an unknown design, and for a kernel that
    shows a design which the model does not know.
    """
    if wanted != "auto":
        return design_named(wanted).name, (f"named on the command line: {wanted}",)
    shown = [(sign, design) for sign, design in sorted(_SIGNS.items()) if facts.get(sign) not in (None, "N", "0")]
    if not shown:
        absent = ", ".join(name.removeprefix("kvm.") for name in sorted(_SIGNS))
        return "order0", (
            f"module kvm has none of the parameters {absent} switched on, so it allocates order-0 folios",
        )
    sign, design = shown[0]
    if design not in DESIGNS:
        raise UsageError(
            f"the kernel under test shows design {design} (module parameter {sign} is {facts[sign]}), which this "
            f"version does not model; judge it as another one with --design {'|'.join(sorted(DESIGNS))}"
        )
    return design, (f"module parameter {sign} is {facts[sign]}",)
