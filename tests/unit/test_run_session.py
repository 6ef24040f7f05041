# SPDX-License-Identifier: GPL-2.0-only
"""A run without machines: options, testbeds that do not come up, disturbed windows, and what the run says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace
from report_records import case, finding, step
from session_bench import FACTS, ONE, TWO, FakeLab, Make, make, name

from harness.errors import CrashError, GmemError, InfraError, NoBootError, UsageError
from harness.guest.launch import SW_PROTECTED_DIRECT
from harness.host.emulated import state as testbed  # by its module: its classes begin with Test
from harness.run import facts as run_facts
from harness.run import session as session_module
from harness.run import walk
from harness.run.facts import choose_design, host_facts
from harness.run.result import CaseResult
from harness.run.session import MEASURE_AT_MOST
from harness.run.verdict import Verdict, worst
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Compact, Empty


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"host": "moon"}, r"there is no host moon; .* has .*emulated"),
            ({"design": "order-0"}, r"unknown gmem design 'order-0': known are order0"),
            ({"guest": "sev"}, r"unknown launch 'sev'; known: snp-stand-in, tdx-stand-in, sw-protected-direct"),
            ({"guest": "tdx-stand-in", "host": "local"}, "--guest tdx-stand-in is for the emulated host"),
        ],
    )
    def test_unknown_words(self, make: Make, options: dict[str, str], sentence: str) -> None:
        with pytest.raises(UsageError, match=sentence):
            make(**options)


__all__ = ["make"]  # the fixture


class TestScenarios:
    def test_a_step_that_no_testbed_can_do_is_said_before_one_is_booted(
        self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(cast(Any, walk._HOW), Compact)
        lab = FakeLab(tmp_path)
        with pytest.raises(UsageError, match="this testbed cannot compact yet"):
            make(lab).run(Scenario("x", (Compact(),)), name("x"))
        assert lab.asked == []


class TestBrokenTestbeds:
    def test_one_error_and_the_rest_is_skipped_with_its_place(self, make: Make, tmp_path: Path) -> None:
        lab = FakeLab(tmp_path, InfraError("QEMU ended with status 1: no memory"))
        session = make(lab)
        results = [session.run(ONE, name(word)) for word in ("first", "second", "third")]
        assert [result.verdict for result in results] == [Verdict.INFRA, Verdict.SKIP, Verdict.SKIP]
        assert results[0].sentence == "QEMU ended with status 1: no memory"
        assert {result.sentence for result in results[1:]} == {"no testbed of this shape: see smoke/first"}
        assert lab.asked == [1]
        assert session.info(()).verdict is Verdict.INFRA
        assert session.cases == results

    def test_another_shape_is_tried(self, make: Make, tmp_path: Path) -> None:
        lab = FakeLab(tmp_path, CrashError("the kernel under test printed: BUG: x"))
        session = make(lab)
        results = [session.run(scenario, name(scenario.name)) for scenario in (ONE, TWO, ONE)]
        assert [result.verdict for result in results] == [Verdict.CRASH, Verdict.CRASH, Verdict.SKIP]
        assert results[2].sentence == "no testbed of this shape: see smoke/one"
        assert lab.asked == [1, 2]

    @pytest.mark.parametrize("error", [NoBootError("it did not come up"), UsageError("it shows design inplace")])
    def test_what_no_shape_changes_is_tried_once(self, make: Make, tmp_path: Path, error: GmemError) -> None:
        lab = FakeLab(tmp_path, error)
        session = make(lab)
        results = [session.run(scenario, name(scenario.name)) for scenario in (ONE, TWO)]
        assert [result.verdict.exit_code for result in results] == [error.exit_code, Verdict.SKIP.exit_code]
        assert results[1].sentence == "no testbed: see smoke/one"
        assert lab.asked == [1]

    def test_a_kernel_that_cannot_be_made_is_made_once(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        tried: list[object] = []

        def make_lab(*words: object, **more: object) -> None:
            tried.append(words)
            raise InfraError("the archive cannot be reached")

        monkeypatch.setattr(session_module, "make_lab", make_lab)
        session = make()
        results = [session.run(scenario, name(scenario.name)) for scenario in (ONE, TWO, TWO)]
        assert [result.verdict for result in results] == [Verdict.INFRA, Verdict.SKIP, Verdict.SKIP]
        assert [result.sentence for result in results[1:]] == ["no testbed: see smoke/one"] * 2
        assert len(tried) == 1

    def test_who_asks_first_does_not_take_the_reason_away(self, make: Make, tmp_path: Path) -> None:
        """A case that concerns one design asks for the testbed before it is run."""
        session = make(FakeLab(tmp_path, InfraError("no memory")))
        with pytest.raises(InfraError):
            session.ready(session.spec(guests=1, chunks=8))
        assert session.run(ONE, name("first")).verdict is Verdict.INFRA
        assert session.run(ONE, name("second")).verdict is Verdict.SKIP

    def test_a_scenario_that_cannot_be_is_not_run(self, make: Make, tmp_path: Path) -> None:
        lab = FakeLab(tmp_path)
        with pytest.raises(UsageError, match="0 guests"):
            make(lab).run(Scenario("none", (), guests=0), name("none"))
        assert lab.asked == []

    def test_a_backing_that_no_testbed_has(self, make: Make, tmp_path: Path) -> None:
        lab = FakeLab(tmp_path)
        with pytest.raises(UsageError, match="unknown shared backing 'thp' of a testbed; known: anon-4k, anon-thp"):
            make(lab).run(Scenario("thp", (Empty(),), backing="thp"), name("thp"))
        assert lab.asked == []

    def test_another_backing_where_the_guest_memfd_is_the_ram(
        self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Is refused, and concerns no other shape."""
        session = make(FakeLab(tmp_path, facts={**FACTS, "kvm.gmem_in_place_conversion": "Y"}))
        result = session.run(Scenario("thp", (Empty(),), backing="anon-thp"), name("thp"))
        assert result.verdict is Verdict.USAGE
        assert result.sentence.startswith("backing anon-thp cannot be had on this kernel: its guest_memfd holds both")
        monkeypatch.setattr(session_module, "run_scenario", lambda *words, **more: case())
        assert session.run(ONE, name("one")).verdict is Verdict.PASS


class TestDisturbedWindows:
    def results(self, verdicts: list[CaseResult], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        folders: list[Path] = []

        def run_scenario(*words: object, evidence: Path, relative: str, **more: object) -> CaseResult:
            folders.append(evidence)
            return verdicts[min(len(folders), len(verdicts)) - 1]

        monkeypatch.setattr(session_module, "run_scenario", run_scenario)
        return folders

    def disturbed(self) -> CaseResult:
        wrong = step(0, finding("F", 0, -8, verdict=Verdict.DEVIATES))
        recorded = {"nr_kernel_stack": 16}
        return case("x", Verdict.INCONCLUSIVE, replace(wrong, recorded=recorded))

    def test_it_is_measured_again_and_every_attempt_keeps_its_evidence(
        self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        notes: list[str] = []
        folders = self.results([self.disturbed(), case("x")], monkeypatch)
        session = make(FakeLab(tmp_path), notes)
        assert session.run(ONE, name("x")).verdict is Verdict.PASS
        assert len(set(folders)) == 2
        assert notes == ["smoke/x: sentence of x; measuring again"]
        assert len(session.cases) == 1

    def test_a_host_that_is_never_at_rest(self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folders = self.results([self.disturbed()], monkeypatch)
        assert make(FakeLab(tmp_path)).run(ONE, name("x")).verdict is Verdict.INCONCLUSIVE
        assert len(folders) == MEASURE_AT_MOST

    def test_a_deviation_is_measured_once(self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        wrong = case("x", Verdict.DEVIATES, step(0, finding("nr_file_pages", 0, -8, verdict=Verdict.DEVIATES)))
        folders = self.results([wrong, case("x")], monkeypatch)
        assert make(FakeLab(tmp_path)).run(ONE, name("x")).verdict is Verdict.DEVIATES
        assert len(folders) == 1


class TestInfo:
    def test_the_worst_case_speaks_for_the_run(self, make: Make) -> None:
        session = make()
        session.cases += [case("a"), case("b", Verdict.DEVIATES), case("c", Verdict.INFRA), case("d", Verdict.SKIP)]
        info = session.info(("gmem", "run"))
        assert (info.verdict, info.exit_code) == (Verdict.DEVIATES, 1)
        assert info.sentence == "1 of 3 cases; first conversions/b: sentence of b"
        assert info.counts["pass"] == info.counts["skip"] == 1
        assert info.command == ("gmem", "run")

    def test_nothing_ran(self, make: Make) -> None:
        session = make()
        assert session.info(()).sentence == "no case was selected"
        session.cases.append(case("a", Verdict.SKIP))
        info = session.info(())
        assert (info.verdict, info.exit_code) == (Verdict.NOTHING_RAN, 5)
        assert info.sentence == "every case was skipped: sentence of a", "it says why, where there is one reason"
        session.cases.append(case("b", Verdict.SKIP))
        assert session.info(()).sentence == "every case was skipped"

    def test_all_pass(self, make: Make) -> None:
        session = make()
        session.cases += [case("a"), case("b"), case("c", Verdict.SKIP)]
        assert session.info(()).sentence == "all 2 cases pass"

    def test_an_end_before_the_end(self, make: Make) -> None:
        session = make()
        session.cases.append(case("a", Verdict.CRASH))
        info = session.info((), ended_by=(Verdict.INTERRUPTED, "interrupted after 1 cases"))
        assert (info.exit_code, info.sentence) == (2, "interrupted after 1 cases")

    def test_no_qemu_is_no_reason_to_lose_a_record(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        assert make().info(()).qemu == {"version": ""}


class TestVerdicts:
    ORDER = (
        Verdict.USAGE, Verdict.INTERRUPTED, Verdict.CRASH, Verdict.NO_BOOT, Verdict.DEVIATES, Verdict.INFRA,
        Verdict.INCONCLUSIVE, Verdict.NOTHING_RAN, Verdict.PASS,
    )  # fmt: skip

    def test_of_two_the_worse_wins(self) -> None:
        for at, one in enumerate(self.ORDER):
            for two in self.ORDER[at:]:
                assert worst([one, two]) is worst([two, one]) is one
                assert worst([Verdict.SKIP, two, Verdict.SKIP]) is two

    def test_nothing_and_skips(self) -> None:
        assert worst([]) is Verdict.NOTHING_RAN
        assert worst([Verdict.SKIP]) is Verdict.NOTHING_RAN

    def test_every_verdict_has_its_code(self) -> None:
        codes = {verdict.value: verdict.exit_code for verdict in Verdict}
        assert codes == {
            "pass": 0, "deviates": 1, "interrupted": 2, "infra": 3, "usage": 4, "nothing-ran": 5, "inconclusive": 6,
            "no-boot": 7, "crash": 8, "skip": 5, "xfail": 0,
        }  # fmt: skip


class TestFacts:
    SPEC = testbed.TestbedSpec.of(guests=2, chunks=3)

    def test_numbers(self) -> None:
        facts = host_facts(FACTS, self.SPEC)
        assert (facts.ncpu, facts.slab_objects, facts.slab_pages) == (2, 28, 4)
        assert facts.regions == {"g0.r0": 3, "g1.r0": 3}
        assert facts.pt_reclaim
        assert not facts.tables_present

    def test_a_rom_is_in_a_guest_memfd_where_the_guest_is_in_place(self) -> None:
        assert host_facts({**FACTS, "kvm.gmem_in_place_conversion": "Y"}, self.SPEC).rom_pages == 16
        assert host_facts(FACTS, self.SPEC).rom_pages == 0
        direct = testbed.TestbedSpec.of(launch=SW_PROTECTED_DIRECT)
        assert host_facts({**FACTS, "kvm.gmem_in_place_conversion": "Y"}, direct).rom_pages == 0

    @pytest.mark.parametrize(("symbol", "uniform"), [("y", False), ("n", True), (None, False)])
    def test_how_folios_are_split_is_read_from_the_kernels_symbols(self, symbol: str | None, uniform: bool) -> None:
        facts = {**FACTS, "symbol.folio_split": symbol} if symbol else dict(FACTS)
        assert host_facts(facts, self.SPEC).uniform_split is uniform

    @pytest.mark.parametrize("value", [None, "n", "m"])
    def test_a_kernel_without_page_table_reclaim(self, value: str | None) -> None:
        facts = {key: word for key, word in FACTS.items() if key != "config.PT_RECLAIM"}
        if value:
            facts["config.PT_RECLAIM"] = value
        assert not host_facts(facts, self.SPEC).pt_reclaim
        assert host_facts(facts, self.SPEC).tables_present

    @pytest.mark.parametrize(
        ("key", "word"),
        [
            ("ncpu", None),
            ("ncpu", "two"),
            ("ncpu", "0"),
            ("slab.radix_tree_node", None),
            ("slab.radix_tree_node", "28"),
            ("slab.radix_tree_node", "28,4,1"),
            ("slab.radix_tree_node", "0,4"),
            ("slab.radix_tree_node", "28,-4"),
        ],
    )
    def test_facts_that_make_no_sense_are_the_testbeds_fault(self, key: str, word: str | None) -> None:
        facts = {**FACTS, key: word} if word is not None else {k: v for k, v in FACTS.items() if k != key}
        with pytest.raises(InfraError, match="told no usable facts about its kernel"):
            host_facts(facts, self.SPEC)


class TestDesign:
    def test_named(self) -> None:
        assert choose_design("order0", {"kvm.gmem_2m_enabled": "Y"}) == (
            "order0",
            ("named on the command line: order0",),
        )

    def test_unknown(self) -> None:
        with pytest.raises(UsageError, match="unknown gmem design 'inplaces'"):
            choose_design("inplaces", {})

    @pytest.mark.parametrize(
        "facts", [{}, {"kvm.gmem_2m_enabled": "N"}, {"kvm.gmem_in_place_conversion": "0", "kvm.gmem_2m_enabled": "N"}]
    )
    def test_auto_on_a_kernel_that_shows_nothing(self, facts: dict[str, str]) -> None:
        design, evidence = choose_design("auto", facts)
        assert design == "order0"
        assert "gmem_2m_enabled, gmem_in_place_conversion" in evidence[0]

    @pytest.mark.parametrize(
        ("shown", "design"),
        [
            ("gmem_2m_enabled=Y", "thp-discard"),
            ("gmem_2m_enabled=1", "thp-discard"),
            ("gmem_2m_enabled=Y gmem_2m_punch_strict=N", "thp-2m-truncate-noop"),
            ("gmem_2m_enabled=Y gmem_2m_punch_strict=Y", "thp-2m-truncate"),
            ("gmem_2m_enabled=N gmem_2m_punch_strict=Y", "order0"),
            ("gmem_in_place_conversion=Y", "inplace"),
            ("gmem_in_place_conversion=N gmem_2m_enabled=Y gmem_2m_punch_strict=N", "order0"),
            ("gmem_in_place_conversion=N gmem_2m_enabled=Y", "thp-discard"),
            ("gmem_in_place_conversion=Y gmem_2m_enabled=N gmem_2m_punch_strict=N", "inplace"),
            ("gmem_in_place_conversion=Y gmem_2m_enabled=Y gmem_2m_punch_strict=N", "inplace-thp-noop"),
            ("gmem_in_place_conversion=Y gmem_2m_enabled=Y gmem_2m_punch_strict=Y", "inplace-thp"),
        ],
    )
    def test_auto_reads_the_module_parameters(self, shown: str, design: str, monkeypatch: pytest.MonkeyPatch) -> None:
        facts = {f"kvm.{word.partition('=')[0]}": word.partition("=")[2] for word in shown.split()}
        monkeypatch.setattr(run_facts, "DESIGNS", {design: None})
        chosen, evidence = choose_design("auto", facts)
        assert chosen == design
        for text in evidence if design != "order0" else ():
            name, value = text.removeprefix("module parameter kvm.").split(" is ")
            assert f"{name}={value}" in shown.split()

    @pytest.mark.parametrize(("sign", "design"), [("gmem_2m_enabled", "thp-discard")])
    @pytest.mark.parametrize("value", ["Y", "1"])
    def test_auto_on_a_design_that_is_not_modelled(
        self, sign: str, design: str, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_facts, "DESIGNS", {"order0": None})
        with pytest.raises(UsageError) as caught:
            choose_design("auto", {f"kvm.{sign}": value})
        assert f"shows design {design} (module parameter kvm.{sign} is {value})" in str(caught.value)
        assert "--design order0" in str(caught.value)
