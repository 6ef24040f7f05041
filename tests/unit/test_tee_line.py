# SPDX-License-Identifier: GPL-2.0-only
"""Command lines of guests on a host's own KVM, and what in their description cannot be."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.errors import NothingRanError, UsageError
from harness.guest.backing import BACKING_RECORDS, HUGETLB, SHMEM_THP
from harness.guest.tee.arguments import Argument, Keyed, keyed, machine_of, split_line
from harness.guest.tee.kinds import PLAIN, SNP, SW_PROTECTED, TDX, TEE_KINDS, TeeKind, tee_kind
from harness.guest.tee.line import TeeSpec, cbitpos_of, tee_command

SPEC = TeeSpec(
    name="g0",
    kind=SNP,
    folder="/run/g0",
    program="/usr/bin/qemu-system-x86_64",
    firmware="/usr/share/ovmf/OVMF.fd",
    kernel="/g/kernel",
    initrd="/g/image",
    cbitpos=51,
)


def values(spec: TeeSpec, option: str) -> list[str]:
    return [argument.value for argument in split_line(tee_command(spec)) if argument.option == option]


def test_snp() -> None:
    assert values(SPEC, "-machine") == ["q35,confidential-guest-support=cgs0,memory-backend=ram0,vmport=off,smm=off"]
    assert values(SPEC, "-object") == [
        "memory-backend-ram,id=ram0,size=2048M,share=off,prealloc=off",
        "sev-snp-guest,id=cgs0,reduced-phys-bits=1,policy=0x30000,cbitpos=51",
    ]
    assert values(SPEC, "-accel") == ["kvm"]
    assert values(SPEC, "-cpu") == ["EPYC-v4"]
    assert values(SPEC, "-bios") == ["/usr/share/ovmf/OVMF.fd"]
    assert "-no-reboot" in tee_command(SPEC)
    assert "-no-reboot" not in tee_command(replace(SPEC, survives_reset=True))


def test_fifos_in_place_of_sockets_and_files() -> None:
    """Nothing of a guest's ports grows the page cache of the host, and no name is too long for a FIFO."""
    spec = replace(SPEC, folder="/" + "x" * 200, ports="/run/t/g0")
    assert values(spec, "-chardev") == [
        "file,id=console,path=/run/t/g0.console",
        "pipe,id=monitor,path=/run/t/g0.qmp",
        "pipe,id=agent,path=/run/t/g0.agent",
    ]
    assert values(spec, "-D") == ["/run/t/g0.log"]


def test_tdx() -> None:
    spec = replace(SPEC, kind=TDX, cbitpos=None)
    assert values(spec, "-machine") == ["q35,confidential-guest-support=cgs0,memory-backend=ram0,hpet=off,smm=off"]
    assert values(spec, "-accel") == ["kvm,kernel-irqchip=split"]
    assert values(spec, "-cpu") == ["host"]
    assert values(spec, "-object")[1:] == ['{"qom-type":"tdx-guest","id":"cgs0"}']
    socket = '{"type":"vsock","cid":"2","port":"4050"}'
    given = replace(spec, properties=(("sept-ve-disable", "on"), ("quote-generation-socket", socket)))
    assert json.loads(values(given, "-object")[1]) == {
        "qom-type": "tdx-guest",
        "id": "cgs0",
        "sept-ve-disable": True,
        "quote-generation-socket": {"type": "vsock", "cid": "2", "port": "4050"},
    }


def test_plain_has_nothing_confidential() -> None:
    spec = replace(SPEC, kind=PLAIN, cbitpos=None, firmware="")
    line = tee_command(spec)
    assert not any("cgs0" in word or "guest-support" in word for word in line)
    assert "-bios" not in line
    # every QEMU can reset an ordinary guest
    assert "-no-reboot" not in line


@pytest.mark.parametrize("backing", sorted(BACKING_RECORDS))
def test_every_backing_is_the_machines_memory(backing: str) -> None:
    spec = replace(SPEC, backing=BACKING_RECORDS[backing], memory_mib=512, prealloc=True)
    assert values(spec, "-object")[0] == BACKING_RECORDS[backing].arguments(512, prealloc=True)


def test_kernel_hashes() -> None:
    assert values(replace(SPEC, kernel_hashes=True), "-object")[1].endswith("cbitpos=51,kernel-hashes=on")


def test_properties_of_a_description_win() -> None:
    assert "policy=0xb0000" in values(replace(SPEC, properties=(("policy", "0xb0000"),)), "-object")[1]


def test_a_comma_in_a_path_is_doubled() -> None:
    line = split_line(tee_command(replace(SPEC, folder="/run/a,b")))
    console = next(argument for argument in line if argument.value.startswith("file,"))
    assert "path=/run/a,,b/console.log" in console.value
    assert keyed(console, "backend") == Keyed("file", (("id", "console"), ("path", "/run/a,b/console.log")))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (replace(SPEC, cbitpos=None), "guest g0: SEV-SNP needs the host's cbitpos"),
        (replace(SPEC, cbitpos=0), "SEV-SNP needs the host's cbitpos"),
        (replace(SPEC, firmware=""), "kind snp needs a firmware with SEV metadata"),
        (replace(SPEC, kind=TDX, kernel_hashes=True), "kind tdx cannot measure its kernel"),
        (replace(SPEC, kind=PLAIN, properties=(("policy", "1"),)), "kind plain has no confidential object"),
        (replace(SPEC, memory_mib=0), "0 MiB and 1 vCPUs are no machine"),
        (replace(SPEC, vcpus=0), "2048 MiB and 0 vCPUs are no machine"),
        (replace(SPEC, backing=HUGETLB, memory_mib=129), "129 MiB are not whole huge pages"),
        (replace(SPEC, folder="/" + "x" * 99), "a name of more than 107 bytes"),
        (replace(SPEC, kind=TDX, properties=(("quote-generation-socket", "{"),)), "not JSON, though it begins so"),
        (replace(SPEC, kind=SW_PROTECTED), "no stock QEMU starts a software-protected VM"),
    ],
)
def test_what_cannot_be(spec: TeeSpec, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        tee_command(spec)


def test_an_odd_size_is_fine_without_a_pool() -> None:
    assert "size=129M" in values(replace(SPEC, backing=SHMEM_THP, memory_mib=129), "-object")[0]


def test_kinds_by_name() -> None:
    assert [tee_kind(name) for name in ("snp", "tdx", "plain")] == [SNP, TDX, PLAIN]
    with pytest.raises(UsageError, match="unknown kind of guest 'sev'; known: plain, snp, sw-protected, tdx"):
        tee_kind("sev")
    with pytest.raises(NothingRanError, match=r"no release has an object for it: run it on the emulated host"):
        tee_kind("sw-protected")


@pytest.mark.parametrize("kind", TEE_KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_is_told_by_each_of_its_marks(kind: TeeKind) -> None:
    others = [other for other in TEE_KINDS.values() if other is not kind]
    assert kind.vm_type not in [other.vm_type for other in others]
    if kind.confidential:
        assert kind.object_type not in [other.object_type for other in others]
        assert kind.cc_features not in [other.cc_features for other in others]


def test_cbitpos_is_the_low_six_bits_of_ebx() -> None:
    leaf = b"\xff" * 4 + (0x00004173).to_bytes(4, "little") + b"\xff" * 8
    assert cbitpos_of(leaf) == 51
    with pytest.raises(UsageError, match="16 bytes, not 4"):
        cbitpos_of(b"1234")


def test_a_line_is_taken_apart() -> None:
    line = split_line(["qemu", "-nodefaults", "--machine", "q35,smm=off", "-S", "-machine", "hpet=off"])
    assert line == [
        Argument("-nodefaults", ""),
        Argument("-machine", "q35,smm=off"),
        Argument("-S", ""),
        Argument("-machine", "hpet=off"),
    ]
    assert machine_of(line) == "q35"
    assert machine_of([Argument("-machine", "type=q35"), Argument("-M", "pc")]) == "pc"
    assert machine_of([]) == ""


@pytest.mark.parametrize(
    ("argument", "implied", "found"),
    [
        (Argument("-device", "virtserialport,chardev=a"), "driver", Keyed("virtserialport", (("chardev", "a"),))),
        (Argument("-device", "driver=e1000,id=a"), "driver", Keyed("e1000", (("id", "a"),))),
        (Argument("-object", '{"qom-type":"x","a":true,"b":[1]}'), "qom-type", Keyed("x", (("a", "on"), ("b", "[1]")))),
        (Argument("-chardev", "file,path=a,,b,mux"), "backend", Keyed("file", (("path", "a,b"), ("mux", "on")))),
    ],
)
def test_a_value_is_taken_apart(argument: Argument, implied: str, found: Keyed) -> None:
    assert keyed(argument, implied) == found


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["q", "x"], "the word 'x' where an option must be"), (["q", "-m"], "ends with -m, which needs a value")],
)
def test_a_line_that_is_none(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        split_line(words)
    with pytest.raises(UsageError, match="begins like JSON and is none"):
        keyed(Argument("-object", "{x"))
