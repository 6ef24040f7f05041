# SPDX-License-Identifier: GPL-2.0-only
"""Bare guest_memfds without a machine: what they cannot do, what is judged, where their memory cgroups are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import InfraError, NothingRanError, UsageError
from harness.guest.launch import BARE
from harness.host.local.cgroups import place
from harness.model.prediction import Prediction, Reason, StepPrediction
from harness.run.bare import check_bare
from harness.run.judged import NOT_OURS, judged_only
from harness.run.options import RunOptions, check_options
from harness.run.runner import CaseName
from harness.run.session import Session
from harness.run.verdict import Verdict
from harness.scenario.region import G0
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Compact, Convert, Empty, Populate, Side

ONE = Scenario("one", (Empty(),))


class TestWhatIsJudged:
    WHY = (Reason("rule", "because"),)

    def step(self) -> StepPrediction:
        bounds = {name: Prediction(1, 1, self.WHY) for name in ("F", "gmem/g0", "gmem/g1", "nr_file_pages")}
        return StepPrediction(0, Empty(), bounds, unpredicted={"pgfree": "who knows"})

    def test_counters_of_our_own_objects_stay(self) -> None:
        kept = judged_only(self.step(), ("gmem/*", "memcg/*"))
        assert sorted(kept.predictions) == ["gmem/g0", "gmem/g1"]
        assert kept.unpredicted == {"pgfree": "who knows", "F": NOT_OURS, "nr_file_pages": NOT_OURS}

    def test_a_host_of_our_own_keeps_all(self) -> None:
        step = self.step()
        assert judged_only(step, ("*",)) is step


class TestScenarios:
    @pytest.mark.parametrize(
        ("scenario", "sentence"),
        [
            (Scenario("x", (Empty(), Convert(G0[0:1], Side.PRIVATE))), r"step 1 \(convert .* takes a guest that runs"),
            (Scenario("x", (Compact(),)), "or changes the whole host"),
            (Scenario("x", (Empty(),), pcp_room=True), "asks for pcp_room"),
            (Scenario("x", (Empty(),), frames=True), "asks for frames"),
            (Scenario("x", (Empty(),), backing="anon-thp"), "asks for backing anon-thp"),
        ],
    )
    def test_what_a_bare_one_cannot_do_is_skipped_with_the_reason(self, scenario: Scenario, sentence: str) -> None:
        with pytest.raises(NothingRanError, match=sentence):
            check_bare(scenario)

    def test_what_it_can(self) -> None:
        check_bare(Scenario("x", (Populate(G0[0:1]), Empty())))


class TestOptions:
    def test_it_is_of_this_machine_only(self) -> None:
        check_options(RunOptions(guest="bare", host="local"))
        for host in ("emulated", "emulated-as-ssh"):
            with pytest.raises(UsageError, match="--guest bare --host local"):
                check_options(RunOptions(guest="bare", host=host))

    def test_the_kernel_is_not_chosen(self) -> None:
        with pytest.raises(UsageError, match="runs the kernel that it runs"):
            check_options(RunOptions(guest="bare", host="local", kernel="7.3"))


class Lacking:
    """A host on which nothing comes up."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def saved(self, *words: object) -> Path:
        raise self.error


def session(tmp_path: Path, error: Exception, **options: Any) -> Session:
    made = Session(
        RunOptions(guest=BARE.name, host="local", **options), evidence=lambda name: tmp_path, relative=str,
        notice=lambda line: None,
    )  # fmt: skip
    made._local = Lacking(error)  # type: ignore[assignment]
    return made


class TestLacks:
    def test_every_case_is_skipped_with_the_reason_and_the_run_says_it(self, tmp_path: Path) -> None:
        run = session(tmp_path, NothingRanError("no /dev/kvm here"))
        seen = [run.run(ONE, CaseName("bare", name, "")) for name in ("a", "b")]
        assert [(case.verdict, case.sentence) for case in seen] == [(Verdict.SKIP, "no /dev/kvm here")] * 2
        info = run.info(())
        assert (info.exit_code, info.sentence) == (5, "every case was skipped: no /dev/kvm here")

    def test_required_cases_fail(self, tmp_path: Path) -> None:
        run = session(tmp_path, NothingRanError("no /dev/kvm here"), require=True)
        seen = run.run(ONE, CaseName("bare", "a", ""))
        assert (seen.verdict, seen.sentence) == (Verdict.INFRA, "required, and skipped: no /dev/kvm here")
        assert run.info(()).exit_code == 3

    def test_what_is_broken_is_no_lack(self, tmp_path: Path) -> None:
        run = session(tmp_path, InfraError("the probe died"))
        assert run.run(ONE, CaseName("bare", "a", "")).verdict is Verdict.INFRA


class TestCgroups:
    def mounts(self, tmp_path: Path, *lines: str) -> Path:
        path = tmp_path / "mounts"
        path.write_text("".join(f"{line.replace('ROOT', str(tmp_path))}\n" for line in lines))
        return path

    def test_v1(self, tmp_path: Path) -> None:
        mounts = self.mounts(
            tmp_path, "proc /proc proc rw 0 0", "cgroup /c/cpu cgroup rw,cpu 0 0", "cgroup /c/mem cgroup rw,memory 0 0"
        )
        assert place(mounts) == (Path("/c/mem"), "memory hierarchy of cgroup v1 in /c/mem")

    def test_v2_that_hands_the_controller_on(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
        assert place(self.mounts(tmp_path, "cgroup2 ROOT cgroup2 rw 0 0"))[0] == tmp_path

    def test_v2_that_does_not(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup.subtree_control").write_text("\n")
        (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
        folder, why = place(self.mounts(tmp_path, "cgroup2 ROOT cgroup2 rw 0 0"))
        assert folder is None
        assert "cgroup.subtree_control does not hand the memory controller to its children" in why
        assert (tmp_path / "cgroup.subtree_control").read_text() == "\n"

    def test_none(self, tmp_path: Path) -> None:
        assert place(self.mounts(tmp_path, "proc /proc proc rw 0 0")) == (
            None, "no cgroup hierarchy with the memory controller is mounted",
        )  # fmt: skip
