# SPDX-License-Identifier: GPL-2.0-only
"""What the agent and the control program ask, and their refusal of replies that make no sense."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from harness.errors import InfraError, UsageError
from harness.guest.agent import BadPage, ConversionRefused, GuestAgent, GuestError, Verified
from harness.guest.conversions import Conversion
from harness.guest.launch import (
    SNP_STAND_IN,
    SW_PROTECTED_DIRECT,
    TDX_STAND_IN,
    GuestSpec,
    LaunchRecord,
    guest_command,
    launch_on,
    launch_record,
)
from harness.host.emulated.control import Control, Finished
from harness.host.frames import FrameChannel, Reply, parse_fields

RAM = 128 << 20


class Peer:
    """Answers every request with the same line; keeps what was asked."""

    def __init__(self, reply: str, blob: bytes = b"") -> None:
        self.asked: list[str] = []
        self.blobs: list[bytes] = []
        self._reply = Reply(parse_fields(reply), blob)

    def request(self, line: str, blob: bytes = b"", *, timeout: float) -> Reply:
        assert timeout > 0
        self.asked.append(line)
        self.blobs.append(blob)
        return self._reply


def agent(reply: str) -> tuple[GuestAgent, Peer]:
    peer = Peer(reply)
    return GuestAgent("g3", cast(FrameChannel, peer)), peer


def control(reply: str, blob: bytes = b"") -> tuple[Control, Peer]:
    peer = Peer(reply, blob)
    return Control("the emulated host", cast(FrameChannel, peer)), peer


class TestRequests:
    def test_convert(self) -> None:
        guest, peer = agent("calls=0x2c00000:512,0x3000000:7")
        calls = guest.convert(0, 5, 519, private=True, timeout=1)
        assert calls == [Conversion(0x2C00000, 512, True), Conversion(0x3000000, 7, True)]
        assert peer.asked == ["gmem convert region=0 start=5 count=519 to=private by=512"]

    def test_a_refused_conversion_is_told_with_those_before_it(self) -> None:
        guest, _ = agent("calls=0x1000:1,0x2000:1 refused=-11")
        with pytest.raises(ConversionRefused, match=r"0x2000\+1 pages to private is refused: EAGAIN") as caught:
            guest.convert(0, 1, 3, private=True, timeout=1, by=1)
        assert caught.value.made == (Conversion(0x1000, 1, True), Conversion(0x2000, 1, True))
        assert caught.value.ret == -11

    def test_touch(self) -> None:
        guest, peer = agent("touched=9 sum=0")
        assert guest.touch(1, 0, 18, stride=2, write=False, gen=4, timeout=1) == 9
        assert peer.asked == ["gmem touch region=1 start=0 count=18 stride=2 write=0 gen=4"]

    def test_verify(self) -> None:
        guest, peer = agent("bad=7@0=zero,9@511=guest:1/region:0/gen:2/page:7/word:0 pages=512 wrong=2")
        assert guest.verify(0, 0, 512, gen=2, timeout=1) == Verified(
            512, 2, (BadPage(7, 0, "zero"), BadPage(9, 511, "guest:1/region:0/gen:2/page:7/word:0"))
        )
        guest.verify(0, 0, 512, gen=None, timeout=1)
        assert peer.asked == [
            "gmem verify region=0 start=0 count=512 expect=pattern gen=2",
            "gmem verify region=0 start=0 count=512 expect=zero",
        ]

    def test_nothing_wrong(self) -> None:
        assert agent("bad=- pages=512 wrong=0")[0].verify(0, 0, 512, gen=1, timeout=1) == Verified(512, 0, ())

    def test_where_and_the_rest(self) -> None:
        assert where(agent("region=0 gpa=0x3000000,0x2c00000")[0], 2) == (0x3000000, 0x2C00000)
        assert where(agent("region=0 gpa=0x0,0x7e00000")[0], 2) == (0, RAM - (2 << 20))
        assert agent("pages=31000 sum=0")[0].warm() == 31000
        assert agent("tag=3 how=hypercall")[0].info() == {"tag": "3", "how": "hypercall"}
        agent("nonce=5")[0].hello(5)


def convert(guest: GuestAgent) -> object:
    return guest.convert(0, 0, 1, private=True, timeout=1)


def touch(guest: GuestAgent) -> object:
    return guest.touch(0, 0, 1, stride=1, write=True, gen=1, timeout=1)


def verify(guest: GuestAgent) -> object:
    return guest.verify(0, 0, 1, gen=1, timeout=1)


def where(guest: GuestAgent, chunks: int = 1) -> object:
    return guest.where(0, chunks=chunks, memory_bytes=RAM)


def where_two(guest: GuestAgent) -> object:
    return where(guest, 2)


def hello(guest: GuestAgent) -> object:
    return guest.hello(5)


def warm(guest: GuestAgent) -> object:
    return guest.warm()


NONSENSE: tuple[tuple[Callable[[GuestAgent], object], str, str], ...] = (
    (hello, "nonce=4", "answered to another hello"),
    (hello, "", "answered to another hello"),
    (where, "region=0", "does not say where region 0 lies"),
    (where_two, "gpa=0x2c00000,", "does not say where region 0 lies"),
    (where, "gpa=zero", "does not say where region 0 lies"),
    (where, "gpa=0x2c01000", "the chunk at 0x2c01000 is not 2 MiB aligned"),
    (where, "gpa=-0x200000", "the chunk at -0x200000 lies outside its RAM"),
    (where, "gpa=0x8000000", "the chunk at 0x8000000 lies outside its RAM of 134217728 bytes"),
    (where, "gpa=0xfffffffffffe00000", "lies outside its RAM"),
    (where, "gpa=0x2c00000,0x3000000", "2 chunks where 1 were allocated"),
    (where_two, "gpa=0x2c00000", "1 chunks where 2 were allocated"),
    (where_two, "gpa=0x2c00000,0x2c00000", "the chunks at 0x2c00000 and 0x2c00000 overlap"),
    (where_two, "gpa=0x2d00000,0x2c00000", "the chunks at 0x2c00000 and 0x2d00000 overlap"),
    (convert, "", "lists a call that makes no sense: ''"),
    (convert, "calls=0x1000:1 refused=no", "refused with 'no', which is no negative errno"),
    (convert, "calls=0x1000:1 refused=11", "refused with '11', which is no negative errno"),
    (convert, "calls=0x2c00000", "lists a call that makes no sense: '0x2c00000'"),
    (convert, "calls=0x2c00000:1,", "lists a call that makes no sense: ''"),
    (convert, "calls=here:1", "lists a call that makes no sense: 'here:1'"),
    (convert, "calls=0x2c00000:0", "lists a call that makes no sense: '0x2c00000:0'"),
    (convert, "calls=0x2c00000:-1", "lists a call that makes no sense"),
    (convert, "calls=0x2c00001:1", "lists a call that makes no sense"),
    (convert, "calls=-0x1000:1", "lists a call that makes no sense"),
    (touch, "", "the reply has no number touched"),
    (touch, "touched=many", "the reply has no number touched"),
    (verify, "bad=-", "the reply has no number pages"),
    (verify, "bad=- pages=1", "the reply has no number wrong"),
    (verify, "bad=x@0=zero pages=1 wrong=1", "names a wrong page that makes no sense: 'x@0=zero'"),
    (verify, "bad=7 pages=1 wrong=1", "names a wrong page that makes no sense: '7'"),
    (warm, "", "the reply has no number pages"),
)


@pytest.mark.parametrize(("ask", "reply", "sentence"), NONSENSE)
def test_a_reply_that_makes_no_sense(ask: Callable[[GuestAgent], object], reply: str, sentence: str) -> None:
    with pytest.raises(GuestError) as caught:
        ask(agent(reply)[0])
    assert str(caught.value).startswith("g3: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


class TestControl:
    def test_requests(self) -> None:
        program, peer = control("code=3", b"out\xff\n")
        assert program.run(["echo", ""], 2.5) == Finished(3, "out\ufffd\n")
        assert (peer.asked, peer.blobs) == (["run ms=2500"], [b"\0echo\0\0"])
        program, peer = control("pid=77")
        assert program.spawn(["qemu"], {"B": "2", "A": "1"}, "/run/log") == 77
        assert (peer.asked, peer.blobs) == (["spawn log=/run/log"], [b"A=1\0B=2\0\0qemu\0"])
        program, peer = control("")
        program.put("/etc/key", b"k", 0o600)
        program.signal(77, 9)
        assert peer.asked == ["put path=/etc/key mode=600", "signal pid=77 sig=9"]

    @pytest.mark.parametrize(
        ("reply", "state"),
        [
            ("state=running", "running"),
            ("state=exited code=3", "exited with status 3"),
            ("state=killed signal=9", "killed by signal 9"),
        ],
    )
    def test_states(self, reply: str, state: str) -> None:
        assert control(reply)[0].status(77) == state

    @pytest.mark.parametrize(
        ("ask", "reply", "key"),
        [
            (lambda c: c.run(["true"]), "", "code"),
            (lambda c: c.run(["true"]), "code=none", "code"),
            (lambda c: c.check(["true"]), "", "code"),
            (lambda c: c.spawn(["true"], {}, "/log"), "", "pid"),
            (lambda c: c.status(7), "", "state"),
            (lambda c: c.status(7), "state=dancing", "state"),
            (lambda c: c.status(7), "state=exited", "code"),
            (lambda c: c.status(7), "state=killed signal=x", "signal"),
            (lambda c: c.cpuid(0), "eax=1 ebx=2 ecx=3", "edx"),
        ],
    )
    def test_a_reply_that_makes_no_sense(self, ask: Callable[[Control], object], reply: str, key: str) -> None:
        with pytest.raises(InfraError, match=rf"^the emulated host: the reply of gmem-control has no {key} that makes"):
            ask(control(reply)[0])

    def test_another_hello(self) -> None:
        with pytest.raises(InfraError, match="another hello"):
            control("nonce=1")[0].hello(2)

    def test_a_failed_command_that_printed_nothing(self) -> None:
        with pytest.raises(InfraError, match=r"^the emulated host: rm -r ended with status 1: it printed nothing$"):
            control("code=1")[0].check(["rm", "-r"])


class TestLaunch:
    def test_unknown(self) -> None:
        known = "snp-stand-in, sw-protected-direct, tdx-stand-in"
        with pytest.raises(UsageError, match=rf"unknown launch 'tdx'; known: {known}"):
            launch_record("tdx")

    def test_only_stand_ins_have_a_confidential_object(self) -> None:
        objects = {
            "snp-stand-in": "sev-snp-guest,id=cgs0,cbitpos=51,reduced-phys-bits=1,policy=0x30000",
            "tdx-stand-in": "tdx-guest,id=cgs0",
        }
        for record in (SNP_STAND_IN, TDX_STAND_IN, SW_PROTECTED_DIRECT):
            arguments, environment = guest_command(GuestSpec(1, launch=record), cbitpos=51)
            own = objects.get(record.name)
            assert [word for word in arguments if "-guest,id=" in word] == ([own] if own else [])
            assert record.confidential == (own is not None)
            assert environment == {"GMEM_RAM_BYTES": str(128 << 20), "LD_PRELOAD": f"/gmem/{record.preload[0]}"}
            assert "memory-backend-ram,id=ram0,size=128M,share=off,prealloc=on" in arguments
            [network] = [word for word in arguments if word.startswith("user,")]
            assert "restrict=on" in network.split(",")
            assert "hostfwd=tcp:127.0.0.1:2201-:22" in network.split(",")

    @pytest.mark.parametrize("value", ["N", "0", None])
    def test_a_kernel_that_discards_gets_the_guest_as_it_is(self, value: str | None) -> None:
        facts = {} if value is None else {"kvm.gmem_in_place_conversion": value}
        assert launch_on(SNP_STAND_IN, facts) is SNP_STAND_IN

    def test_a_td_gets_what_qemu_asks_of_its_line(self) -> None:
        """target/i386/kvm/tdx.c: no named CPU model, a split irqchip, no PIC; and a QEMU that has the object."""
        arguments, _ = guest_command(GuestSpec(1, launch=TDX_STAND_IN), cbitpos=51)
        assert arguments[0] == "/gmem/qemu/qemu-system-x86_64"
        assert arguments[arguments.index("-cpu") + 1] == "host"
        assert arguments[arguments.index("-accel") + 1] == "kvm,kernel-irqchip=split"
        assert "pic=off" in arguments[arguments.index("-machine") + 1].split(",")

    @pytest.mark.parametrize("record", [SNP_STAND_IN, TDX_STAND_IN, SW_PROTECTED_DIRECT])
    def test_a_kernel_that_converts_in_place_gets_the_translation_behind_the_interposer(
        self, record: LaunchRecord
    ) -> None:
        used = launch_on(record, {"kvm.gmem_in_place_conversion": "Y"})
        arguments, environment = guest_command(GuestSpec(1, launch=used), cbitpos=51)
        assert environment["LD_PRELOAD"] == f"/gmem/{record.preload[0]}:/gmem/inplace.so"
        assert "memory-backend-ram,id=ram0,size=128M,share=off,prealloc=off" in arguments  # it would be mapped over
        assert (used.name, used.in_place) == (f"{record.name}-inplace", True)
        assert used.kind_text.startswith("sw-protected (")
        assert used.traces_conversions == record.traces_conversions

    def test_guests_share_no_port(self) -> None:
        one, two = (guest_command(GuestSpec(number), cbitpos=51)[0] for number in (0, 1))
        ports = [{word for word in arguments if "gmem.g" in word or "hostfwd" in word} for arguments in (one, two)]
        assert len(ports[0]) == len(ports[1]) == 5
        assert not ports[0] & ports[1]


def test_the_guests_qemu_polls_so_few_files_that_polling_allocates_nothing() -> None:
    """On 6.12 each poll of its 72 eventfds moved pgalloc and pgfree by two pages, dozens of times in a second."""
    for record in (SNP_STAND_IN, TDX_STAND_IN, SW_PROTECTED_DIRECT):
        arguments, _ = guest_command(GuestSpec(0, record), cbitpos=51)
        assert "virtio-mmio.ioeventfd=off" in arguments
        assert "virtio-serial-device,max_ports=2" in arguments
