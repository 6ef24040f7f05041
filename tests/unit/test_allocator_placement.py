# SPDX-License-Identifier: GPL-2.0-only
"""Claim C2: which frames come back, by the CPU that frees and the CPU that allocates."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model.allocator.framezone import FrameZone
from harness.model.allocator.machine import Machine
from harness.model.allocator.migratetype import Migratetype
from harness.model.allocator.pcp import PcpLimits
from harness.model.allocator.placement import CpuStep, What, observe, reuse

U = Migratetype.UNMOVABLE
CAP = PcpLimits(63, 252, 252)
HARDWARE = PcpLimits(63, 5420, 51200)
"""The machine of KERNEL_FACTS section 1: high_min and high_max of a 24 GiB host with two CPUs, not capped."""
FREE, ALLOC, DRAIN = What.FREE, What.ALLOC, What.DRAIN


def host(limits: PcpLimits, pages: int = 65536) -> Machine:
    zone = FrameZone("Normal", 1 << 20, pages, cpus=2, limits=limits)
    zone.populate(1 << 20, pages)
    return Machine([zone])


def filled(machine: Machine, pages: int, *, shuffle: int | None = None) -> list[int]:
    """Pages of a guest_memfd, and drained lists."""
    held = [pfn for pfn in (machine.alloc(0, U, 0) for _ in range(pages)) if pfn is not None]
    assert len(held) == pages
    machine.drain()
    if shuffle is not None:
        random.Random(shuffle).shuffle(held)
    return held


def spare(machine: Machine) -> int:
    return machine.zones[0].free_by_type[U]


@pytest.mark.parametrize("pages", [1, 64, 251])
def test_the_same_cpu_gets_all_of_them_back_while_its_list_holds_them(pages: int) -> None:
    steps = [CpuStep(FREE, 0, pages), CpuStep(ALLOC, 0, pages)]
    (answer,) = reuse(steps, CAP)
    assert answer.exact
    assert answer.low == pages
    assert "own list" in answer.rule
    machine = host(CAP)
    assert observe(machine, steps, filled(machine, 4096))[0] == [pages]


def test_one_page_more_than_the_cap_overflows() -> None:
    (answer,) = reuse([CpuStep(FREE, 0, 252), CpuStep(ALLOC, 0, 252)], CAP)
    assert (answer.low, answer.high) == (63, 252)


@pytest.mark.parametrize("pages", [1, 64, 251])
def test_another_cpu_gets_none_while_they_sit_on_the_first_ones_list(pages: int) -> None:
    steps = [CpuStep(FREE, 0, pages), CpuStep(ALLOC, 1, pages)]
    (answer,) = reuse(steps, CAP)
    assert (answer.low, answer.high) == (0, 0)
    assert f"up to {pages} wait on other CPUs' lists" in answer.rule
    machine = host(CAP)
    assert observe(machine, steps, filled(machine, 4096))[0] == [0]


def test_after_a_drain_anything_between_none_and_all() -> None:
    (answer,) = reuse([CpuStep(FREE, 0, 100), CpuStep(DRAIN, 0), CpuStep(ALLOC, 1, 100)], CAP)
    assert (answer.low, answer.high) == (0, 100)


def test_after_a_drain_few_other_free_pages_make_reuse_certain() -> None:
    steps = [CpuStep(FREE, 0, 100), CpuStep(DRAIN, 0), CpuStep(ALLOC, 1, 100)]
    (answer,) = reuse(steps, CAP, spare=10)
    assert (answer.low, answer.high) == (90, 100)


def test_what_a_claim_left_over_may_serve_the_second_time() -> None:
    steps = [CpuStep(ALLOC, 0, 10), CpuStep(FREE, 0, 3000), CpuStep(DRAIN, 0), CpuStep(ALLOC, 1, 3000)]
    assert [(a.low, a.high) for a in reuse(steps, CAP, spare=7)] == [(0, 0), (3000 - 7 - 1024 - 2 * 189, 3000)]


def test_pages_that_wait_elsewhere_do_not_count_as_sure() -> None:
    steps = [CpuStep(FREE, 0, 100), CpuStep(DRAIN, 0), CpuStep(FREE, 1, 40), CpuStep(ALLOC, 0, 140)]
    assert [(a.low, a.high) for a in reuse(steps, CAP, spare=0)] == [(100, 100)]


def test_pages_of_other_lists_take_room() -> None:
    steps = [CpuStep(FREE, 0, 100), CpuStep(ALLOC, 0, 100)]
    assert reuse(steps, CAP, {0: 151})[0].low == 100
    assert reuse(steps, CAP, {0: 152})[0].low == 0
    assert reuse(steps, CAP, {0: 20})[0].exact


def test_only_as_many_as_were_freed() -> None:
    first, second = reuse([CpuStep(FREE, 0, 50), CpuStep(ALLOC, 0, 30), CpuStep(ALLOC, 0, 100)], CAP)
    assert (first.low, first.high) == (30, 30)
    assert (second.low, second.high) == (20, 20)


@pytest.mark.parametrize("pages", [64, 8192, 30_000])
def test_measured_on_hardware_all_on_the_same_cpu(pages: int) -> None:
    """KERNEL_FACTS section 3: 64/64, 8192/8192, 29,999/30,000 reused by the CPU that freed them."""
    steps = [CpuStep(FREE, 0, pages), CpuStep(ALLOC, 0, pages)]
    machine = host(HARDWARE)
    (count,), _ = observe(machine, steps, filled(machine, 31_000, shuffle=1))
    assert count >= pages * 0.998
    assert count in reuse(steps, HARDWARE)[0]


def test_measured_on_hardware_none_on_the_other_cpu() -> None:
    """KERNEL_FACTS section 3: 0/64 when freed on CPU 0 and refaulted on CPU 1."""
    steps = [CpuStep(FREE, 0, 64), CpuStep(ALLOC, 1, 64)]
    machine = host(HARDWARE)
    assert observe(machine, steps, filled(machine, 31_000, shuffle=1))[0] == [0]


STEPS = st.lists(
    st.builds(
        CpuStep,
        st.sampled_from([FREE, FREE, ALLOC, ALLOC, DRAIN]),
        st.sampled_from([0, 1]),
        st.one_of(st.integers(1, 40), st.integers(1, 700)),
    ),
    max_size=12,
)


@given(
    steps=STEPS,
    limits=st.sampled_from([CAP, PcpLimits(15, 60, 400), PcpLimits(1, 0, 0), PcpLimits(31, 40, 40)]),
    seed=st.integers(0, 99),
    others=st.integers(0, 200),
    dirty=st.integers(0, 300),
)
@settings(deadline=None, max_examples=80)
def test_what_happens_is_within_the_bounds(
    steps: list[CpuStep], limits: PcpLimits, seed: int, others: int, dirty: int
) -> None:
    machine = host(limits, 16384)
    held = filled(machine, 3000, shuffle=seed)
    movable = [machine.alloc(0, Migratetype.MOVABLE, 0) for _ in range(others)]
    machine.drain()
    for pfn in movable:
        assert pfn is not None
        machine.free(pfn, 0, 0)
    held += [pfn for pfn in (machine.alloc(0, U, 1) for _ in range(dirty)) if pfn is not None]
    zone = machine.zones[0]
    before = {cpu: pcp.count for cpu, pcp in enumerate(zone.pcps)}
    free = zone.free_by_type[U] + zone.pcp_pages
    owned = len(held)
    for at, step in enumerate(steps):
        owned += {ALLOC: step.pages, FREE: -step.pages}.get(step.what, 0)
        if owned < 0:
            steps = steps[:at]
            break
    counts, _ = observe(machine, steps, held)
    for bounds in (reuse(steps, limits, before), reuse(steps, limits, before, spare=free)):
        assert len(bounds) == len(counts)
        for count, bound in zip(counts, bounds, strict=True):
            assert count in bound, (counts, bounds)
