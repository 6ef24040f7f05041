# SPDX-License-Identifier: GPL-2.0-only
"""``gmem doctor --host``: the report, and the exit code that ``--require`` makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli import doctor_host as command
from harness.cli.doctor_host import as_json, as_text, report_of
from harness.cli.main import main
from harness.host.capabilities.decide import decide
from harness.host.capabilities.record import HostProbe, State
from harness.host.capabilities.recording import from_text
from harness.host.capabilities.require import Missing, missing, missing_for, node_count
from harness.host.config.knobs import wanted
from harness.host.config.load import load_host, parse_host
from harness.host.reach import ReachError
from tests.fake.host_bench import FakeReach, recorded

BASE = "schema: 1\nname: a\ntransport: local\n"


def with_settings(name: str, example: str) -> HostProbe:
    """A recorded host which has, besides, every file that the example sets, set to something else."""
    probe = recorded(name)
    config = load_host(example)
    others = {path: "[something] else\n" for path in wanted(config)}
    there = dict.fromkeys(("/proc/sys/vm/drop_caches", "/proc/sys/vm/compact_memory", "/usr/share/ovmf/OVMF.fd"), True)
    return HostProbe(probe.host, {**probe.files, **others}, probe.commands, {**probe.present, **there}, probe.kvmcaps)


def lacking(probe: HostProbe, text: str) -> list[Missing]:
    return missing(parse_host(BASE + text + "\n", Path("/lab/h.yaml")), probe)


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> FakeReach:
    """The host of the example is the ready SNP machine."""
    made = FakeReach(with_settings("snp-ready", "snp-example"), qemu="/usr/bin/qemu-system-x86_64")
    monkeypatch.setattr(command, "reach_host", lambda config: made)
    return made


def test_the_examples_are_met_by_the_ready_hosts() -> None:
    for kind in ("snp", "tdx"):
        report = report_of(load_host(f"{kind}-example"), with_settings(f"{kind}-ready", f"{kind}-example"))
        assert report.missing == ()
        assert list(as_text(report))[-1] == f"ready: {kind}, plain"
        assert as_json(report)["ready"] is True


def test_a_host_that_is_ready(reach: FakeReach, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    kept = tmp_path / "snp1.txt"
    assert main(["doctor", "--host", "snp-example", "--require", "--save", str(kept)]) == 0
    text = capsys.readouterr().out
    assert "yes      snp" in text
    assert "[unverified on hardware]" in text
    assert "a run would set /sys/kernel/mm/transparent_hugepage/enabled from something to never" in text
    assert "bios          SMEE enabled" in text
    assert "firmware snp: /usr/share/ovmf/OVMF.fd (not looked into)" in text
    assert text.splitlines()[-1] == "ready: snp, plain"
    assert reach.closed
    assert from_text(kept.read_text()).kvmcaps == reach.probe.kvmcaps


def test_what_require_makes_the_exit_code_of(reach: FakeReach, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--host", "snp-example", "--require", "snp"]) == 0
    assert main(["doctor", "--host", "snp-example"]) == 0
    assert main(["doctor", "--host", "snp-example", "--require", "tdx"]) == 3
    assert "missing  tee tdx: tdx is no: the CPU is of AuthenticAMD" in capsys.readouterr().out
    assert main(["doctor", "--host", "snp-example", "--require", "snp", "--require", "tdx"]) == 3
    assert main(["doctor", "--host", "snp-example", "--require", "snpp"]) == 4
    assert main(["doctor", "--require"]) == 4
    assert main(["doctor", "--host", "nobody"]) == 4


def test_json_is_one_object(reach: FakeReach, capsys: pytest.CaptureFixture[str]) -> None:
    reach.probe = HostProbe(
        reach.probe.host, {**reach.probe.files, "/proc/cmdline": "ro iommu=pt\n"}, reach.probe.commands, {}, None
    )
    assert main(["doctor", "--host", "snp-example", "--require", "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["host"] == "snp-example"
    assert report["reached"] == "snp1"
    assert report["ready"] is False
    assert {
        "what": "kernel_cmdline.must_not",
        "reason": "the kernel was booted with iommu=pt",
        "fix": "boot without iommu=pt",
    } in (report["missing"])
    states = {row["name"]: row["state"] for row in report["capabilities"]}
    assert states["kvm"] == "no"
    assert states["snp"] == "unknown"
    assert report["recorded_by_hand"]["bios"].startswith("SMEE")
    assert report["identity"]["cpu"].startswith("AMD EPYC 9354")


def test_a_host_that_is_not_reached(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def nobody(config: object) -> FakeReach:
        raise ReachError("no SSH connection with snp1: Connection refused")

    monkeypatch.setattr(command, "reach_host", nobody)
    assert main(["doctor", "--host", "snp-example"]) == 3
    assert capsys.readouterr().err == "gmem: no SSH connection with snp1: Connection refused\n"


REQUIREMENTS = [
    ("requires: {vm_types: [snp]}", "requires: {vm_types: [tdx]}", "no VM of type tdx can be made"),
    (
        "requires: {kvm_caps: {guest_memfd_flags: 3}}",
        "requires: {kvm_caps: {guest_memfd_flags: 4}}",
        "is 0x3, wanted 0x4",
    ),
    (
        "requires: {vm_types: [snp], kvm_caps: {guest_memfd_flags: 1}}",
        "requires: {vm_types: [snp], kvm_caps: {guest_memfd_flags: 3}}",
        "guest_memfd_flags of vm.snp is 0x1, wanted 0x3",
    ),
    (
        "requires: {kvm_caps: {exit_hypercall: 4096}}",
        "requires: {kvm_caps: {exit_hypercall: 2048}}",
        "is 0x1000, wanted 0x800",
    ),
    ("requires: {kvm_caps: {guest_memfd: 1}}", "requires: {kvm_caps: {guest_memfd: 2}}", "is 0x1, wanted 0x2"),
    ("requires: {kernel_min: 7.3}", "requires: {kernel_min: 7.10}", "the kernel is 7.3.4-amd64, wanted 7.10"),
    ("requires: {config: [KVM_AMD]}", "requires: {config: [KVM_AMD=y]}", "CONFIG_KVM_AMD is m, wanted y"),
    (
        "requires: {config: [KVM=y]}",
        "requires: {config: [INTEL_TDX_HOST]}",
        "CONFIG_INTEL_TDX_HOST is n, wanted y or m",
    ),
    (
        "module_params: {kvm_amd: {sev_snp: Y}}",
        "module_params: {kvm_intel: {tdx: Y}}",
        "kvm_intel.tdx is absent, wanted Y",
    ),
    (
        "requires: {cpu_flags: [sev_snp]}",
        "requires: {cpu_flags: [sev]}\nkernel_cmdline: {must: [debug]}",
        "booted without debug",
    ),
    ("requires: {cpu_flags: [svm]}", "requires: {cpu_flags: [vmx]}", "/proc/cpuinfo has no vmx"),
    (
        "requires: {qemu_objects: [sev-guest]}",
        "requires: {qemu_objects: [igvm-cfg]}",
        "qemu-system-x86_64 has no igvm-cfg",
    ),
    ("requires: {min_free_memory: 200G}", "requires: {min_free_memory: 1T}", "241 GiB is available, wanted 1T"),
    ("requires: {numa_nodes: 2}", "requires: {numa_nodes: 3}", "the host has 2, wanted 3"),
    ("kernel_cmdline: {must: [ro]}", "kernel_cmdline: {must_not: [ro]}", "the kernel was booted with ro"),
    (
        "module_params: {kvm: {nx_huge_pages: N}}",
        "ksm: {run: 0}",
        "/sys/kernel/mm/ksm/run is not there or cannot be read",
    ),
]


@pytest.mark.parametrize(("met", "unmet", "words"), REQUIREMENTS, ids=[unmet for _, unmet, _ in REQUIREMENTS])
def test_each_requirement_can_fail(met: str, unmet: str, words: str) -> None:
    probe = recorded("snp-ready")
    assert lacking(probe, met) == []
    found = lacking(probe, unmet)
    assert [words in item.reason for item in found] == [True], found


def test_nothing_is_known_of_a_host_that_says_nothing() -> None:
    """Unknown is never taken for enough."""
    silent = HostProbe("h", {}, {}, {})
    for met, _, _ in REQUIREMENTS:
        if "must_not" not in met:
            assert lacking(silent, met), met
    assert node_count(silent) == 0
    report = report_of(load_host("plain-example"), silent)
    assert not any("Traceback" in line for line in as_text(report))
    assert as_json(report)["ready"] is False


def test_unknown_is_not_enough_for_a_kind_of_guest() -> None:
    for name in ("snp-program-hangs", "snp-no-permission", "snp-garbage"):
        reasons = [item.reason for item in missing_for("snp", decide(recorded(name)))]
        assert reasons[0].startswith("snp is unknown: "), name
    assert missing_for("snp", decide(recorded("snp-ready"))) == []


def test_a_kernel_that_converts_in_place_needs_no_attributes_of_the_vm() -> None:
    in_place = decide(recorded("sw-protected-in-place"))
    assert [item.reason for item in missing_for("sw-protected", in_place)] == ["qemu is no: QEMU does not answer"]
    off = [replace(row, state=State.NO) if row.name == "in-place conversion" else row for row in in_place]
    assert missing_for("sw-protected", off)[0].reason.startswith("memory attributes is no")


def test_firmware_and_actions_that_are_not_there() -> None:
    probe = recorded("snp-ready")
    absent = HostProbe("h", {}, {}, {**probe.present, "/fw": False, "/proc/sys/vm/compact_memory": False})
    found = lacking(absent, "qemu: {firmware: {snp: /fw}}\nbefore_each: [{compact_memory: 1}]")
    assert [item.what for item in found] == ["qemu.firmware.snp", "before_each"]
