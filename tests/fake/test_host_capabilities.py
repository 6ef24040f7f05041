# SPDX-License-Identifier: GPL-2.0-only
"""What is concluded from hosts that exist as text: each cause is found, and only where it is."""

from __future__ import annotations

import dataclasses

import pytest

from harness.errors import UsageError
from harness.host.capabilities.decide import decide
from harness.host.capabilities.failures import SNP, TDX
from harness.host.capabilities.gather import FILES, PRESENT, gather
from harness.host.capabilities.kvm import KvmAnswers
from harness.host.capabilities.record import Capability, HostProbe, State
from harness.host.capabilities.recording import from_text, to_text
from harness.host.reach import LocalReach
from harness.native.build import BuildError
from tests.fake.host_bench import HOSTS, FakeReach, expectations, recorded

NAMES = sorted(path.stem for path in HOSTS.glob("*.txt"))


def by_name(probe: HostProbe) -> dict[str, Capability]:
    return {capability.name: capability for capability in decide(probe)}


def visited(probe: HostProbe) -> HostProbe:
    """The same host, taken over a connection."""
    return gather(FakeReach(probe), firmware=probe.firmware, program=lambda: b"")


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_host_is_concluded_from(name: str) -> None:
    expected = expectations(name)
    assert expected, f"{name}.txt has no section expected"
    found = by_name(visited(recorded(name)))
    for capability, state, words in expected:
        item = found[capability]
        said = "\n".join(f"{cause.reason}\n{cause.fix}" for cause in item.causes)
        assert item.state.value == state, f"{capability}: {item}"
        for word in words:
            assert word in said, f"{capability}: {said}"


@pytest.mark.parametrize("name", NAMES)
def test_every_row_that_is_not_there_says_why(name: str) -> None:
    for item in decide(recorded(name)):
        assert bool(item.causes) == (item.state is not State.YES), item
        assert item.primary
        assert all(cause.reason for cause in item.causes)


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_is_read_back_as_it_was(name: str) -> None:
    probe = recorded(name)
    assert from_text(to_text(probe)) == probe


@pytest.mark.parametrize("failure", [*SNP, *TDX], ids=lambda failure: failure.reason)
def test_every_failure_of_the_table_has_a_host(failure: object) -> None:
    """And each of those hosts would be one with an unknown cause, were the line not known."""
    reason = getattr(failure, "reason", "?")
    tellers = [
        name
        for name in NAMES
        for kind in ("snp", "tdx")
        for cause in by_name(recorded(name))[kind].causes
        if reason in cause.reason
    ]
    assert tellers


def test_the_ready_hosts_differ_from_the_others_by_what_was_taken_from_them() -> None:
    """A cause must go away with its fix: the same host with the ready one's KVM has no causes."""
    for name in (name for name in NAMES if name.startswith(("snp-", "tdx-"))):
        kind = name.split("-")[0]
        probe = dataclasses.replace(recorded(name), kvmcaps=recorded(f"{kind}-ready").kvmcaps, kvmcaps_failed="")
        present = {**probe.present, "/dev/kvm": True}
        found = by_name(dataclasses.replace(probe, present=present))[kind]
        assert (found.state, found.causes) == (State.YES, ()), name


def test_only_the_first_stage_that_failed_is_told() -> None:
    """Hibernation leaves kvm_intel.tdx at N, too; that is not told, because it would not mend anything."""
    causes = by_name(recorded("tdx-hibernation"))["tdx"].causes
    assert [cause.fix for cause in causes] == ["boot with nohibernate"]
    causes = by_name(recorded("snp-rmp-too-small"))["snp"].causes
    assert len(causes) == 1  # and not also that the RMP table could not be started


def test_what_no_such_machine_confirmed_is_marked() -> None:
    snp, tdx = by_name(recorded("snp-ready")), by_name(recorded("tdx-ready"))
    assert snp["snp"].unverified
    assert tdx["tdx"].unverified
    assert snp["memory attributes"].unverified  # of SNP VMs alone
    assert not snp["plain"].unverified
    assert not by_name(recorded("sw-protected-emulated"))["memory attributes"].unverified
    assert not snp["qemu sev-snp-guest"].unverified


def test_supporting_evidence_is_shown() -> None:
    said = "\n".join(by_name(recorded("snp-ready"))["snp"].supporting)
    for words in (
        "C-bit 51, address bits lost 5, 509 ASIDs, least SEV ASID 100",
        "RMP table physical range",
        "sev 410",
    ):
        assert words in said, said
    said = "\n".join(by_name(recorded("tdx-ready"))["tdx"].supporting)
    for words in (
        "TDX module 1.5.06",
        "private KeyID range [32, 64)",
        "KB allocated for PAMT",
        "misc.capacity: tdx 31",
    ):
        assert words in said, said


def test_a_program_that_is_not_executable_there_is_tried_elsewhere() -> None:
    reach = FakeReach(recorded("snp-ready"), takes=("/run",))
    assert KvmAnswers.parse(gather(reach, program=lambda: b"").kvmcaps) is not None
    assert not reach.folders  # nothing stays behind
    noexec = FakeReach(recorded("snp-ready"), takes=("/tmp", "/var/tmp"), noexec="/tmp")
    assert KvmAnswers.parse(gather(noexec, program=lambda: b"").kvmcaps) is not None
    assert not noexec.folders
    only = FakeReach(recorded("snp-ready"), takes=("/tmp",), noexec="/tmp")
    assert gather(only, program=lambda: b"").kvmcaps_failed == "programs cannot be run in /tmp: sh: Permission denied"
    nowhere = FakeReach(recorded("snp-ready"), takes=())
    probe = gather(nowhere, program=lambda: b"")
    assert probe.kvmcaps_failed == "no folder there takes a program"
    assert by_name(probe)["snp"].state is State.UNKNOWN


def test_a_program_that_fails_leaves_nothing_behind() -> None:
    for name in ("snp-program-fails", "snp-program-hangs"):
        reach = FakeReach(recorded(name))
        gather(reach, program=lambda: b"")
        assert not reach.folders


def test_without_a_compiler_here_files_are_still_told() -> None:
    def no_compiler() -> bytes:
        raise BuildError("cannot build gmem-kvmcaps: there is no gcc here")

    found = by_name(gather(FakeReach(recorded("tdx-ready")), program=no_compiler))
    assert found["kvm"].state is State.UNKNOWN
    assert "there is no gcc here" in found["kvm"].causes[0].reason
    assert found["tdx"].state is State.UNKNOWN
    assert "TDX-Module initialized" in "\n".join(found["tdx"].supporting)
    assert found["qemu tdx-guest"].state is State.YES


def test_half_an_answer_of_kvm_is_none() -> None:
    text = recorded("snp-ready").kvmcaps
    assert text is not None
    assert KvmAnswers.parse(text) is not None
    assert KvmAnswers.parse(text.replace("end=1\n", "")) is None
    assert KvmAnswers.parse(text.replace("kvmcaps=1\n", "")) is None
    assert KvmAnswers.parse(None) is None


def test_this_machine_can_be_looked_at_with_or_without_kvm() -> None:
    probe = gather(LocalReach())
    found = by_name(probe)
    assert set(FILES) <= set(probe.files)
    assert set(PRESENT) <= set(probe.present)
    assert probe.command("release")
    assert probe.file("/proc/cmdline") is not None
    assert found["kvm"].state in (State.YES, State.NO)
    if found["kvm"].state is State.YES:
        kvm = KvmAnswers.parse(probe.kvmcaps)
        assert kvm is not None
        assert kvm.number("kvm.api") == 12  # KVM_API_VERSION, for ever
        assert kvm.created("default") is not None
    assert from_text(to_text(probe)) == probe


def test_a_recording_that_is_none() -> None:
    for text, words in (
        ("hello\n", "line 1 of the recorded host stands before the first section"),
        ("==== host a\n==== fiel /proc/x\n", "line 2 of the recorded host: there is no section fiel"),
        ("==== base snp-ready\n", "stands on snp-ready, which is not at hand"),
    ):
        with pytest.raises(UsageError, match=words):
            from_text(text)
    tricky = HostProbe("h", {"/a": "==== file /b\n\\==== c\n"}, {}, {})
    assert from_text(to_text(tricky)) == tricky
