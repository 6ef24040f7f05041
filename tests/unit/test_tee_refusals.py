# SPDX-License-Identifier: GPL-2.0-only
"""What QEMU says when it ends, as sentences.  Those that a QEMU can be brought to say here are in
``tests/emulated/test_tee_lines.py``; these are all rules, and what no rule knows."""

from __future__ import annotations

import re

import pytest

from harness.errors import InfraError, NothingRanError, UsageError
from harness.guest.tee.refusal import Refusal, Whose
from harness.guest.tee.refusals import RULES, explain

Q = "qemu-system-x86_64: "
SAID = {
    "vm-type SEV-SNP": (f"{Q}-accel kvm: vm-type SEV-SNP not supported by KVM\n", Whose.SKIP, "host has no SNP"),
    "vm-type TDX": (f"{Q}-accel kvm: vm-type TDX not supported by KVM\n", Whose.SKIP, "host has no TDX"),
    "vm-type of another": (
        f"{Q}vm-type SEV-ES not supported by KVM",
        Whose.SKIP,
        "host's KVM has no VMs of type SEV-ES",
    ),
    "cbitpos": (
        f"{Q}sev_common_kvm_init: cbitpos check failed, host '51' requested '47'",
        Whose.USAGE,
        "cbitpos is 51 on the host, and 47 was asked for",
    ),
    "/dev/sev": (f"{Q}sev_common_kvm_init: Failed to open /dev/sev 'No such file'", Whose.SKIP, "host has no /dev/sev"),
    "no kvm": (
        f"{Q}-accel kvm: Could not access KVM kernel module: No such file or directory\n"
        f"{Q}-accel kvm: failed to initialize kvm: No such file or directory\n",
        Whose.SKIP,
        "host has no KVM",
    ),
    "kvm refused": (
        f"{Q}-accel kvm: Could not access KVM kernel module: Permission denied\n"
        f"{Q}-accel kvm: failed to initialize kvm: Permission denied\n",
        Whose.INFRA,
        "KVM cannot be used on the host: Permission denied",
    ),
    "kvm busy": (
        f"{Q}-accel kvm: failed to initialize kvm: Device or resource busy\n",
        Whose.INFRA,
        "the host's /dev/kvm does not work",
    ),
    "hashes": (
        f"{Q}guest firmware hashes table area is invalid (base=0x0 size=0x0)",
        Whose.USAGE,
        "the firmware has no place for hashes of the kernel (base 0x0, size 0x0)",
    ),
    "no hashes": (
        f"{Q}kernel specified but guest firmware has no hashes table GUID",
        Whose.USAGE,
        "the firmware has no table of hashes of the kernel",
    ),
    "flash": (
        f"{Q}kvm_set_user_memory_region: KVM_SET_USER_MEMORY_REGION2 failed, slot=3, start=0xffc00000, size=0x400000, "
        "flags=0x2, guest_memfd=-1, guest_memfd_offset=0x0: Invalid argument\n",
        Whose.USAGE,
        "KVM refuses read-only memory to a guest with private memory",
    ),
    "bios": ("qemu: could not load PC BIOS '/x.fd'\n", Whose.USAGE, "the firmware /x.fd is not there"),
    "kernel": ("qemu: could not open kernel file '/k': No such file", Whose.USAGE, "the guest's kernel cannot be read"),
    "memory": (
        f"{Q}cannot set up guest memory 'ram0': Cannot allocate memory",
        Whose.INFRA,
        "the host has not enough memory for the guest's ram0",
    ),
    "pool": (
        f"{Q}unable to map backing store for guest RAM: Cannot allocate memory",
        Whose.INFRA,
        "the host has not enough memory, or huge pages, for the guest's RAM",
    ),
    "tdx cpu": (f"{Q}Named cpu model is not supported for TDX yet!", Whose.USAGE, "TDX takes no named CPU model"),
    "attributes": (
        f"{Q}Some QEMU unsupported TD attribute bits being requested",
        Whose.USAGE,
        "QEMU does not support those attributes of a TDX guest",
    ),
    "cid": (
        f"{Q}-device vhost-vsock-pci,guest-cid=3: vhost-vsock: unable to set guest cid: Address already in use",
        Whose.INFRA,
        "another guest of the host has this vsock CID",
    ),
    "port": (
        f"{Q}-netdev user,id=n: Could not set up host forwarding rule 'tcp:127.0.0.1:22-:22'",
        Whose.INFRA,
        "a port of the host is taken: tcp:127.0.0.1:22-:22",
    ),
    "socket": (
        f"{Q}-qmp unix:/n/x,server=on: Failed to bind socket to /n/x: No such file or directory",
        Whose.INFRA,
        "QEMU cannot make its socket /n/x: No such file or directory",
    ),
    "property": (
        f"{Q}Property 'pc-q35-11.1-machine.foo' not found\n",
        Whose.USAGE,
        "QEMU does not take the arguments: Property 'pc-q35-11.1-machine.foo' not found",
    ),
    "machine": (
        f'{Q}unsupported machine type: "q36"\nUse -machine help to list supported machines\n',
        Whose.USAGE,
        'QEMU does not take the arguments: unsupported machine type: "q36"',
    ),
    "object of another QEMU": (
        f"{Q}-object {{}}: Parameter 'qom-type' does not accept value 'tdx-guest'",
        Whose.SKIP,
        "the host's QEMU has no object tdx-guest",
    ),
    "object of none": (
        f"{Q}-object x: Parameter 'qom-type' does not accept value 'tdx-gest'",
        Whose.USAGE,
        "QEMU does not take the arguments: -object x: Parameter",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_what_qemu_says(name: str) -> None:
    stderr, whose, sentence = SAID[name]
    refusal = explain(stderr, 1)
    assert refusal.whose is whose
    assert refusal.sentence.startswith(sentence)
    assert refusal.fix
    assert "{" not in refusal.sentence
    # warnings before and after do not hide it
    around = f"{Q}warning: host doesn't support requested feature: CPUID[eax=01h].ECX.pni [bit 0]\n"
    assert explain(around + stderr.rstrip("\n") + "\n" + around, 1) == refusal


def test_every_rule_is_shown() -> None:
    shown = [next(rule for rule in RULES if re.search(rule.pattern, text)) for text, _, _ in SAID.values()]
    assert [rule for rule in RULES if rule not in shown] == []


@pytest.mark.parametrize(
    ("stderr", "code", "sentence"),
    [
        (
            f"{Q}warning: a\n{Q}KVM_TDX_INIT_VM failed\n\n",
            1,
            f"with status 1; its last words: {Q}KVM_TDX_INIT_VM failed",
        ),
        ("", 1, "QEMU ended with status 1; it said nothing"),
        ("", 0, "QEMU ended with status 0; it said nothing"),
        ("", -9, "QEMU was killed; it said nothing"),
        ("x\n", 137, "QEMU was killed; its last words: x"),
        ("assertion\n", -6, "QEMU died of signal 6; its last words: assertion"),
        ("y" * 5000, 1, "its last words: " + "y" * 300),
    ],
)
def test_what_no_rule_knows_is_infra_with_the_last_words(stderr: str, code: int, sentence: str) -> None:
    refusal = explain(stderr, code)
    assert refusal.whose is Whose.INFRA
    assert refusal.sentence.endswith(sentence)


def test_each_class_is_an_error_of_its_own() -> None:
    errors = [type(Refusal(whose, "a", "b").error) for whose in Whose]
    assert errors == [NothingRanError, UsageError, InfraError]
    assert str(Refusal(Whose.SKIP, "host has no SNP", "buy one").error) == "host has no SNP: buy one"
