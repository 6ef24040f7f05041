# SPDX-License-Identifier: GPL-2.0-only
"""The check of a line against what a QEMU says of itself, on a small QEMU made up here; real ones are asked in
``tests/emulated/test_tee_lines.py``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import InfraError
from harness.guest.tee.arguments import split_line
from harness.guest.tee.kinds import SNP, TDX
from harness.guest.tee.linecheck import check_line
from harness.guest.tee.refusal import Whose
from harness.guest.tee.schema import QemuSchema, Value, ask_schema, machine_type, survives_reset
from tests.fake.qemu_answers import MadeUp


def ask(*words: str) -> tuple[QemuSchema, list[tuple[Whose, str, str]]]:
    line = split_line(["qemu", *words])
    schema = ask_schema(MadeUp(), "qemu", line)  # type: ignore[arg-type]
    return schema, [(found.whose, found.sentence, found.fix) for found in check_line(schema, line)]


@pytest.mark.parametrize(
    "words",
    [
        ("-machine", "q35,smm=off,max-fw-size=16M", "-M", "hpet=on,kernel_irqchip=split"),
        ("-object", "sev-snp-guest,id=a,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on,mode=fast,parts.0=1"),
        ("-object", '{"qom-type":"sev-snp-guest","id":"a","reduced-phys-bits":1,"kernel-hashes":true,"parts":[1]}'),
        ("-accel", "kvm,kernel-irqchip=split,dirty-ring-size=4096"),
        ("-cpu", "host,-pmu"),
        ("-device", "virtio-net-pci,id=a,bus=b,netdev=n"),
        ("-netdev", "user"),
        ("-chardev", "file,id=a,path=b"),
        ("-smp", "2,cores=2"),
        ("-trace", "enable=kvm_convert_memory", "-trace", "enable=kvm_*"),
        ("-trace", "events=/a/file"),
    ],
)
def test_what_a_qemu_knows_passes(words: tuple[str, ...]) -> None:
    assert ask(*words)[1] == []


@pytest.mark.parametrize(
    ("words", "sentence", "fix"),
    [
        (("-machin", "q35"), "QEMU 12.0.1 has no option '-machin' (-machin q35)", "is -machine meant?"),
        (("-machine", "q53"), "has no machine 'q53'", "is q35 meant?"),
        (("-machine", "q35,hpt=off"), "has no property of q35 'hpt'", "is hpet meant?"),
        (("-machine", "q35", "-M", "smn=off"), "has no property of q35 'smn' (-M smn=off)", "is smm meant?"),
        (("-machine", "q35,hpet=maybe"), "-machine gives q35 hpet=maybe", "hpet takes on or off"),
        (("-object", "sev-snp-gest,id=a"), "has no object 'sev-snp-gest'", "is sev-snp-guest meant?"),
        (("-object", "tdx-gest,id=a"), "has no object 'tdx-gest'", "is tdx-guest meant?"),
        (("-object", "sev-snp-guest,id=a,reduced-phys-bits=1,polcy=1"), "'polcy'", "is policy meant?"),
        (
            ("-object", "sev-snp-guest,id=a,reduced-phys-bits=1,convert-in-plac=on"),
            "'convert-in-plac'",
            "in-place meant?",
        ),
        (("-object", "sev-snp-guest,id=a"), "makes a sev-snp-guest without reduced-phys-bits", "must have it"),
        (("-object", "sev-snp-guest,id=a,reduced-phys-bits=one"), "reduced-phys-bits=one", "takes a number"),
        (("-object", "sev-snp-guest,id=a,reduced-phys-bits=1,mode=slw"), "mode=slw", "takes one of fast, slow"),
        (("-accel", "kvn"), "has no accelerator 'kvn'", "is kvm meant?"),
        (("-accel", "kvm,dirty-ring-size=x"), "dirty-ring-size=x", "takes a number"),
        (("-cpu", "EPYC-v5"), "has no CPU 'EPYC-v5'", "is EPYC-v4 meant?"),
        (("-cpu", "host,+pmx"), "has no property of host 'pmx'", "is pmu meant?"),
        (("-device", "virtio-net-pc"), "has no device 'virtio-net-pc'", "is virtio-net-pci meant?"),
        (("-device", "virtio-net-pci,netdv=n"), "'netdv'", "is netdev meant?"),
        (("-netdev", "usr"), "has no network backend 'usr'", "is user meant?"),
        (("-chardev", "fil,path=a"), "has no character device 'fil'", "is file meant?"),
        (("-chardev", "file,pth=a"), "'pth'", "is path meant?"),
        (("-smp", "2,core=1"), "'core'", "is cores meant?"),
        (("-trace", "enable=kvm_convrt_memory"), "has no trace event", "is kvm_convert_memory meant?"),
        (("-trace", "enable=zzz"), "has no trace event 'zzz'", "correct it, or leave it out"),
    ],
)
def test_a_typing_mistake_names_the_nearest(words: tuple[str, ...], sentence: str, fix: str) -> None:
    [(whose, said, advice)] = ask(*words)[1]
    assert whose is Whose.USAGE
    assert sentence in said
    assert fix in advice


@pytest.mark.parametrize(
    ("words", "sentence", "fix"),
    [
        (("-object", "tdx-guest,id=a"), "QEMU 12.0.1 has no object 'tdx-guest'", "trixie-backports"),
        (
            ("-object", "sev-snp-guest,id=a,reduced-phys-bits=1,convert-in-place=on"),
            "convert-in-place",
            "only branches",
        ),
        (("-trace", "enable=kvm_memory_fault"), "has no trace event 'kvm_memory_fault'", "since 9.1"),
    ],
)
def test_what_other_qemus_have_is_a_skip(words: tuple[str, ...], sentence: str, fix: str) -> None:
    [(whose, said, advice)] = ask(*words)[1]
    assert whose is Whose.SKIP
    assert sentence in said
    assert fix in advice


def test_everything_is_named_and_not_only_the_first() -> None:
    found = ask("-machine", "q35,hpt=on", "-accel", "kvn", "-object", "tdx-guest,id=a")[1]
    assert [whose for whose, _, _ in found] == [Whose.USAGE, Whose.USAGE, Whose.SKIP]


def test_reset_is_read_from_the_events_and_not_from_the_version() -> None:
    schema, _ = ask()
    assert survives_reset(schema, SNP)
    assert not survives_reset(schema, TDX)
    assert not survives_reset(replace(schema, events={}), SNP)


def test_the_type_of_a_machine() -> None:
    schema, _ = ask()
    assert [machine_type(schema, name) for name in ("q35", "pc-q35-12.0", "x")] == ["pc-q35-12.0-machine"] * 2 + [""]
    assert schema.objects["iothread"] == {
        "qom-type": schema.objects["iothread"]["qom-type"],
        "id": Value("string", (), True),
    }


def test_a_qemu_that_is_not_there() -> None:
    with pytest.raises(InfraError, match="lab has no /usr/bin/qemu: install QEMU there"):
        ask_schema(MadeUp(code=127), "/usr/bin/qemu")  # type: ignore[arg-type]


def test_a_qemu_that_does_not_answer() -> None:
    with pytest.raises(InfraError, match="qemu on lab does not answer query-machines"):
        ask_schema(MadeUp(drop="query-machines"), "qemu")  # type: ignore[arg-type]
