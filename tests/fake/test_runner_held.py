# SPDX-License-Identifier: GPL-2.0-only
"""References that nobody expects, and what the kernel refuses, on a testbed made of paper."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from harness.guest.agent import ConversionRefused
from harness.guest.conversions import Conversion
from harness.model.parked import Parked
from harness.model.prediction import ExpectedConversion, ExpectedError
from harness.model.state import RegionState
from harness.run.held import HOOK_FACT
from harness.run.result import CaseResult
from harness.run.verdict import Verdict
from harness.scenario.steps import Convert, Empty, PageRange, Pin, Side, Unpin
from tests.fake.runner_bench import CHUNKS, WHY, Bench, bench

__all__ = ["bench"]  # the fixture


class TestReferences:
    """Pages 3 to 5 are held, and what page 9 was when it was held left the file."""

    REGION = replace(
        RegionState.empty(8), private=0b111111, private_held=0b111000, private_parked=Parked().park_pages(1 << 9)
    )

    @pytest.fixture(autouse=True)
    def _hook(self, bench: Bench) -> None:
        bench.testbed.facts = {HOOK_FACT: "y"}

    def test_the_hook_is_asked_for_pages_that_are_there(self, bench: Bench) -> None:
        bench.probe.held = 4
        steps = [Pin(PageRange("g0.r0", 0, 5)), Unpin(PageRange("g0.r0", 510, 4))]
        assert bench.run({}, {}, steps=steps, region=self.REGION).verdict is Verdict.PASS
        assert [line for line in bench.probe.log if line.startswith(("take", "drop"))] == [
            "take 0x2c03000+0x2000", "drop 0x2dfe000+0x2000", "drop 0x3400000+0x2000",
        ]  # fmt: skip

    def test_a_kernel_without_the_hook_is_skipped_and_told_how_to_get_it(self, bench: Bench) -> None:
        bench.testbed.facts = {}
        result = bench.run({}, {}, steps=[Empty(), Pin(PageRange("g0.r0", 0, 5))], region=self.REGION)
        assert result.verdict is Verdict.SKIP
        assert result.steps == ()
        assert result.sentence == (
            "to pin pages of a guest_memfd takes a kernel with the hook /dev/gmem-hold, which this one has not: the "
            "demonstrator kernels have it (gmem kernel list), host-configs/patches/*/hold.patch adds it to any other"
        )

    def test_another_number_of_references_than_the_model_says(self, bench: Bench) -> None:
        bench.probe.held = 3
        result = bench.run({}, steps=[Pin(PageRange("g0.r0", 0, 5))], region=self.REGION)
        assert result.verdict is Verdict.DEVIATES
        assert "references: 3 pages of g0 are held after the step, the model says 4" in result.sentence

    def test_nothing_to_hold_is_not_asked_for(self, bench: Bench) -> None:
        assert bench.run({}, steps=[Pin(PageRange("g0.r0", 100, 5))], region=self.REGION).verdict is Verdict.PASS
        assert not [line for line in bench.probe.log if line.startswith("take")]

    def test_what_was_pinned_in_vain_is_unpinned_in_vain_once(self, bench: Bench) -> None:
        """An exploration draws pins without knowing what is there."""
        pages = PageRange("g0.r0", 100, 5)
        steps = [Pin(pages), Unpin(pages)]
        assert bench.run({}, {}, steps=steps, region=self.REGION).verdict is Verdict.PASS
        again = bench.run({}, {}, {}, steps=[*steps, Unpin(pages)], region=self.REGION)
        assert (again.verdict, len(again.steps)) == (Verdict.USAGE, 2)
        assert again.sentence.endswith("references are dropped as they were taken, and what is held is nothing")

    def test_pages_of_both_sides(self, bench: Bench) -> None:
        region = replace(self.REGION, shared=1, shared_held=1)
        result = bench.run({}, steps=[Pin(PageRange("g0.r0", 0, 5))], region=region)
        assert result.verdict is Verdict.USAGE
        assert result.sentence == "step 0 (pin g0.r0[0:5]) names pages of both sides: pin one, then the other"


class TestRefusals:
    PAGES = PageRange("g0.r0", 5, 2)
    EXPECTED = ExpectedError("EAGAIN", "convert", "g0.r0", 6, WHY[0])

    @dataclass
    class Agent:
        """Is refused the one hypercall."""

        ret: int = -11
        name: str = "g0"

        def convert(self, region: int, start: int, count: int, **more: object) -> list[object]:
            raise ConversionRefused("g0", [Conversion(CHUNKS[0] + start * 4096, count, True)], self.ret)

    @dataclass
    class Control:
        """Has what the interposer said."""

        text: str

        def get(self, path: str) -> bytes:
            assert path == "/run/g0-qemu.err"
            return self.text.encode()

    def result(
        self,
        bench: Bench,
        refused: ExpectedError | None,
        ret: int = -11,
        offset: str = "0x2c06000",
        chained: bool = False,
    ) -> CaseResult:
        bench.testbed.facts = {"kvm.gmem_in_place_conversion": "Y"}
        bench.testbed.channels.agents["g0"] = self.Agent(ret)
        line = (
            f"inplace: KVM does not convert 0x2c05000+0x2000 of the guest_memfd to private: x, error_offset {offset}\n"
        )
        bench.testbed.channels.control = self.Control(f"qemu: a warning\n{line}" if offset else "qemu: a warning\n")
        expected = ExpectedConversion(5, 2, Side.PRIVATE, "g0.r0")
        convert = Convert(self.PAGES, Side.PRIVATE)
        twice = [{}, {}] if chained else [{}]
        return bench.run(
            *twice, steps=[convert for _ in twice], conversions=[(expected,) for _ in twice], refused=refused,
            chained=chained,
        )  # fmt: skip

    def test_what_is_predicted_passes(self, bench: Bench) -> None:
        assert self.result(bench, self.EXPECTED).verdict is Verdict.PASS

    def test_reading_what_the_interposer_said_is_in_no_chain(self, bench: Bench) -> None:
        """A file of the host is read for that: the next step begins with a sample of its own."""
        self.result(bench, self.EXPECTED, chained=True)
        assert bench.probe.log[-9:] == [
            "settle+rcu", "sample", "fetch",
            "settle", "sample", "settle+rcu", "sample", "fetch", "fetch",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("refused", "ret", "offset", "words"),
        [
            (None, -11, "0x2c06000", "the kernel refused the conversion of 0x2c05000+2 pages to private: EAGAIN"),
            (EXPECTED, -22, "0x2c06000", "with EINVAL, and not as predicted: convert fails with EAGAIN at page 6"),
            (EXPECTED, -11, "0x2c05000", "for the page at 0x2c05000 of the guest_memfd, and not at 0x2c06000"),
            (EXPECTED, -11, "0", "for the page at 0x0 of the guest_memfd, and not at 0x2c06000"),
        ],
    )
    def test_any_other_refusal_deviates(
        self, bench: Bench, refused: ExpectedError | None, ret: int, offset: str, words: str
    ) -> None:
        result = self.result(bench, refused, ret, offset)
        assert result.verdict is Verdict.DEVIATES
        assert words in result.sentence

    def test_a_refusal_that_does_not_come(self, bench: Bench) -> None:
        result = bench.run({}, refused=self.EXPECTED)
        assert result.verdict is Verdict.DEVIATES
        assert "the kernel did what it must refuse: convert fails with EAGAIN at page 6 of g0.r0" in result.sentence

    def test_an_interposer_that_does_not_say_where(self, bench: Bench) -> None:
        assert self.result(bench, self.EXPECTED, offset="").verdict is Verdict.INFRA
