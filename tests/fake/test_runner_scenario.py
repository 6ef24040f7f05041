# SPDX-License-Identifier: GPL-2.0-only
"""A scenario on a testbed made of paper: what is walked, what is judged, and who is blamed when something breaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from harness.counters.sample import Sample
from harness.errors import CrashError, GmemError, InfraError, NoBootError, UsageError
from harness.guest.agent import CALLS_AT_ONCE
from harness.host.emulated import testbed as testbeds
from harness.host.frames import ChannelClosed, ChannelTimeout, RemoteError
from harness.host.probe import ProbeError
from harness.run import runner, walk
from harness.run.outcome import verdict_of_error
from harness.run.verdict import Verdict
from harness.run.walk import batched_calls, check_supported
from harness.run.witnesses import Witnesses
from harness.scenario.scenario import Scenario
from harness.scenario.steps import (
    Close,
    Compact,
    Convert,
    DropCaches,
    Empty,
    PageRange,
    Place,
    Pressure,
    Side,
    Step,
)
from tests.fake.runner_bench import MINUS, PANIC, Bench, FakeTestbed, bench

__all__ = ["bench"]


class TestWalk:
    def test_a_case_that_passes(self, bench: Bench) -> None:
        bench.probe.moves = [{"nr_file_pages": -1, "pgfree": 1}, {"nr_file_pages": -1}]
        result = bench.run({**MINUS, "F": (0, 4)}, MINUS)
        assert (result.verdict, result.sentence) == (Verdict.PASS, "3 predictions over 2 steps hold")
        assert (result.suite, result.case, result.claim, result.repeat) == ("suite", "case", "A claim.", 2)
        assert [step.text for step in result.steps] == ["punch hole g0.r0[0:1]", "punch hole g0.r0[1:2]"]
        assert result.steps[0].recorded == {"pgfree": 1}
        assert result.evidence == "evidence/case"

    def test_nothing_but_the_step_is_in_its_window(self, bench: Bench) -> None:
        bench.run({})
        assert bench.probe.log[-7:] == [
            "settle", "sample", "punch 0x2c00000+0x1000", "settle+rcu", "sample", "fetch", "fetch",
        ]  # fmt: skip

    def test_one_sample_ends_a_chained_step_and_begins_the_next(self, bench: Bench) -> None:
        bench.probe.moves = [{"nr_file_pages": -1}, {"nr_file_pages": -2}]
        result = bench.run(MINUS, MINUS, chained=True)
        assert "predicted -1, observed -2 after step 1" in result.sentence
        assert bench.probe.log[-8:] == [
            "punch 0x2c00000+0x1000", "settle+rcu", "sample", "fetch",
            "punch 0x2c01000+0x1000", "settle+rcu", "sample", "fetch",
        ]  # fmt: skip
        first, second = (bench.folder / f"samples/step{name}.json" for name in ("0-after", "1-before"))
        assert first.read_bytes() == second.read_bytes()

    def test_a_chain_has_no_gap(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """What moves between two windows of their own is nobody's; in a chain it is the next step's."""
        late = Witnesses.compare_refusals

        def between(self: Witnesses, *words: Any) -> list[str]:
            bench.probe.move({"nr_file_pages": 1})
            return late(self, *words)

        monkeypatch.setattr(Witnesses, "compare_refusals", between)
        for chained, verdict in ((False, Verdict.PASS), (True, Verdict.DEVIATES)):
            bench.probe.moves = [{"nr_file_pages": -1}, {"nr_file_pages": -1}]
            assert bench.run(MINUS, MINUS, chained=chained).verdict is verdict

    def test_what_a_closed_guest_is_looked_at_with_is_not_in_a_chain(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended = lambda self, name, *, timeout: bench.probe.log.append(f"{name} ended")  # noqa: E731
        monkeypatch.setattr(FakeTestbed, "end_guest", ended, raising=False)
        bench.run({}, {}, steps=[Close("g0"), Empty()], chained=True)
        assert bench.probe.log[bench.probe.log.index("g0 ended") :] == [
            "g0 ended", "settle+rcu", "sample", "fetch",
            "settle+rcu",
            "settle", "sample", "settle+rcu", "sample", "fetch", "fetch",
        ]  # fmt: skip

    def test_a_chain_does_not_begin_with_a_sample_of_a_machine_that_moves(self, bench: Bench) -> None:
        bench.probe.steady = False
        bench.probe.moves = [{"nr_file_pages": -1}, {"nr_file_pages": -1}]
        assert bench.run(MINUS, MINUS, chained=True).verdict is Verdict.PASS
        assert bench.probe.log[-7:-4] == ["settle", "sample", "punch 0x2c01000+0x1000"]

    @pytest.mark.parametrize(
        ("scenario", "can"),
        [
            (Scenario("x", (Empty(),)), True),
            (Scenario("x", (Empty(),), frames=True), False),
            (Scenario("x", (Pressure("anon", pages=1),)), False),
        ],
        ids=["plain", "frames", "pressure"],
    )
    def test_what_can_be_chained(self, scenario: Scenario, can: bool) -> None:
        assert runner.chainable(scenario) is can

    @pytest.mark.parametrize("at_once", [True, False])
    def test_a_step_is_timed_only_where_its_answers_take_as_long_as_it_does(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, at_once: bool
    ) -> None:
        monkeypatch.setattr(FakeTestbed, "answers_at_once", at_once)
        result = bench.run({})
        assert [step.act_seconds > 0 for step in result.steps] == [at_once]

    def test_a_deviation_ends_the_walk(self, bench: Bench) -> None:
        result = bench.run(MINUS, MINUS)
        assert result.verdict is Verdict.DEVIATES
        assert result.sentence == (
            "nr_file_pages: predicted -1, observed +0 after step 0 (punch hole g0.r0[0:1]): rule: because"
        )
        assert len(result.steps) == 1

    def test_a_counter_that_the_kernel_lacks_does_not_end_the_walk(self, bench: Bench) -> None:
        bench.probe.moves = [{"nr_file_pages": -1}, {}]
        result = bench.run({**MINUS, "thp_split_page": (0, 0)}, MINUS)
        assert result.verdict is Verdict.DEVIATES
        assert "after step 1" in result.sentence

    def test_what_could_not_be_observed_is_not_said_to_hold(self, bench: Bench) -> None:
        bench.probe.moves = [{"nr_file_pages": -1}]
        result = bench.run({**MINUS, "thp_split_page": (0, 0)})
        assert result.sentence == "1 predictions over 1 steps hold, 1 could not be observed"

    def test_a_required_counter_that_is_missing_is_the_testbeds_fault(self, bench: Bench) -> None:
        del bench.probe.world["F"]
        result = bench.run({"F": (0, 0)}, {"F": (0, 0)})
        assert result.verdict is Verdict.INFRA
        assert len(result.steps) == 1

    def test_noise_of_the_idle_testbed(self, bench: Bench) -> None:
        bench.probe.idle = iter([{"pgfree": 3}, {"pgfree": -4}, {}])
        bench.probe.moves = [{"pgfree": 4}]
        result = bench.run({"pgfree": (0, 0)})
        assert result.verdict is Verdict.INCONCLUSIVE
        assert "but the idle testbed moves it by up to 4" in result.sentence

    def test_noise_that_was_measured_when_the_testbed_was_made(self, bench: Bench) -> None:
        bench.testbed.noise = {"pgfree": 2, "F": 1}
        bench.probe.idle = iter([{"pgfree": 1, "F": -5}])
        bench.probe.moves = [{"pgfree": 2, "F": -5}]
        result = bench.run({"pgfree": (0, 0), "F": (0, 0)})
        assert {one.counter: one.noise for one in result.steps[0].findings} == {"pgfree": 2, "F": 5}
        assert bench.probe.log[:6] == ["settle+rcu", "sample", "settle+rcu", "sample", "fetch", "fetch"]

    def test_the_kernels_own_refusal_is_a_finding(self, bench: Bench) -> None:
        bench.probe.error = ProbeError("the probe refused", "EIO")
        result = bench.run({})
        assert result.verdict is Verdict.DEVIATES
        assert "the kernel refused fallocate(punch) at 0x2c00000+0x1000: EIO" in result.sentence

    def test_pages_that_were_left_over_before_the_first_step(self, bench: Bench) -> None:
        bench.testbed.leftover = 511
        result = bench.run(MINUS)
        assert result.verdict is Verdict.DEVIATES
        assert result.sentence.startswith("gmem/g0: predicted 0, observed 511 pages in region r0 before the first step")
        assert result.steps == ()

    def test_evidence(self, bench: Bench) -> None:
        bench.probe.moves = [{"nr_file_pages": -1}]
        bench.run(MINUS | {"thp_split_page": (0, 0), "F": (2, 2)})
        assert {path.name for path in (bench.folder / "samples").iterdir()} == {
            "start.json", "step0-before.json", "step0-after.json",
        }  # fmt: skip
        after = json.loads((bench.folder / "samples" / "step0-after.json").read_text())
        assert (after["values"]["nr_file_pages"], after["raw"]) == (99, {"vmstat": "raw"})
        [prediction] = json.loads((bench.folder / "prediction.json").read_text())
        assert prediction["counters"]["nr_file_pages"] == {"low": -1, "high": -1, "reasons": ["rule: because"]}
        assert prediction["still"] == {"rule: because": ["thp_split_page"]}
        assert Scenario.from_yaml((bench.folder / "scenario.yaml").read_text()).name == "case"

    def test_of_a_case_that_passes_only_the_first_sample_stays(self, bench: Bench) -> None:
        bench.probe.moves = [{"nr_file_pages": -1}]
        assert bench.run(MINUS).verdict is Verdict.PASS
        assert {path.name for path in (bench.folder / "samples").iterdir()} == {"start.json"}
        assert (bench.folder / "prediction.json").exists()

    def test_counters_that_stay_are_told_once_for_all(self, bench: Bench) -> None:
        result = bench.run({"nr_file_pages": (0, 0), "F": (0, 0), "pgfree": (0, 1)})
        assert result.steps[0].still == {"rule: because": ("F", "nr_file_pages")}
        assert [finding.counter for finding in result.steps[0].findings] == ["pgfree"]
        assert result.sentence == "3 predictions over 1 steps hold"

    def test_a_counter_that_should_stay_and_moves_is_told_by_itself(self, bench: Bench) -> None:
        bench.probe.moves = [{"nr_file_pages": 2}]
        result = bench.run({"nr_file_pages": (0, 0), "F": (0, 0)})
        assert result.verdict is Verdict.DEVIATES
        assert [finding.counter for finding in result.steps[0].findings] == ["nr_file_pages"]


class TestHostSteps:
    @pytest.mark.parametrize(
        ("step", "done"),
        [
            (Place("g0", 1), "place 77 on 1"),
            (Compact(), "1 to /proc/sys/vm/compact_memory"),
            (DropCaches(), "1 to /proc/sys/vm/drop_caches"),
        ],
    )
    def test_what_the_probe_is_asked(self, bench: Bench, step: Step, done: str) -> None:
        assert bench.run({}, steps=[step]).verdict is Verdict.PASS
        assert done in bench.probe.log

    def test_a_step_of_many_hypercalls_is_asked_for_in_parts_that_make_the_same_calls(self) -> None:
        for start, count, by in ((0, 4096, 1), (5, 1000, 3), (511, 2, 512), (0, 512, 512), (100, 900, 7)):
            whole = Convert(PageRange("g0.r0", start, count), Side.PRIVATE, by)
            parts = batched_calls(whole)
            made = [Convert(part, Side.PRIVATE, by).calls() for part in parts]
            assert tuple(call for calls in made for call in calls) == whole.calls()
            assert max(map(len, made)) <= CALLS_AT_ONCE

    def test_a_guest_without_a_vcpu_thread_was_not_placed(self, bench: Bench) -> None:
        bench.probe.threads = 1
        result = bench.run({}, steps=[Place("g0", 1)])
        assert result.verdict is Verdict.INFRA
        assert "QEMU of g0 has 1 thread" in result.sentence

    def test_what_no_testbed_can_do_is_said_before_anything_is_done(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(cast(Any, walk._HOW), Compact)
        with pytest.raises(UsageError, match=r"^step 1 \(.*\) of scenario 'x' .*: this testbed cannot compact yet$"):
            check_supported(Scenario("x", (Empty(), Compact())), 2)

    def test_a_stimulus_that_did_nothing_is_no_verdict_on_the_kernel(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither what follows nor the step itself is judged."""
        step = Pressure("anon", pages=5)
        told = "anon pressure of 5 pages did not happen: 0 pages less are free"
        monkeypatch.setattr(runner, "looks", lambda step: False)
        monkeypatch.setattr(walk, "press", lambda *words: lambda before, after: told)
        bench.testbed.channels.control = object()
        result = bench.run({"F": (-9, -9)}, {}, steps=[step, Empty()])
        assert (result.verdict, result.sentence, result.steps) == (Verdict.INFRA, f"step 0: {told}", ())
        monkeypatch.setattr(walk, "press", lambda *words: lambda before, after: "")
        bench.folder.joinpath("host-console.txt").unlink(missing_ok=True)
        assert bench.run({}, {}, steps=[step, Empty()]).verdict is Verdict.PASS

    def test_a_cpu_that_the_host_lacks(self) -> None:
        check_supported(Scenario("x", (Place("g0", 1),)), 2)
        with pytest.raises(UsageError, match=r"names a CPU that the host does not have: it has 2, counted from 0"):
            check_supported(Scenario("x", (Place("g0", 2),)), 2)


class TestBlame:
    def test_a_channel_that_is_silent(self, bench: Bench) -> None:
        bench.probe.error = ChannelTimeout("the probe did not answer 'fallocate' within 60 s")
        result = bench.run(MINUS)
        assert (result.verdict, result.sentence) == (
            Verdict.INFRA, "the probe did not answer 'fallocate' within 60 s",
        )  # fmt: skip

    @pytest.mark.parametrize(
        "error",
        [
            ChannelClosed("the probe is gone"),
            RemoteError("the probe", "fallocate pid=77", "usage", "no such file"),
            ProbeError("the probe is lost"),
        ],
    )
    def test_a_machine_that_ended_is_named(self, bench: Bench, error: GmemError) -> None:
        bench.probe.error = error
        bench.testbed.machine.running = False
        result = bench.run(MINUS)
        assert result.verdict is Verdict.INFRA
        assert result.sentence == f"{error}; QEMU was killed by SIGKILL: it printed nothing"

    @pytest.mark.parametrize("who", ["host", "g0"])
    def test_a_crash_on_a_console_wins_over_a_channel(self, bench: Bench, who: str) -> None:
        bench.probe.error = ChannelClosed("the probe is gone")
        bench.testbed.machine.running = False
        bench.testbed.console(who).write_text("one\n" + PANIC)
        bench.monkeypatch.setattr(runner.ScenarioRun, "measure_noise", self.noise)
        bench.monkeypatch.setattr(bench.testbed, "check_consoles", self.later(bench.testbed), raising=False)
        result = bench.run(MINUS)
        assert result.verdict is Verdict.CRASH
        whose = "the kernel under test" if who == "host" else "guest g0"
        assert result.sentence == (
            f"{whose} printed: Kernel panic - not syncing: Fatal exception (line 2 of {who}-console.txt)"
        )

    @staticmethod
    def noise(run: runner.ScenarioRun) -> Sample:
        return Sample({"nr_file_pages": 1}, {}, 1)

    @staticmethod
    def later(testbed: FakeTestbed) -> Callable[[], None]:
        """Consoles that show the crash only after the first look: it happens in the first step."""
        looks = iter([True])

        def check() -> None:
            if not next(looks, False):
                testbeds.Testbed.check_consoles(cast(Any, testbed))

        return check

    def test_a_crash_that_is_still_being_printed_is_waited_for(self, bench: Bench) -> None:
        bench.monkeypatch.setattr(runner, "_LAST_WORDS_SECONDS", 5.0)
        bench.probe.error = ChannelTimeout("silence")
        looks: list[int] = []

        def check() -> None:
            looks.append(1)
            if len(looks) == 4:
                bench.testbed.console("host").write_text(PANIC)
            testbeds.Testbed.check_consoles(cast(Any, bench.testbed))

        bench.monkeypatch.setattr(bench.testbed, "check_consoles", check, raising=False)
        assert bench.run(MINUS).verdict is Verdict.CRASH

    def test_a_warning_that_stops_nothing_is_a_crash(self, bench: Bench) -> None:
        bench.testbed.console("host").write_text("WARNING: mm/x.c:1 at f+0x1/0x2, CPU#0: qemu/77\n")
        result = bench.run(MINUS)
        assert result.verdict is Verdict.CRASH
        assert result.steps == ()

    @pytest.mark.parametrize("error", [InfraError("no"), NoBootError("no"), CrashError("no"), UsageError("no")])
    def test_a_testbed_that_is_not_restored(self, bench: Bench, error: GmemError) -> None:
        bench.lab.error = error
        result = bench.run(MINUS)
        assert result.verdict is verdict_of_error(error)
        assert result.verdict.exit_code == error.exit_code
        assert result.sentence == "no"

    def test_ctrl_c_is_no_verdict(self, bench: Bench) -> None:
        bench.monkeypatch.setattr(bench.probe, "sample", lambda slot: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bench.run(MINUS)


class TestKeep:
    def test_a_case_that_passes_is_not_kept(self, bench: Bench) -> None:
        bench.run({}, keep=True)
        assert bench.testbed.saves == []

    def test_a_case_that_does_not_is(self, bench: Bench) -> None:
        assert bench.run(MINUS, keep=True).verdict is Verdict.DEVIATES
        assert bench.testbed.saves == [bench.folder / "testbed"]

    def test_only_on_demand_and_only_what_runs(self, bench: Bench) -> None:
        bench.run(MINUS)
        bench.testbed.machine.running = False
        bench.run(MINUS, keep=True)
        assert bench.testbed.saves == []

    @pytest.mark.parametrize("error", [InfraError("the disk is full"), OSError(28, "the disk is full")])
    def test_a_testbed_that_cannot_be_kept_hides_no_verdict(self, bench: Bench, error: Exception) -> None:
        bench.testbed.save_error = error
        result = bench.run(MINUS, keep=True)
        assert result.verdict is Verdict.DEVIATES
        assert result.sentence.startswith("nr_file_pages: predicted -1")
        assert "could not be kept: " in result.sentence
        assert "the disk is full" in result.sentence
