# SPDX-License-Identifier: GPL-2.0-only
"""The settings of a host as files of /sys and /proc/sys, in the order in which to set them.

Order matters three times: KSM takes merged pages apart before anything counts pages, ``hugetlb_optimize_vmemmap`` is
read when a page enters the pool, and pools of HugeTLB pages are filled last, from what the other settings left free.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

from harness.errors import UsageError
from harness.host.config.host import HostConfig
from harness.host.config.settings import HUGE_SIZES

_CPU: Final = "/sys/devices/system/cpu"
_THP: Final = "/sys/kernel/mm/transparent_hugepage"
LOAD_TIME: Final = frozenset(
    {
        *("kvm_intel.tdx", "kvm_intel.ept", "kvm_intel.eptad", "kvm_intel.enable_apicv"),
        *("kvm_amd.sev", "kvm_amd.sev_es", "kvm_amd.sev_snp", "kvm_amd.ciphertext_hiding_asids", "kvm_amd.npt"),
        *("kvm.tdp_mmu", "kvm.mmio_caching", "kvm.vm_memory_attributes", "kvm.gmem_in_place_conversion"),
    }
)
"""Module parameters of mode 0444: they are given when the module is loaded, or on the kernel's command line."""
_BOOLEAN: Final = LOAD_TIME - {"kvm_amd.ciphertext_hiding_asids"} | {"kvm.eager_page_split"}
"""What these print is Y or N, whatever was written."""


_MOST_CPUS: Final = 8192
"""CONFIG_NR_CPUS is at most that (arch/x86/Kconfig)."""


def parse_list(text: str) -> tuple[int, ...]:
    """``0-3,8`` as numbers; raises ``UsageError`` for a range that runs backwards, or beyond any CPU."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not int(first) <= int(last or first) < _MOST_CPUS:
            raise UsageError(f"{text} is no list of CPUs or nodes like 0-3,8")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def _fields(section: Struct) -> Iterator[tuple[str, str]]:
    """Names and values of the plain fields that are given."""
    for name in section.__struct_fields__:
        value: Any = getattr(section, name)
        if isinstance(value, (str, int)):
            yield name, str(value)


def _cpu(config: HostConfig) -> Iterator[tuple[str, str]]:
    cpu = config.cpu
    for path, value in (
        (f"{_CPU}/smt/control", cpu.smt),
        (f"{_CPU}/intel_pstate/no_turbo", cpu.no_turbo),
        (f"{_CPU}/cpufreq/boost", cpu.boost),
        ("/proc/sys/kernel/nmi_watchdog", cpu.nmi_watchdog),
        ("/proc/sys/kernel/numa_balancing", config.numa.balancing),
        ("/sys/kernel/mm/ksm/run", config.ksm.run),
        ("/sys/module/page_reporting/parameters/page_reporting_order", config.page_reporting.order),
    ):
        if value is not None:
            yield path, str(value)
    if cpu.governor is not None and cpu.policies is not None:
        for policy in parse_list(cpu.policies):
            yield f"{_CPU}/cpufreq/policy{policy}/scaling_governor", cpu.governor


def _thp(config: HostConfig) -> Iterator[tuple[str, str]]:
    yield from ((f"{_THP}/{name}", value) for name, value in _fields(config.thp))
    for size, section in config.thp.sizes.items():
        yield from ((f"{_THP}/hugepages-{size}/{name}", value) for name, value in _fields(section))
    yield from ((f"{_THP}/khugepaged/{name}", value) for name, value in _fields(config.thp.khugepaged))


def _hugepages(config: HostConfig) -> Iterator[tuple[str, str]]:
    for size, pool in config.hugepages.items():
        folder = f"hugepages-{HUGE_SIZES[size]}"
        if pool.overcommit is not None:
            yield f"/sys/kernel/mm/hugepages/{folder}/nr_overcommit_hugepages", str(pool.overcommit)
        if pool.nr is not None:
            yield f"/sys/kernel/mm/hugepages/{folder}/nr_hugepages", str(pool.nr)
        for node, count in pool.per_node.items():
            yield f"/sys/devices/system/node/node{node}/hugepages/{folder}/nr_hugepages", str(count)


def module_params(config: HostConfig) -> dict[str, str]:
    """All module parameters that the host must have, ``MODULE.NAME`` to the value; raises ``UsageError``.

    Those of ``requires`` and, of ``module_params``, those that a running kernel does not change (``LOAD_TIME``).
    """
    given = {f"{m}.{p}": value for m, params in config.module_params.items() for p, value in params.items()}
    found = dict(config.requires.module_params)
    for name, value in given.items():
        if found.get(name, value) != value:
            raise UsageError(f"requires.module_params wants {name} {found[name]}, module_params {value}")
        if name in LOAD_TIME:
            found[name] = value
    for name, value in {**given, **found}.items():
        if name in _BOOLEAN and value not in ("Y", "N"):
            raise UsageError(f"module parameter {name} must be Y or N, as the kernel prints it, not {value}")
    return found


def wanted(config: HostConfig) -> dict[str, str]:
    """Absolute path to the text that the kernel shall print there (of a list the selected word), in order to set.

    Module parameters that only a reload changes are not among them: :func:`module_params` has those.
    """
    module_params(config)
    for numbers in (config.numa.cpus_for_qemu, config.numa.cpus_for_vcpu, config.numa.memnodes):
        parse_list(numbers or "0")
    found = dict(_cpu(config))
    for module, params in config.module_params.items():
        for name, value in params.items():
            if f"{module}.{name}" not in LOAD_TIME:
                found[f"/sys/module/{module}/parameters/{name}"] = value
    found.update((f"/proc/sys/vm/{name}", value) for name, value in _fields(config.vm))
    found.update(_thp(config))
    found.update(_hugepages(config))
    for path, value in config.knobs.items():
        if found.get(path, value) != value:
            raise UsageError(f"knobs sets {path} to {value}, another section to {found[path]}")
        found[path] = value
    return found


def before_each(config: HostConfig) -> tuple[tuple[str, str], ...]:
    """Path and text of what is written before each case, in order; these files cannot be read back."""
    return tuple(pair for action in config.before_each for pair in action.written())
