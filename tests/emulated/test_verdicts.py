# SPDX-License-Identifier: GPL-2.0-only
"""Kernels and testbeds that cannot be judged: each the right verdict class, one sentence, evidence kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Convert, PageRange, Populate, Side
from tests.emulated.conftest import Ended, Gmem

FAULTS = Path(__file__).parent / "faults"


def ended_with(ended: Ended, verdict: Verdict, *words: str) -> None:
    assert ended.code == verdict.exit_code, ended.stdout + ended.stderr
    assert ended.info["verdict"] == verdict.value
    for word in words:
        assert word in ended.info["sentence"]
    assert "\n" not in ended.info["sentence"]
    assert "Traceback" not in ended.stdout + ended.stderr
    assert list(ended.out.glob("evidence/*/*")), "no evidence was kept"


def test_a_kernel_that_panics_at_boot_is_no_boot(gmem_cli: Gmem) -> None:
    ended = gmem_cli.run("smoke", "-k", "rest", "--cmdline", "rdinit=/nonexistent")
    ended_with(ended, Verdict.NO_BOOT, "did not come up", "Kernel panic")
    assert not gmem_cli.left_behind()


def test_a_testbed_that_does_not_come_up_is_never_a_skip_alone(gmem_cli: Gmem) -> None:
    """Not even where the case first asks which design the kernel has."""
    ended = gmem_cli.run("conversion", "-k", "three_rounds", "--cmdline", "rdinit=/nonexistent")
    ended_with(ended, Verdict.NO_BOOT, "Kernel panic")


def test_a_kernel_without_software_protected_vms_is_no_boot(gmem_cli: Gmem) -> None:
    # KVM offers them only with the TDP MMU (kvm_is_vm_type_supported), so this is what a kernel without them shows.
    ended = gmem_cli.run("smoke", "-k", "rest or one_page", "--cmdline", "kvm.tdp_mmu=0")
    ended_with(ended, Verdict.NO_BOOT, "CONFIG_KVM_SW_PROTECTED_VM")
    assert ended.case("one_page")["verdict"] == "skip", "the second case must not repeat the first one's error"


def test_a_kernel_whose_kvm_does_not_start_is_no_boot(gmem_cli: Gmem) -> None:
    ended = gmem_cli.run("smoke", "-k", "rest", "--cmdline", "clearcpuid=svm")
    ended_with(ended, Verdict.NO_BOOT, "KVM")


def test_a_file_that_is_no_kernel_is_a_usage_error(gmem_cli: Gmem, tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(b"not a kernel" * 1000)
    ended = gmem_cli.run("smoke", "-k", "rest", "--kernel", str(image))
    assert ended.code == Verdict.USAGE.exit_code, ended.stdout + ended.stderr
    assert "bzImage" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no-such-option"], "no-such-option"),
        (["--kernel", "7.33"], "7.3"),
        (["--design", "order-0"], "order0"),
        (["--guest", "sev"], "snp-stand-in"),
        (["--host", "moon"], "emulated"),
        (["no-such-suite"], "smoke"),
    ],
    ids=["option", "kernel", "design", "guest", "host", "suite"],
)
def test_a_bad_command_line_is_a_usage_error(gmem_cli: Gmem, arguments: list[str], words: str) -> None:
    ended = gmem_cli.run("smoke", "-k", "rest", *arguments)
    assert ended.code == Verdict.USAGE.exit_code, ended.stdout + ended.stderr
    assert words in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def test_a_guest_that_hangs_in_a_conversion_is_not_a_verdict_on_its_pages(gmem_cli: Gmem, tmp_path: Path) -> None:
    """The kernel sleeps for ever in the hole punch: nothing answers, and after the deadline the run says so."""
    there = PageRange("g0.r0", 5, 33)
    steps = (Convert(there, Side.PRIVATE), Populate(there), Convert(there, Side.SHARED))
    scenario = tmp_path / "there-and-back.yaml"
    scenario.write_text(Scenario("there and back", steps).to_yaml())
    ended = gmem_cli.run(str(scenario), "--patch", str(FAULTS / "punch-hangs.patch"), "--deadline", "8")
    ended_with(ended, Verdict.INFRA, "there and back", "gmem convert", "8 s")
    assert len(ended.case("there and back")["steps"]) == 2, "what came before the hole stands"
    assert not gmem_cli.left_behind()


def test_a_kernel_without_guest_memfd_is_no_boot(gmem_cli: Gmem) -> None:
    ended = gmem_cli.run("smoke", "-k", "rest", "--patch", str(FAULTS / "no-guest-memfd.patch"))
    ended_with(ended, Verdict.NO_BOOT, "guest_memfd")
