# SPDX-License-Identifier: GPL-2.0-only
"""What the model is told about the host under test, and which design the kernel shows."""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import InfraError, UsageError
from harness.guest.agent import PAGE_SIZE
from harness.guest.launch import launch_on
from harness.host.emulated.asking import PREFAULTS
from harness.host.emulated.state import TestbedSpec
from harness.images.firmware import ROM_SIZE
from harness.model.designs import DESIGNS, design_named
from harness.model.facts import HostFacts

# What module kvm shows of a design, the most particular first.  Each word is a module parameter that only such a kernel
# has: switched on, or with the value that is given (KERNEL_FACTS: designs T, P and C; docs/kernels.md).
_SIGNS = (
    # inplace-thp with conversion in place switched off at boot: it has huge folios for VMs that convert in place only.
    ("order0", ("gmem_in_place_conversion=N", "gmem_2m_punch_strict=N")),
    ("order0", ("gmem_in_place_conversion=N", "gmem_2m_punch_strict=Y")),
    ("inplace-thp", ("gmem_in_place_conversion", "gmem_2m_enabled", "gmem_2m_punch_strict=Y")),
    ("inplace-thp-noop", ("gmem_in_place_conversion", "gmem_2m_enabled")),
    ("inplace", ("gmem_in_place_conversion",)),
    ("thp-2m-truncate", ("gmem_2m_enabled", "gmem_2m_punch_strict=Y")),
    ("thp-2m-truncate-noop", ("gmem_2m_enabled", "gmem_2m_punch_strict=N")),
    ("thp-discard", ("gmem_2m_enabled",)),
)
_OFF = (None, "N", "0")


def host_facts(facts: Mapping[str, str], spec: TestbedSpec) -> HostFacts:
    """The model's facts from what was read of the kernel; raises ``InfraError`` for text that makes no sense."""
    try:
        objects, pages = (int(word) for word in facts["slab.radix_tree_node"].split(","))
        ncpu = int(facts["ncpu"])
        if min(objects, pages, ncpu) < 1:
            raise ValueError("a number below 1")
    except (KeyError, ValueError) as error:
        raise InfraError(f"the emulated host told no usable facts about its kernel ({error}): {dict(facts)}") from error
    started = [launch_on(guest.launch, facts) for guest in spec.guests]
    return HostFacts(
        ncpu=ncpu,
        regions={f"{guest.name}.r0": spec.chunks for guest in spec.guests},
        slab_pages=pages,
        slab_objects=objects,
        pt_reclaim=facts.get("config.PT_RECLAIM") == "y",
        # The region's last use before the save was private; converting to private emptied whole page tables.
        tables_present=facts.get("config.PT_RECLAIM") != "y",
        huge_zero_replaced=facts.get("thp.huge_zero_replaced") != "n",
        whole_folio_around=facts.get("shmem.whole_folio_around") != "n",
        nodes=spec.machine.nodes,
        prefaults=facts.get(PREFAULTS) == "y",
        # Options of a kernel whose configuration cannot be read are unknown, not off.
        only_kvm_tables="config.KVM" in facts and "config.IOMMU_SUPPORT" not in facts,
        mirrored_tdp=any(form.name == "tdx" for form in started),
        zones=("DMA32", *("Normal",) * spec.machine.nodes),
        # Only a confidential guest's QEMU has a guest_memfd for its ROM.
        rom_pages=ROM_SIZE // PAGE_SIZE if any(form.in_place and form.confidential for form in started) else 0,
        # mm/truncate.c has called folio_split() for a hole in a folio since it has existed.
        uniform_split=facts.get("symbol.folio_split") == "n",
    )


def choose_design(wanted: str, facts: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """The design to judge by, with the evidence for it.

    ``auto`` reads the kernel's module parameters.  Raises ``UsageError`` for an unknown design, and for a kernel that
    shows a design which the model does not know.
    """
    if wanted != "auto":
        return design_named(wanted).name, (f"named on the command line: {wanted}",)
    for design, signs in _SIGNS:
        seen = [shown for sign in signs if (shown := _shown(sign, facts))]
        if len(seen) < len(signs):
            continue
        evidence = tuple(f"module parameter {text}" for text in seen)
        if design not in DESIGNS:
            raise UsageError(
                f"the kernel under test shows design {design} ({' and '.join(evidence)}), which this "
                f"version does not model; judge it as another one with --design {'|'.join(sorted(DESIGNS))}"
            )
        return design, evidence
    absent = ", ".join(sorted({sign.partition("=")[0] for _, signs in _SIGNS for sign in signs[:1]}))
    return "order0", (f"module kvm has none of the parameters {absent} switched on, so it allocates order-0 folios",)


def _shown(sign: str, facts: Mapping[str, str]) -> str:
    """``kvm.NAME is VALUE`` if the kernel shows the sign, else ''."""
    name, _, wanted = sign.partition("=")
    value = facts.get(f"kvm.{name}")
    if value in _OFF if not wanted else value != wanted:
        return ""
    return f"kvm.{name} is {value}"
