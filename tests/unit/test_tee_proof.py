# SPDX-License-Identifier: GPL-2.0-only
"""Proof of the kind of a guest: from both sides, and nothing less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from harness.guest.qmp import QmpRefused
from harness.guest.tee.facts import features_line, flags_of, host_facts, with_guest
from harness.guest.tee.kinds import PLAIN, SNP, TDX, TeeKind
from harness.guest.tee.proof import Facts, Standing, prove

SNP_FACTS = Facts(
    object_type="sev-snp-guest",
    query_sev={"enabled": True, "sev-type": "sev-snp", "policy": 0x30000},
    vm_type=4,
    gmem_files=1,
    features="AMD SEV SEV-ES SEV-SNP",
    cpu_flags=frozenset({"sse2"}),
    vmpl=True,
)
NO_SEV = {"enabled": False, "sev-type": "sev"}
TDX_FACTS = Facts("tdx-guest", NO_SEV, 5, 1, "Intel TDX", frozenset({"sse2", "tdx_guest"}), False)
PLAIN_FACTS = Facts("", NO_SEV, 0, 0, "", frozenset({"sse2"}), False)
WHOLE = [(SNP, SNP_FACTS), (TDX, TDX_FACTS), (PLAIN, PLAIN_FACTS)]


@pytest.mark.parametrize(("kind", "facts"), WHOLE, ids=lambda item: getattr(item, "name", ""))
def test_proven_by_both_sides(kind: TeeKind, facts: Facts) -> None:
    proof = prove(kind, facts)
    assert proof.standing is Standing.PROVEN
    assert proof.sentence == f"proven to be a {kind.says}, by the host and by the guest"
    assert {word.partition(":")[0] for word in proof.evidence} == {"host", "guest"}
    # a fact that is not known takes nothing away, as long as each side has one that says it all
    least = Facts(object_type=facts.object_type, features=facts.features)
    assert prove(kind, least).standing is Standing.PROVEN


@pytest.mark.parametrize("kind", [SNP, TDX])
def test_a_plain_guest_in_place_of_a_confidential_one(kind: TeeKind) -> None:
    proof = prove(kind, PLAIN_FACTS)
    assert proof.standing is Standing.CONTRADICTED
    assert proof.sentence == f"a plain VM in place of a confidential one: asked for was a {kind.says}"


@pytest.mark.parametrize(
    ("kind", "facts", "sentence"),
    [
        (PLAIN, SNP_FACTS, "a confidential VM in place of a plain one: SEV-SNP guest"),
        (PLAIN, TDX_FACTS, "a confidential VM in place of a plain one: TDX guest"),
        (SNP, TDX_FACTS, "a TDX guest in place of a SEV-SNP guest"),
        (TDX, SNP_FACTS, "a SEV-SNP guest in place of a TDX guest"),
    ],
)
def test_another_kind(kind: TeeKind, facts: Facts, sentence: str) -> None:
    proof = prove(kind, facts)
    assert (proof.standing, proof.sentence) == (Standing.CONTRADICTED, sentence)


@pytest.mark.parametrize("name", ["object_type", "query_sev", "vm_type", "gmem_files", "features", "cpu_flags", "vmpl"])
@pytest.mark.parametrize(("kind", "facts"), WHOLE, ids=lambda item: getattr(item, "name", ""))
def test_one_fact_of_another_kind_is_enough(kind: TeeKind, facts: Facts, name: str) -> None:
    """Each fact can contradict; those that a kind shares with the other one do not."""
    for other, others in WHOLE:
        mixed = replace(facts, **{name: getattr(others, name)})
        same = getattr(others, name) == getattr(facts, name)
        silent = same or (name == "vmpl" and not others.vmpl)
        proof = prove(kind, mixed)
        assert (proof.standing is Standing.PROVEN) == silent, (kind.name, other.name, name)
        if not silent:
            assert proof.sentence.startswith(f"host and guest do not agree on a {kind.says}: ")


def test_an_sev_es_guest_is_none_of_ours() -> None:
    facts = replace(SNP_FACTS, query_sev={"enabled": True, "sev-type": "sev"}, features="AMD SEV SEV-ES", vmpl=None)
    for kind in (SNP, PLAIN):
        assert prove(kind, facts).standing is Standing.CONTRADICTED


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (Facts(), "not provable to be a SEV-SNP guest: neither the host nor the guest was seen to say so"),
        (Facts(object_type="sev-snp-guest"), "not provable to be a SEV-SNP guest: the guest was not seen to say so"),
        (
            Facts(features="AMD SEV SEV-ES SEV-SNP"),
            "not provable to be a SEV-SNP guest: the host was not seen to say so",
        ),
        # a guest_memfd is there in every confidential guest: it does not say which
        (
            Facts(gmem_files=2, features="AMD SEV SEV-ES SEV-SNP"),
            "not provable to be a SEV-SNP guest: the host was not seen to say so",
        ),
        (
            Facts(object_type="sev-snp-guest", cpu_flags=frozenset({"sse2"}), vmpl=False),
            "not provable to be a SEV-SNP guest: the guest was not seen to say so",
        ),
    ],
)
def test_not_provable_names_the_side_that_is_missing(facts: Facts, sentence: str) -> None:
    proof = prove(SNP, facts)
    assert (proof.standing, proof.sentence) == (Standing.NOT_PROVABLE, sentence)


@pytest.mark.parametrize(
    ("log", "features"),
    [
        (
            "[    0.1] Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP\r\n[    0.2] x\n",
            "AMD SEV SEV-ES SEV-SNP",
        ),
        ("[    0.1] Memory Encryption Features active: Intel TDX\n", "Intel TDX"),
        ("[    0.1] Linux version 7.3\n", ""),
        ("", ""),
    ],
)
def test_what_a_kernels_log_says(log: str, features: str) -> None:
    assert features_line(log) == features


def test_flags() -> None:
    text = "processor\t: 0\nflags\t\t: fpu vme tdx_guest\nbugs\t\t:\nprocessor\t: 1\nflags\t\t: fpu\n"
    assert flags_of(text) == {"fpu", "vme", "tdx_guest"}
    assert flags_of("") == frozenset()


class Monitor:
    """QMP of a QEMU with these answers; it refuses all else."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers

    def execute(self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float = 10.0) -> object:
        key = str((arguments or {}).get("property", command)).replace("-", "_")
        if key == "type":
            assert arguments
            assert arguments["path"] == "/objects/cgs0"
        if key not in self.answers:
            raise QmpRefused(command)
        return self.answers[key]


def test_what_qemu_is_asked() -> None:
    monitor = Monitor(confidential_guest_support="/objects/cgs0", type="tdx-guest", query_sev=NO_SEV)
    links = ["socket:[1]", "anon_inode:kvm-vm", "anon_inode:[kvm-gmem]", "/[kvm-gmem] (deleted)"]
    assert host_facts(monitor, links) == Facts("tdx-guest", NO_SEV, gmem_files=2)
    assert host_facts(Monitor(confidential_guest_support="")) == Facts("")
    assert host_facts(Monitor(), []) == Facts(gmem_files=0)


def test_what_the_guest_says() -> None:
    log = "[    0.1] Memory Encryption Features active: Intel TDX\n"
    facts = with_guest(Facts("tdx-guest"), log=log, cpuinfo="flags\t\t: tdx_guest\n", vmpl=False)
    assert facts == Facts("tdx-guest", features="Intel TDX", cpu_flags=frozenset({"tdx_guest"}), vmpl=False)
    assert prove(TDX, facts).standing is Standing.PROVEN
    # a log that was lost is no log that says nothing
    assert with_guest(Facts(), log=None, cpuinfo=None, vmpl=None) == Facts()
    assert with_guest(Facts(), log="", cpuinfo="", vmpl=None) == Facts(features="", cpu_flags=frozenset())
