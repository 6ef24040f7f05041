# SPDX-License-Identifier: GPL-2.0-only
"""Conversions have witnesses besides the counters: predicted, asked by the guest, carried out by QEMU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.guest.conversions import Conversion
from harness.guest.launch import SNP_STAND_IN
from harness.model.prediction import ExpectedConversion
from harness.run.result import CaseResult
from harness.run.verdict import Verdict
from harness.scenario.steps import (
    Convert,
    PageRange,
    Side,
)
from tests.fake.runner_bench import CHUNKS, MINUS, Bench, bench

__all__ = ["bench"]


class TestConversions:
    PAGES = PageRange("g0.r0", 5, 2)
    LINE = "kvm_convert_memory start 0x2c05000 size 0x2000 shared_to_private\n"

    @dataclass
    class Agent:
        """Makes the one hypercall; QEMU's log gets ``line``."""

        log: Path
        line: str
        name: str = "g0"

        def convert(self, region: int, start: int, count: int, **more: object) -> list[object]:
            with self.log.open("a") as file:
                file.write(self.line)
            return [Conversion(CHUNKS[0] + start * 4096, count, True)]

    def result(self, bench: Bench, line: str) -> CaseResult:
        bench.testbed.launch = SNP_STAND_IN
        log = bench.testbed.trace_log("g0")
        log.write_text("kvm_convert_memory start 0x0 size 0x1000 shared_to_private\n")  # of an earlier step
        bench.testbed.channels.agents["g0"] = self.Agent(log, line)
        expected = ExpectedConversion(5, 2, Side.PRIVATE, "g0.r0")
        return bench.run({}, steps=[Convert(self.PAGES, Side.PRIVATE)], conversions=[(expected,)])

    def test_the_three_lists_agree(self, bench: Bench) -> None:
        assert self.result(bench, self.LINE).verdict is Verdict.PASS

    def test_qemu_did_less(self, bench: Bench) -> None:
        result = self.result(bench, self.LINE.replace("0x2000", "0x1000"))
        assert result.verdict is Verdict.DEVIATES
        assert (
            "QEMU's conversions have at index 0 0x2c05000+1 pages to private where the guest asked" in result.sentence
        )

    def test_qemu_did_nothing(self, bench: Bench) -> None:
        result = self.result(bench, "")
        assert result.verdict is Verdict.DEVIATES
        assert "QEMU's conversions lack 0x2c05000+2 pages to private at index 0" in result.sentence

    def test_qemu_does_not_trace(self, bench: Bench) -> None:
        bench.testbed.channels.traces = "disabled"
        result = self.result(bench, "")
        assert result.verdict is Verdict.INFRA
        assert "QEMU of g0 does not trace kvm_convert_memory" in result.sentence

    def test_qemu_does_not_trace_where_nothing_is_converted(self, bench: Bench) -> None:
        bench.testbed.launch = SNP_STAND_IN
        bench.testbed.channels.traces = "disabled"
        assert bench.run({}).verdict is Verdict.INFRA

    def test_a_deviation_stands_whatever_became_of_qemu(self, bench: Bench) -> None:
        bench.testbed.launch = SNP_STAND_IN
        bench.testbed.channels.traces = "gone"
        result = bench.run(MINUS)
        assert result.verdict is Verdict.DEVIATES
        result = self.result(bench, "")
        assert result.verdict is Verdict.DEVIATES

    def test_a_line_that_cannot_be_read(self, bench: Bench) -> None:
        assert self.result(bench, "kvm_convert_memory in another form\n").verdict is Verdict.INFRA
