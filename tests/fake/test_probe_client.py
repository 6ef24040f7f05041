# SPDX-License-Identifier: GPL-2.0-only
"""ProbeClient against a fake that answers what it is told: strange answers are the probe's fault, in one sentence."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from harness.counters.sections import encode_sections
from harness.errors import InfraError
from harness.host.frames import HEADER, ChannelTimeout, FrameChannel, encode_frame
from harness.host.probe import Census, FrameRun, ProbeClient, ProbeError

SECTIONS = {
    "vmstat": "nr_file_pages 7\n",
    "gmem/4711": "resident=12 size=4096\n",
    "kvm/4711-12/pages_4k": "13\n",
    "time": "start=1 end=3 steady=0\n",
}


@contextmanager
def probe_answering(reply: Callable[[str], bytes | None]) -> Iterator[ProbeClient]:
    """A client of a fake that answers each request line with the payload ``reply`` gives; None: no answer."""
    mine, theirs = socket.socketpair()

    def serve() -> None:
        stream = theirs.makefile("rb")
        while head := stream.read(HEADER.size):
            _, request_id, length, _ = HEADER.unpack(head)
            payload = reply(stream.read(length).decode())
            if payload is not None:
                theirs.sendall(encode_frame(request_id, payload))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    fd = mine.detach()
    with FrameChannel(fd, fd) as channel:
        yield ProbeClient(channel)
    thread.join(10)
    theirs.close()


def always(payload: bytes | None) -> Callable[[str], bytes | None]:
    return lambda line: payload


def test_a_sample_names_its_guests() -> None:
    with probe_answering(always(b"ok slot=0\n" + encode_sections(SECTIONS))) as probe:
        sample = probe.fetch(0, {4711: "g0"})
    assert sample.values == {"gmem/g0": 12, "kvm/g0/pages_4k": 13, "nr_file_pages": 7}
    assert (sample.time_ns, sample.duration_ns, sample.steady) == (1, 2, False)


@pytest.mark.parametrize(
    ("blob", "problem"),
    [
        (encode_sections(SECTIONS)[:-20], "does not end at byte"),
        (encode_sections(SECTIONS).replace(b"resident=12", b"resident=13"), "checksum is wrong"),
        (encode_sections(SECTIONS)[30:], "no section begins at byte 0"),
        (b"", "no section begins at byte 0 of 0"),
        (encode_sections({**SECTIONS, "vmstat": "nr_file_pages seven\n"}), "vmstat, line 1: expected a number"),
    ],
)
def test_a_damaged_sample_is_refused(blob: bytes, problem: str) -> None:
    with probe_answering(always(b"ok slot=0\n" + blob)) as probe, pytest.raises(ProbeError, match=problem):
        probe.fetch(0)


def test_a_probe_that_never_answers_ends_at_the_deadline() -> None:
    with probe_answering(always(None)) as probe, pytest.raises(ProbeError, match=r"within 0\.1 s") as caught:
        probe.sample(0, timeout=0.1)
    assert isinstance(caught.value.__cause__, ChannelTimeout)
    assert isinstance(caught.value, InfraError)
    assert caught.value.code == ""


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"ok nonce=%s program=gmem-agent version=1", "something else than gmem-probe"),
        (b"ok nonce=1%s program=gmem-probe version=1", "something else than gmem-probe"),
        (b"ok nonce=%s program=gmem-probe version=9", "speaks version 9"),
        (b"ok nonce=%s program=gmem-probe version=1 pid=x locked=1 files=1", "has no number 'pid'"),
        (b"err code=unknown text=no such verb", "no such verb"),
    ],
)
def test_a_stranger_on_the_channel_is_told_from_the_probe(payload: bytes, problem: str) -> None:
    def reply(line: str) -> bytes:
        return payload.replace(b"%s", line.partition("nonce=")[2].encode())

    with probe_answering(reply) as probe, pytest.raises(ProbeError, match=problem):
        probe.hello()


@pytest.mark.parametrize("payload", [b"ok", b"ok rounds=1 pcp=-2 calm=1", b"ok rounds=1 pcp=\xd9\xa1 calm=1"])
def test_a_number_that_is_none_is_refused(payload: bytes) -> None:
    with probe_answering(always(payload)) as probe, pytest.raises(ProbeError, match="settle has no number"):
        probe.settle()


def test_a_census_of_huge_folios() -> None:
    payload = b"ok gmem=1030 heads=2 tails=1022 orders=0:6,9:2 scanned=9999"
    with probe_answering(always(payload)) as probe:
        assert probe.census() == Census(gmem=1030, heads=2, tails=1022, folios={0: 6, 9: 2}, scanned=9999)


@pytest.mark.parametrize("orders", ["0:6:1", "x:1", "", "0"])
def test_a_census_with_strange_orders_is_refused(orders: str) -> None:
    payload = f"ok gmem=1 heads=0 tails=0 orders={orders} scanned=1".encode()
    with probe_answering(always(payload)) as probe, pytest.raises(ProbeError, match="unreadable orders"):
        probe.census()


def runs(*frames: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QII", *run) for run in frames)


def test_frames_are_asked_for_until_all_memory_was_looked_at() -> None:
    asked: list[str] = []
    answers = [
        b"ok runs=2 next=900\n" + runs((16, 3, 0), (512, 256, 4)),
        b"ok runs=1 next=0\n" + runs((1024, 512, 9)),
    ]

    def reply(line: str) -> bytes:
        asked.append(line)
        return answers[len(asked) - 1]

    with probe_answering(reply) as probe:
        assert probe.frames() == (FrameRun(16, 3, 0), FrameRun(512, 256, 4), FrameRun(1024, 512, 9))
    assert asked == ["frames from=0", "frames from=900"]


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"ok runs=2 next=0\n" + runs((16, 3, 0)), "are 16 bytes where"),
        (b"ok runs=1 next=0\n" + runs((16, 3, 1)), "not rising runs of whole folios"),
        (b"ok runs=1 next=0\n" + runs((16, 0, 0)), "not rising runs of whole folios"),
        (b"ok runs=2 next=0\n" + runs((16, 3, 0), (18, 1, 0)), "not rising runs of whole folios"),
        (b"ok next=0\n", "no number 'runs'"),
    ],
)
def test_strange_frames_are_refused(payload: bytes, problem: str) -> None:
    with probe_answering(always(payload)) as probe, pytest.raises(ProbeError, match=problem):
        probe.frames()


def test_a_probe_that_does_not_get_on_with_the_frames_is_refused() -> None:
    answers = iter([b"ok runs=0 next=7\n", b"ok runs=0 next=7\n"])
    with probe_answering(lambda line: next(answers)) as probe, pytest.raises(ProbeError, match="not beyond page 7"):
        probe.frames()


def test_a_file_that_cannot_be_read_back_is_none() -> None:
    with probe_answering(always(b"ok was=- now=-")) as probe:
        written = probe.write("/proc/sys/vm/compact_memory", "1")
    assert (written.was, written.now) == (None, None)


def test_refusals_carry_the_probes_word() -> None:
    with probe_answering(always(b"err code=EINVAL text=fallocate: Invalid argument")) as probe:
        with pytest.raises(ProbeError, match="Invalid argument") as caught:
            probe.fallocate(1, "punch", 1, 1)
        assert caught.value.code == "EINVAL"
