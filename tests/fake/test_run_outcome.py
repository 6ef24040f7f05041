# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of a case whose steps were judged or broke off: its verdict, and what a rejected window is called."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import CrashError
from harness.host.emulated import testbed as testbeds
from harness.host.emulated.prepare import Clock
from harness.host.frames import ChannelTimeout
from harness.run.outcome import FOREIGN, outcome, rejected_window
from harness.run.result import Finding, StepResult
from harness.run.verdict import Verdict
from tests.fake.runner_bench import PANIC, FakeChannels, FakeProbe, FakeTestbed, bench

__all__ = ["bench"]


def finding(counter: str, verdict: Verdict = Verdict.DEVIATES) -> Finding:
    return Finding(
        counter=counter, low=0, high=0, observed=1, noise=0, verdict=verdict, reasons=("because",)
    )  # fmt: skip


def step(*findings: Finding, messages: tuple[str, ...] = (), **recorded: int) -> StepResult:
    return StepResult(index=3, text="do nothing", seconds=0.1, findings=findings, recorded=recorded, messages=messages)


class TestOutcome:
    def test_of_nothing(self) -> None:
        assert outcome([]) == (Verdict.PASS, "0 predictions over 0 steps hold")

    def test_contents_come_first(self) -> None:
        verdict, why = outcome([step(finding("F"), messages=("contents: 1 page is wrong",))])
        assert (verdict, why) == (
            Verdict.DEVIATES, "after step 3 (do nothing): contents: 1 page is wrong (and 1 more findings)",
        )  # fmt: skip

    def test_the_most_telling_counter_speaks(self) -> None:
        names = ("thp_fault_alloc", "unaccounted", "nr_anon_pages", "kvm/g0/pages_4k", "F", "pgfree", "nr_unevictable",
                 "nr_file_pages", "gmem/g0")  # fmt: skip
        for count in range(len(names), 0, -1):
            found = [finding(name) for name in names[:count]]
            _, why = outcome([step(*found)])
            assert why.startswith(f"{names[count - 1]}: predicted")
            assert why.endswith(f"(and {count - 1} more findings)") == (count > 1)

    def test_a_deviation_is_worse_than_a_doubt(self) -> None:
        doubt, wrong = finding("gmem/g0", Verdict.INCONCLUSIVE), finding("nr_anon_pages")
        verdict, why = outcome([step(doubt, wrong)])
        assert verdict is Verdict.DEVIATES
        assert why.startswith("nr_anon_pages: ")
        assert outcome([step(doubt)])[0] is Verdict.INCONCLUSIVE
        assert outcome([step(finding("F", Verdict.INFRA), doubt)])[0] is Verdict.INFRA

    def test_what_was_not_observed_is_no_outcome(self) -> None:
        assert outcome([step(finding("F", Verdict.SKIP), finding("pgfree", Verdict.PASS))])[0] is Verdict.PASS


class TestRejectedWindow:
    @pytest.mark.parametrize("foreign", FOREIGN)
    def test_foreign_activity_that_explains_all(self, foreign: str) -> None:
        steps = [step(finding("F"), finding("unaccounted"), **{foreign: 16})]
        assert rejected_window(steps) == f"{foreign} +16"
        verdict, why = outcome(steps)
        assert verdict is Verdict.INCONCLUSIVE
        assert f"the window of step 3 (do nothing) was disturbed ({foreign} +16)" in why

    @pytest.mark.parametrize(
        "counter", ["nr_file_pages", "gmem/g0", "nr_unevictable", "kvm/g0/pages_4k", "nr_anon_pages"]
    )
    def test_a_counter_that_no_thread_moves(self, counter: str) -> None:
        steps = [step(finding("F"), finding(counter), nr_kernel_stack=16)]
        assert rejected_window(steps) == ""
        assert outcome(steps)[0] is Verdict.DEVIATES

    def test_contents_are_never_explained(self) -> None:
        assert rejected_window([step(finding("F"), messages=("contents",), nr_kernel_stack=16)]) == ""

    def test_nothing_foreign_or_nothing_off(self) -> None:
        assert rejected_window([]) == ""
        assert rejected_window([step(finding("F"))]) == ""
        assert rejected_window([step(finding("F"), nr_kernel_stack=0)]) == ""
        assert rejected_window([step(finding("F", Verdict.PASS), nr_kernel_stack=16)]) == ""

    def test_only_the_last_window_counts(self) -> None:
        clean = step(finding("F"))
        assert rejected_window([step(finding("F"), nr_kernel_stack=16), clean]) == ""


class TestRestore:
    """The real ``Testbed.load`` on channels that fail."""

    @pytest.mark.parametrize("silent", ["probe", "agent"])
    def test_a_crash_explains_a_silent_channel(self, tmp_path: Path, silent: str) -> None:
        evidence, saved = tmp_path / "evidence", tmp_path / "saved"
        evidence.mkdir()
        saved.mkdir()
        paper = FakeTestbed(evidence, FakeChannels(FakeProbe()))
        paper.state.save(saved / testbeds.DESCRIPTION)
        (saved / "boot-host-console.txt").write_text("gmem: emulated host is up\n")

        def hello(*words: object, **more: object) -> None:
            if silent == "probe":
                raise ChannelTimeout("the probe did not answer 'hello' within 5 s")

        def guest_hello(*words: object, **more: object) -> None:
            raise ChannelTimeout("the agent of g0 did not answer 'hello' within 10 s")

        testbed = cast(Any, object.__new__(testbeds.Testbed))
        testbed.spec, testbed.evidence = paper.spec, evidence
        testbed.machine = SimpleNamespace(load=lambda *words, **more: None, resume=lambda: None)
        testbed.channels = SimpleNamespace(
            greeted=set(), probe=SimpleNamespace(hello=hello), agents={"g0": SimpleNamespace(hello=guest_hello)}
        )
        with pytest.raises(ChannelTimeout, match=silent):
            testbed.load(saved, Clock())
        assert (evidence / "boot-host-console.txt").exists()
        (evidence / "g0-console.txt").write_text(PANIC)
        with pytest.raises(CrashError, match=r"^guest g0 printed: Kernel panic"):
            testbed.load(saved, Clock())
