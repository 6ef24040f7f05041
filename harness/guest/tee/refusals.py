# SPDX-License-Identifier: GPL-2.0-only
"""What QEMU said when it ended, as a sentence: whose matter it is, and what to do.

``tried`` marks the sentences that a QEMU has printed (10.0 and 11.1, on machines without SNP and TDX); the others were
read in QEMU's source, and no hardware has shown them yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from harness.guest.tee.linecheck import NEEDS
from harness.guest.tee.refusal import Refusal, Whose, infra, skip

_SNP_FIX: Final = (
    "SNP needs an EPYC 7003 or newer, SEV-SNP and its memory coverage switched on in the BIOS, the IOMMU on and not in "
    "passthrough (no iommu=pt), Linux 6.11 or newer with kvm_amd.sev_snp=1; the kernel's log says what is missing"
)
_TDX_FIX: Final = (
    "TDX needs a Xeon of the fifth generation or newer, TME-MT, SEAM loader and TDX switched on in the BIOS, a kernel "
    "with CONFIG_INTEL_TDX_HOST (Debian's has not), kvm_intel.tdx=1 and nohibernate; the kernel's log says what is "
    "missing"
)
_KVM_FIX: Final = "switch virtualisation on in the BIOS and load kvm_amd or kvm_intel"
_WORDS_KEPT: Final = 300


@dataclass(frozen=True)
class Rule:
    """One thing that QEMU says."""

    pattern: str
    """Regular expression, searched for in QEMU's standard error."""
    whose: Whose
    sentence: str
    """``{0}``, ``{1}``, ... are the groups of the pattern."""
    fix: str
    tried: bool = False


RULES: Final = (
    Rule(r"vm-type SEV-SNP not supported by KVM", Whose.SKIP, "host has no SNP", _SNP_FIX, True),
    Rule(r"vm-type TDX not supported by KVM", Whose.SKIP, "host has no TDX", _TDX_FIX, True),
    Rule(r"vm-type (\S+) not supported by KVM", Whose.SKIP, "host's KVM has no VMs of type {0}", "use another host"),
    Rule(
        r"cbitpos check failed, host '(\d+)' requested '(\d+)'",
        Whose.USAGE,
        "cbitpos is {0} on the host, and {1} was asked for",
        "leave cbitpos out: it is read from the host's CPUID",
    ),
    Rule(r"Failed to open (\S*sev\S*)", Whose.SKIP, "host has no {0}", "load the module ccp; " + _SNP_FIX),
    Rule(
        r"Could not access KVM kernel module: (?:No such file or directory|No such device)",
        Whose.SKIP,
        "host has no KVM",
        _KVM_FIX,
        True,
    ),
    Rule(
        r"Could not access KVM kernel module: (.+)",
        Whose.INFRA,
        "KVM cannot be used on the host: {0}",
        "run as root, or as a user in the group of /dev/kvm",
        True,
    ),
    Rule(
        r"(?:kvm version too old|failed to initialize kvm: (?!No such))(.*)",
        Whose.INFRA,
        "the host's /dev/kvm does not work{0}",
        "boot a small guest by hand with -accel kvm; another hypervisor may hold the CPU",
        True,
    ),
    Rule(
        r"guest firmware hashes table area is invalid \(base=(\w+) size=(\w+)\)",
        Whose.USAGE,
        "the firmware has no place for hashes of the kernel (base {0}, size {1})",
        "take Debian's OVMF.fd of 2026.08 or OVMF.amdsev.fd, or do without kernel hashes",
    ),
    Rule(
        r"kernel specified but guest firmware has no hashes table GUID",
        Whose.USAGE,
        "the firmware has no table of hashes of the kernel",
        "take Debian's OVMF.fd of 2026.08 or OVMF.amdsev.fd, or do without kernel hashes",
    ),
    Rule(
        r"KVM_SET_USER_MEMORY_REGION2? failed.*flags=0x2\b.*Invalid argument",
        Whose.USAGE,
        "KVM refuses read-only memory to a guest with private memory: the firmware was given as flash",
        "give it with -bios",
    ),
    Rule(
        r"could not load PC BIOS '([^']*)'",
        Whose.USAGE,
        "the firmware {0} is not there, or its size is no multiple of 64 KiB",
        "install Debian's package ovmf on the host, or name another image",
        True,
    ),
    Rule(
        r"(?:could not (?:open|load) kernel(?: file)? '([^']*)'|invalid kernel header)",
        Whose.USAGE,
        "the guest's kernel cannot be read",
        "name a bzImage that is on the host",
        True,
    ),
    Rule(
        r"cannot set up guest memory '(\w+)': Cannot allocate memory",
        Whose.INFRA,
        "the host has not enough memory for the guest's {0}",
        "give the guest less, or end other guests",
        True,
    ),
    Rule(
        r"(?:unable to map backing store for guest RAM|Insufficient free host memory pages).*",
        Whose.INFRA,
        "the host has not enough memory, or huge pages, for the guest's RAM",
        "give the guest less, or fill the pool of huge pages (nr_hugepages)",
        True,
    ),
    Rule(
        r"Named cpu model is not supported for TDX",
        Whose.USAGE,
        "TDX takes no named CPU model",
        "use -cpu host, with flags if need be",
    ),
    Rule(
        r"unsupported TD attribute bits",
        Whose.USAGE,
        "QEMU does not support those attributes of a TDX guest",
        "leave attributes out: debugging (bit 0) is not possible",
    ),
    Rule(
        r"unable to set guest cid: Address already in use",
        Whose.INFRA,
        "another guest of the host has this vsock CID",
        "end it, or choose another",
    ),
    Rule(
        r"Could not set up host forwarding rule '([^']*)'",
        Whose.INFRA,
        "a port of the host is taken: {0}",
        "end who has it, or choose another",
        True,
    ),
    Rule(
        r"Failed to (?:bind socket|unlink socket) ?(?:to )?([^:]*): (.*)",
        Whose.INFRA,
        "QEMU cannot make its socket {0}: {1}",
        "choose a folder that can be written",
        True,
    ),
    Rule(
        r"(?:Property '([^']+)' not found|Parameter '([^']+)' is (?:unexpected|missing)|Invalid parameter '([^']+)')",
        Whose.USAGE,
        "QEMU does not take the arguments: {line}",
        "correct the name; the check before a launch names the nearest one",
        True,
    ),
    Rule(
        r"(?:unsupported machine type|unable to find CPU model|is not a valid device model name|invalid option"
        r"|invalid accelerator|Parameter '[^']+' expects|does not accept value|requires KVM)",
        Whose.USAGE,
        "QEMU does not take the arguments: {line}",
        "correct the line; the check before a launch names the nearest name",
        True,
    ),
)


def explain(stderr: str, code: int) -> Refusal:
    """Why a QEMU ended, by its standard error and its exit status (negative: the signal).

    What no rule knows is of the infrastructure, with QEMU's last words.
    """
    missing = re.search(r"(?:Parameter 'qom-type' does not accept value|invalid object type:) '?([\w-]+)", stderr)
    if missing and missing[1] in NEEDS:
        return skip(f"the host's QEMU has no object {missing[1]}", NEEDS[missing[1]])
    if found := matching(stderr):
        rule, match = found
        line = _line_of(stderr, match.start())
        groups = [group or "" for group in match.groups()]
        return Refusal(rule.whose, rule.sentence.format(*groups, line=line), rule.fix)
    return _unknown(stderr, code)


def matching(stderr: str) -> tuple[Rule, re.Match[str]] | None:
    """The first rule that knows what QEMU said, and where it said so."""
    for rule in RULES:
        if match := re.search(rule.pattern, stderr):
            return rule, match
    return None


def _unknown(stderr: str, code: int) -> Refusal:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    words = f"its last words: {lines[-1][:_WORDS_KEPT]}" if lines else "it said nothing"
    signal = -code if code < 0 else code - 128 if code > 128 else 0
    if signal == 9:
        return infra(f"QEMU was killed; {words}", "look for the OOM killer in the host's kernel log")
    if signal:
        return infra(f"QEMU died of signal {signal}; {words}", "look for a core and in the host's kernel log")
    return infra(f"QEMU ended with status {code}; {words}", "read its log, and the host's kernel log")


def _line_of(text: str, at: int) -> str:
    """The line around a place, without the program's name."""
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    line = text[start : end if end >= 0 else len(text)].strip()
    return re.sub(r"^\S*qemu\S*: ", "", line)[:_WORDS_KEPT]
