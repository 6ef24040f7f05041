# SPDX-License-Identifier: GPL-2.0-only
"""Whether a guest that came up is of the kind that was asked for, judged from both of its sides.

A test that runs an ordinary VM in place of a confidential one passes, and says nothing.  So a kind counts as proven
only when QEMU on the host and the kernel in the guest both say so, and nothing speaks against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from harness.guest.tee.kinds import PLAIN, SNP, TDX, TeeKind

SEV_VMPL = "/sys/devices/system/cpu/sev/vmpl"
"""There in SNP guests only (arch/x86/coco/sev, sev_sysfs_init)."""


class Standing(Enum):
    """How far a kind is proven."""

    PROVEN = "proven"
    CONTRADICTED = "contradicted"
    NOT_PROVABLE = "not provable"


@dataclass(frozen=True)
class Facts:
    """What was recorded of one guest; None for what could not be read."""

    object_type: str | None = None
    """On the host: QOM type of the machine's confidential-guest-support link, '' when the link is empty."""
    query_sev: Mapping[str, object] | None = None
    """On the host: answer of ``query-sev``."""
    vm_type: int | None = None
    """On the host: what QEMU gave to KVM_CREATE_VM, where it was traced."""
    gmem_files: int | None = None
    """On the host: open files of QEMU that are a guest_memfd (links of /proc/PID/fd with ``[kvm-gmem]``)."""
    features: str | None = None
    """In the guest: what follows "Memory Encryption Features active: " in the kernel's log; '' when it is not there."""
    cpu_flags: frozenset[str] | None = None
    """In the guest: flags of /proc/cpuinfo."""
    vmpl: bool | None = None
    """In the guest: whether there is ``SEV_VMPL``."""


@dataclass(frozen=True)
class Proof:
    """What the facts say."""

    standing: Standing
    sentence: str
    evidence: tuple[str, ...]
    """For and against, for a report."""


@dataclass(frozen=True)
class Word:
    """What one fact says."""

    side: str
    """``host`` or ``guest``."""
    text: str
    fits: frozenset[str]
    """The kinds that it fits, by name."""


_KINDS = {kind.name: kind for kind in (SNP, TDX, PLAIN)}
_ALL = frozenset(_KINDS)
_CONFIDENTIAL = frozenset({SNP.name, TDX.name})


def prove(kind: TeeKind, facts: Facts) -> Proof:
    """Judge a guest by what was recorded of it.

    Proven: on either side a fact fits this kind and no other, and every fact fits it.

    >>> prove(TDX, Facts(object_type="", features="")).sentence
    'a plain VM in place of a confidential one: asked for was a TDX guest'
    """
    words = [*_host_words(facts), *_guest_words(facts)]
    evidence = tuple(f"{word.side}: {word.text}" for word in words)
    if any(kind.name not in word.fits for word in words):
        return Proof(Standing.CONTRADICTED, _contradiction(kind, words), evidence)
    shown = {word.side for word in words if word.fits == {kind.name}}
    missing = [side for side in ("host", "guest") if side not in shown]
    if missing:
        lack = "neither the host nor the guest was" if len(missing) == 2 else f"the {missing[0]} was not"
        sentence = f"not provable to be a {kind.says}: {lack} seen to say so"
        return Proof(Standing.NOT_PROVABLE, sentence, evidence)
    return Proof(Standing.PROVEN, f"proven to be a {kind.says}, by the host and by the guest", evidence)


def _where(condition: Callable[[TeeKind], bool]) -> frozenset[str]:
    return frozenset(name for name, kind in _KINDS.items() if condition(kind))


def _host_words(facts: Facts) -> list[Word]:
    words = []
    if (object_type := facts.object_type) is not None:
        text = f"QEMU's confidential object is {object_type or 'none'}"
        words.append(Word("host", text, _where(lambda kind: kind.object_type == object_type)))
    if facts.query_sev is not None:
        sort = str(facts.query_sev.get("sev-type")) if facts.query_sev.get("enabled") is True else ""
        # a guest of SEV or SEV-ES has no private memory of guest_memfd: none of ours
        fits = frozenset({SNP.name}) if sort == "sev-snp" else frozenset() if sort else _ALL - {SNP.name}
        words.append(Word("host", f"query-sev says {sort or 'no SEV'}", fits))
    if (vm_type := facts.vm_type) is not None:
        fits = _where(lambda kind: kind.vm_type == vm_type)
        words.append(Word("host", f"KVM was asked for a VM of type {vm_type}", fits))
    if facts.gmem_files is not None:
        fits = _CONFIDENTIAL if facts.gmem_files else _ALL - _CONFIDENTIAL
        words.append(Word("host", f"QEMU has {facts.gmem_files} guest_memfd open", fits))
    return words


def _guest_words(facts: Facts) -> list[Word]:
    words = []
    if (features := facts.features) is not None:
        fits = _where(lambda kind: kind.cc_features == features)
        words.append(Word("guest", f"its kernel says of memory encryption: {features or 'nothing'}", fits))
    if facts.cpu_flags:
        there = "tdx_guest" in facts.cpu_flags
        fits = frozenset({TDX.name}) if there else _ALL - {TDX.name}
        words.append(Word("guest", f"its CPU {'has' if there else 'lacks'} the flag tdx_guest", fits))
    if facts.vmpl:  # a kernel older than the file lacks it in every guest: only that it is there says something
        words.append(Word("guest", "its kernel has a VMPL", frozenset({SNP.name})))
    return words


def _contradiction(kind: TeeKind, words: Sequence[Word]) -> str:
    """What came up instead: the kind that every fact fits, if there is one."""
    instead = sorted(_ALL.intersection(*(word.fits for word in words)))
    if kind.confidential and instead == [PLAIN.name]:
        return f"a plain VM in place of a confidential one: asked for was a {kind.says}"
    if not kind.confidential and instead:
        return f"a confidential VM in place of a plain one: {_KINDS[instead[0]].says}"
    if instead:
        return f"a {_KINDS[instead[0]].says} in place of a {kind.says}"
    against = "; ".join(f"{word.side}: {word.text}" for word in words if kind.name not in word.fits)
    return f"host and guest do not agree on a {kind.says}: {against}"
