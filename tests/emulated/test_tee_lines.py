# SPDX-License-Identifier: GPL-2.0-only
"""Generated command lines before real QEMUs: this machine's, and one of Debian's trixie-backports unpacked beside it.

No guest boots.  Where a line is refused, it must be for the hardware alone: without KVM for KVM, with KVM for the type
of VM.  On a machine that has SNP or TDX it is the guest's kernel that is refused, an empty file here; no such machine
has run this yet.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from harness.cache import ContentCache
from harness.errors import NothingRanError
from harness.guest.backing import BACKING_RECORDS
from harness.guest.qmp import QmpSession
from harness.guest.tee.arguments import split_line
from harness.guest.tee.candidates import Candidate, Place, choose_firmware
from harness.guest.tee.debian import UnpackedQemu, unpacked_qemu
from harness.guest.tee.facts import host_facts
from harness.guest.tee.firmware import FirmwareError, read_firmware
from harness.guest.tee.kinds import PLAIN, SNP, TDX, TeeKind
from harness.guest.tee.line import TeeSpec, tee_command
from harness.guest.tee.linecheck import check_line
from harness.guest.tee.plan import plan
from harness.guest.tee.proof import Standing, prove
from harness.guest.tee.refusal import Whose
from harness.guest.tee.refusals import explain, matching
from harness.guest.tee.schema import ask_schema, survives_reset
from harness.host.reach import LocalReach

SECONDS = 60.0
KVM_MESSAGES = ("vm-type", "Could not access KVM kernel module", "failed to initialize kvm")
"""What a QEMU may say of the hardware."""


@dataclass(frozen=True)
class Qemu:
    """One QEMU under test."""

    program: str
    data: tuple[str, ...]
    has_tdx: bool


@pytest.fixture(scope="session")
def unpacked() -> UnpackedQemu:
    """QEMU 11.1 or newer, and OVMF."""
    return unpacked_qemu(ContentCache())


@pytest.fixture(params=["installed", "unpacked"])
def qemu(request: pytest.FixtureRequest) -> Qemu:
    """Either QEMU."""
    if request.param == "installed":
        program = shutil.which("qemu-system-x86_64")
        assert program
        asked = subprocess.run([program, "-object", "help"], capture_output=True, text=True, check=True)
        return Qemu(program, (), "tdx-guest" in asked.stdout)
    tree: UnpackedQemu = request.getfixturevalue("unpacked")
    return Qemu(str(tree.program), tuple(tree.data), True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: sockets live in it."""
    with tempfile.TemporaryDirectory(prefix="gt-") as name:
        yield Path(name)


def spec_of(qemu: Qemu, kind: TeeKind, folder: Path, firmware: Path) -> TeeSpec:
    kernel = folder / "kernel"
    kernel.touch()
    return TeeSpec(
        name="g0",
        kind=kind,
        folder=str(folder),
        program=qemu.program,
        firmware=str(firmware),
        kernel=str(kernel),
        initrd=str(kernel),
        memory_mib=128,
        cbitpos=51,
        extra=qemu.data,
    )


def ended(command: list[str]) -> tuple[str, int]:
    """Standard error and status of a QEMU that must end by itself, for an empty kernel at the latest."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    return done.stderr, done.returncode


def for_the_hardware_alone(stderr: str) -> bool:
    """Whether a QEMU found no fault with a line but what the machine lacks, or got as far as the empty kernel."""
    return any(message in stderr for message in (*KVM_MESSAGES, "could not load kernel", "invalid kernel header"))


@pytest.mark.parametrize("kind", [SNP, TDX, PLAIN], ids=lambda kind: kind.name)
def test_every_argument_is_known_to_a_real_qemu(
    qemu: Qemu, kind: TeeKind, folder: Path, unpacked: UnpackedQemu
) -> None:
    spec = spec_of(qemu, kind, folder, unpacked.firmware)
    schema = ask_schema(LocalReach(), qemu.program, split_line(tee_command(spec)))
    for backing in BACKING_RECORDS.values():
        for hashes in (False, True) if kind.hashes_property else (False,):
            line = split_line(tee_command(replace(spec, backing=backing, kernel_hashes=hashes)))
            refusals = check_line(schema, line)
            if kind is TDX and not qemu.has_tdx:
                assert [refusal.whose for refusal in refusals] == [Whose.SKIP]
                assert "no object 'tdx-guest'" in refusals[0].sentence
                assert "trixie-backports" in refusals[0].fix
            else:
                assert refusals == []


@pytest.mark.parametrize(("kind", "lacks"), [(SNP, "host has no SNP"), (TDX, "host has no TDX")])
def test_a_line_is_refused_for_the_hardware_alone(
    qemu: Qemu, kind: TeeKind, lacks: str, folder: Path, unpacked: UnpackedQemu
) -> None:
    stderr, code = ended(tee_command(spec_of(qemu, kind, folder, unpacked.firmware)))
    refusal = explain(stderr, code)
    assert code
    if kind is TDX and not qemu.has_tdx:
        assert refusal.sentence == "the host's QEMU has no object tdx-guest"
        assert refusal.whose is Whose.SKIP
        return
    assert for_the_hardware_alone(stderr), stderr
    if "vm-type" in stderr:
        name = {"snp": "SEV-SNP", "tdx": "TDX"}[kind.name]
        assert stderr.strip().endswith(f": vm-type {name} not supported by KVM")
        assert (refusal.whose, refusal.sentence) == (Whose.SKIP, lacks)
        assert kind.name.upper() in refusal.fix
    else:
        assert refusal.sentence.startswith(
            ("host has no KVM", "KVM cannot be used", "the host's /dev/kvm does not work")
        )


def test_a_host_without_kvm_is_no_host_without_snp(qemu: Qemu, folder: Path, unpacked: UnpackedQemu) -> None:
    command = tee_command(spec_of(qemu, SNP, folder, unpacked.firmware))
    command[command.index("-accel") + 1] = "kvm,device=/dev/there-is-no-kvm"
    refusal = explain(*ended(command))
    assert (refusal.whose, refusal.sentence) == (Whose.SKIP, "host has no KVM")


@pytest.mark.parametrize(
    ("properties", "extra", "named", "nearest"),
    [
        ((("reduced-phys-bit", "1"),), (), "'reduced-phys-bit'", "reduced-phys-bits"),
        ((), ("-device", "virtio-blk-pc"), "'virtio-blk-pc'", "virtio-blk-pci"),
        ((), ("-machine", "hpt=off"), "'hpt'", "hpet"),
        ((), ("-bois", "x"), "'-bois'", "-bios"),
    ],
)
def test_a_typing_mistake_is_no_missing_hardware(
    qemu: Qemu,
    properties: tuple[tuple[str, str], ...],
    extra: tuple[str, ...],
    named: str,
    nearest: str,
    folder: Path,
    unpacked: UnpackedQemu,
) -> None:
    spec = spec_of(qemu, SNP, folder, unpacked.firmware)
    spec = replace(spec, properties=properties, extra=(*spec.extra, *extra))
    command = tee_command(spec)
    line = split_line(command)
    refusals = check_line(ask_schema(LocalReach(), qemu.program, line), line)
    assert [refusal.whose for refusal in refusals] == [Whose.USAGE]
    assert named in refusals[0].sentence
    assert nearest in refusals[0].fix
    if "-device" in extra:
        return  # QEMU makes devices only after KVM: it would say that there is no SNP
    said = explain(*ended(command))
    assert said.whose is Whose.USAGE


def test_qemu_only_warns_of_an_unknown_trace_event(qemu: Qemu, folder: Path, unpacked: UnpackedQemu) -> None:
    """Why the check before the launch is there: the line goes through, and the events would be missing."""
    spec = spec_of(qemu, SNP, folder, unpacked.firmware)
    spec = replace(spec, extra=(*spec.extra, "-trace", "enable=kvm_convert_memry"))
    command = tee_command(spec)
    line = split_line(command)
    [refusal] = check_line(ask_schema(LocalReach(), qemu.program, line), line)
    assert (refusal.whose, refusal.fix) == (Whose.USAGE, "is kvm_convert_memory meant?")
    stderr, _ = ended(command)
    assert "warning: trace event 'kvm_convert_memry' does not exist" in stderr
    assert for_the_hardware_alone(stderr)


def test_a_line_without_hardware_brings_a_machine_up(qemu: Qemu, folder: Path, unpacked: UnpackedQemu) -> None:
    """The whole line of a plain guest, with TCG in place of KVM: devices, sockets, console and log are there."""
    spec = replace(spec_of(qemu, PLAIN, folder, unpacked.firmware), kernel="", initrd="", append="")
    command = tee_command(spec)
    for option, value in (("-accel", "tcg"), ("-cpu", "max")):
        command[command.index(option) + 1] = value
    for option in ("-kernel", "-initrd", "-append"):
        at = command.index(option)
        del command[at : at + 2]
    with subprocess.Popen([*command, "-S"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            session = QmpSession("g0", spec.monitor, None, timeout=SECONDS, alive=lambda: process.poll() is None)
            assert session.execute("query-status")["status"] == "prelaunch"
            links = [str(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir()]
            facts = host_facts(session, links)
            session.close()
            with socket.socket(socket.AF_UNIX) as agent:
                agent.connect(spec.agent)
        finally:
            process.kill()
            _, stderr = process.communicate(timeout=SECONDS)
    assert Path(spec.console).exists(), stderr
    assert Path(spec.log).exists(), stderr
    assert (facts.object_type, facts.gmem_files) == ("", 0)
    assert facts.query_sev is None or facts.query_sev["enabled"] is False
    # the host's side of a plain guest; nothing has booted that could say the guest's
    assert prove(SNP, facts).sentence.startswith("a plain VM in place of a confidential one")
    assert prove(PLAIN, facts).standing is Standing.NOT_PROVABLE


def test_the_type_of_a_confidential_object_is_read(qemu: Qemu, folder: Path) -> None:
    """Without a machine QEMU makes the object, and asks no hardware."""
    words = [qemu.program, "-M", "none", "-nodefaults", "-display", "none", "-S"]
    words += ["-object", "sev-snp-guest,id=cgs0,reduced-phys-bits=1", "-qmp", f"unix:{folder}/q,server=on,wait=off"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as process:
        try:
            session = QmpSession("g0", f"{folder}/q", None, timeout=SECONDS, alive=lambda: process.poll() is None)
            assert session.execute("qom-get", {"path": "/objects/cgs0", "property": "type"}) == "sev-snp-guest"
            # every machine has the link, this one an empty one
            assert host_facts(session).object_type == ""
            session.close()
        finally:
            process.kill()


@pytest.mark.parametrize("kind", [TDX, PLAIN], ids=lambda kind: kind.name)
def test_a_launch_is_planned(qemu: Qemu, kind: TeeKind, folder: Path, unpacked: UnpackedQemu) -> None:
    wanted = replace(spec_of(qemu, kind, folder, unpacked.firmware), firmware="", cbitpos=None)
    planned = plan(LocalReach(), wanted, [Place("/there/is/none", ""), Place(str(unpacked.firmware), "ovmf")])
    assert planned.firmware.path == str(unpacked.firmware)
    assert planned.command == tuple(tee_command(planned.spec))
    skipped = kind is TDX and not qemu.has_tdx
    assert [refusal.whose for refusal in planned.refusals] == ([Whose.SKIP] if skipped else [])


def test_reset_is_probed(qemu: Qemu) -> None:
    schema = ask_schema(LocalReach(), qemu.program)
    assert survives_reset(schema, PLAIN)
    # both events came with the code that builds such a guest anew
    assert survives_reset(schema, SNP) == survives_reset(schema, TDX) == ("sev_handle_reset" in trace_events(qemu))


def trace_events(qemu: Qemu) -> set[str]:
    listed = subprocess.run([qemu.program, "-trace", "help"], capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def test_debians_ovmf_is_read(unpacked: UnpackedQemu) -> None:
    firmware = read_firmware(unpacked.firmware.read_bytes())
    assert firmware.sev
    assert firmware.tdx
    # the hash table has its entry, and nothing behind it, in 2025.02
    assert firmware.hash_table is not None
    place = Place(str(unpacked.firmware), "package ovmf")
    candidates = [Candidate(place, unpacked.firmware.read_bytes())]
    for kind in (SNP, TDX, PLAIN):
        assert choose_firmware(kind, candidates, wants_hashes=False).path == place.path
    if not firmware.hashes:
        with pytest.raises(NothingRanError, match=r"has no place for hashes of the kernel .*ovmf-generic"):
            choose_firmware(SNP, candidates, wants_hashes=True)


def test_a_part_of_debians_ovmf_is_none(unpacked: UnpackedQemu) -> None:
    folder = unpacked.root / "usr/share/OVMF"
    with pytest.raises(FirmwareError, match="no table of GUIDs"):
        read_firmware((folder / "OVMF_VARS_4M.fd").read_bytes())
    with pytest.raises(FirmwareError, match="behind its end"):
        read_firmware((folder / "OVMF_CODE_4M.fd").read_bytes())


SAID = [
    (("-accel", "kvm,device=/dev/null"), "the host's /dev/kvm does not work"),
    (("-bios", "/there/is/none"), "the firmware /there/is/none is not there"),
    (("-kernel", "/etc/os-release"), "the guest's kernel cannot be read"),
    (("-kernel", "/there/is/none"), "the guest's kernel cannot be read"),
    (("-object", "sev-snp-guest,id=c,cbitpos=51"), "QEMU does not take the arguments: -object"),
    (("-object", "sev-snp-guest,id=c,reduced-phys-bits=1,nonsense=1"), "QEMU does not take the arguments: -object"),
    (("-object", "sev-snp-guest,id=c,reduced-phys-bits=x"), "QEMU does not take the arguments: -object"),
    (("-machine", "q36"), "QEMU does not take the arguments: unsupported machine type"),
    (("-machine", "hpt=off"), "QEMU does not take the arguments: Property"),
    (("-cpu", "EPYK"), "QEMU does not take the arguments: unable to find CPU model"),
    (("-accel", "kvn"), "QEMU does not take the arguments: -accel kvn"),
    (("-qmp", "unix:/there/is/none,server=on,wait=off"), "QEMU cannot make its socket /there/is/none"),
    # more than a process has addresses for
    (("-object", "memory-backend-ram,id=r,size=200T"), "the host has not enough memory for the guest's r"),
]


@pytest.mark.parametrize(("arguments", "sentence"), SAID, ids=[" ".join(words)[:40] for words, _ in SAID])
def test_what_qemu_really_says_has_its_sentence(qemu: Qemu, arguments: tuple[str, ...], sentence: str) -> None:
    accel = () if "-accel" in arguments else ("-accel", "tcg")
    machine = () if "-machine" in arguments[:1] and "q36" in arguments else ("-machine", "q35")
    words = [qemu.program, "-nodefaults", "-display", "none", *accel, *machine, *qemu.data, *arguments]
    stderr, code = ended(words)
    assert code
    assert explain(stderr, code).sentence.startswith(sentence), stderr
    found = matching(stderr)
    assert found
    assert found[0].tried
