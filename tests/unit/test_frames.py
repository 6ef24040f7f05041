# SPDX-License-Identifier: GPL-2.0-only
"""The frame protocol: what a receiver makes of garbage, torn frames, strangers' frames, and peers that misbehave."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.host.frames import (
    HEADER,
    MAGIC,
    MAX_PAYLOAD,
    ChannelClosed,
    ChannelCorrupt,
    ChannelTimeout,
    FrameChannel,
    RemoteError,
    encode_frame,
    parse_fields,
    scan_frames,
)

OURS = 7
FIRST_ID = OURS - 1

stranger = st.integers(8, 99)  # a request id that is not ours
header = st.builds(HEADER.pack, st.just(MAGIC), stranger, st.integers(0, 1 << 31), st.integers(0, 1 << 31))
torn = st.builds(lambda data, cut: encode_frame(9, data)[:cut], st.binary(min_size=4, max_size=40), st.integers(1, 30))
garbage = st.one_of(
    st.binary(max_size=64),
    st.sampled_from([MAGIC[:3], MAGIC]),
    header,
    torn,
    st.builds(encode_frame, stranger, st.binary(max_size=40)),
)


def not_ours(pieces: list[bytes]) -> bytes:
    """The pieces in a row, unless they happen to look like a frame of ours."""
    data = b"".join(pieces)
    assume(MAGIC + OURS.to_bytes(4, "little") not in data)
    return data


class TestScan:
    @given(st.lists(garbage, max_size=5), st.binary(max_size=200), st.binary(max_size=30))
    def test_finds_our_frame_whatever_precedes_it(self, before: list[bytes], payload: bytes, after: bytes) -> None:
        data = not_ours(before) + encode_frame(OURS, payload) + after
        scan = scan_frames(data, OURS)
        assert scan.payload == payload
        assert data[scan.consumed :] == after

    @given(st.lists(garbage, max_size=4), st.binary(max_size=60), st.integers(1, 40))
    def test_pieces_give_what_the_whole_gives(self, before: list[bytes], payload: bytes, piece: int) -> None:
        data = not_ours(before) + encode_frame(OURS, payload)
        buffer, found = bytearray(), None
        for start in range(0, len(data), piece):
            buffer += data[start : start + piece]
            scan = scan_frames(buffer, OURS)
            del buffer[: scan.consumed]
            found = scan.payload if scan.payload is not None else found
        assert found == payload

    @given(st.binary(min_size=1, max_size=60), st.data())
    def test_a_changed_byte_of_the_payload_is_damage(self, payload: bytes, data: st.DataObject) -> None:
        frame = bytearray(encode_frame(OURS, payload))
        at = data.draw(st.integers(HEADER.size, len(frame) - 1))
        frame[at] ^= data.draw(st.integers(1, 255))
        scan = scan_frames(frame, OURS)
        assert scan.payload is None
        assert "checksum" in str(scan.damage)

    def test_our_frame_with_an_impossible_length_is_damage(self) -> None:
        scan = scan_frames(HEADER.pack(MAGIC, OURS, MAX_PAYLOAD + 1, 0), OURS)
        assert str(MAX_PAYLOAD + 1) in str(scan.damage)

    def test_garbage_does_not_accumulate(self) -> None:
        assert scan_frames(b"x" * 5000 + b"GM", OURS).consumed == 5000

    def test_a_frame_too_large_to_send_is_refused(self) -> None:
        with pytest.raises(ValueError, match="exceeds"):
            encode_frame(1, bytes(MAX_PAYLOAD + 1))


class TestFields:
    def test_text_takes_the_rest_of_the_line(self) -> None:
        assert parse_fields("code=EIO text=a=b and more") == {"code": "EIO", "text": "a=b and more"}

    @pytest.mark.parametrize("words", ["word", "=1", "a=1 a=2"])
    def test_anything_else_is_refused(self, words: str) -> None:
        with pytest.raises(ValueError, match="key=value"):
            parse_fields(words)


def read_request(sock: socket.socket) -> tuple[int, bytes]:
    """The next request on a peer's socket: its id and payload."""
    head = b""
    while len(head) < HEADER.size:
        head += sock.recv(HEADER.size - len(head)) or pytest.fail("the channel closed before a request")
    _, request_id, length, _ = HEADER.unpack(head)
    payload = b""
    while len(payload) < length:
        payload += sock.recv(length - len(payload)) or pytest.fail("the channel closed within a request")
    return request_id, payload


@contextmanager
def channel_to(peer: Callable[[socket.socket], None], transcript: Path | None = None) -> Iterator[FrameChannel]:
    """A channel whose other end is run by ``peer`` in a thread; its end stays open until the test ends."""
    mine, theirs = socket.socketpair()
    theirs.settimeout(10)
    thread = threading.Thread(target=peer, args=(theirs,), daemon=True)
    thread.start()
    fd = mine.detach()
    with FrameChannel(fd, fd, transcript, peer="the fake", first_id=FIRST_ID) as channel:
        yield channel
    thread.join(10)
    assert not thread.is_alive()
    theirs.close()


def answering(*replies: bytes) -> Callable[[socket.socket], None]:
    """A peer that answers each request with the next of ``replies`` (raw bytes)."""

    def peer(sock: socket.socket) -> None:
        for reply in replies:
            read_request(sock)
            sock.sendall(reply)

    return peer


class TestChannel:
    def test_a_reply_has_fields_and_blob(self) -> None:
        with channel_to(answering(encode_frame(OURS, b"ok a=1 b=x\n\x00\n\xff"))) as channel:
            reply = channel.request("get", timeout=5)
        assert reply.fields == {"a": "1", "b": "x"}
        assert reply.blob == b"\x00\n\xff"

    def test_strangers_and_garbage_are_skipped(self) -> None:
        noise = b"login: GMF1" + encode_frame(99, b"ok stale=1") + HEADER.pack(MAGIC, 98, 5000, 1) + b"torn"
        with channel_to(answering(noise + encode_frame(OURS, b"ok fresh=1"))) as channel:
            assert channel.request("get", timeout=5).fields == {"fresh": "1"}

    def test_a_late_reply_is_not_taken_for_the_next_one(self) -> None:
        def peer(sock: socket.socket) -> None:
            first, _ = read_request(sock)
            second, _ = read_request(sock)
            sock.sendall(encode_frame(first, b"ok n=1") + encode_frame(second, b"ok n=2"))

        with channel_to(peer) as channel:
            with pytest.raises(ChannelTimeout):
                channel.request("one", timeout=0.05)
            assert channel.request("two", timeout=5).fields == {"n": "2"}

    def test_silence_ends_at_the_deadline_and_says_so(self) -> None:
        with channel_to(answering(b"booting...")) as channel:
            begin = time.monotonic()
            with pytest.raises(ChannelTimeout, match=r"the fake did not answer 'hello' within 0\.2 s") as caught:
                channel.request("hello", timeout=0.2)
            assert 0.2 <= time.monotonic() - begin < 2
        assert "10 bytes arrived" in str(caught.value)

    def test_a_peer_that_takes_nothing_ends_at_the_deadline(self) -> None:
        with channel_to(lambda sock: None) as channel, pytest.raises(ChannelTimeout, match="were not taken"):
            channel.request("put", bytes(MAX_PAYLOAD // 2), timeout=0.2)

    def test_a_peer_that_goes_away_is_noticed_at_once(self) -> None:
        def peer(sock: socket.socket) -> None:
            read_request(sock)
            sock.shutdown(socket.SHUT_RDWR)

        with channel_to(peer) as channel:
            begin = time.monotonic()
            with pytest.raises(ChannelClosed, match="the fake is gone"):
                channel.request("hello", timeout=30)
            assert time.monotonic() - begin < 5

    def test_a_torn_reply_of_a_peer_that_goes_away_is_not_a_reply(self) -> None:
        def peer(sock: socket.socket) -> None:
            read_request(sock)
            sock.sendall(encode_frame(OURS, b"ok a=1\n" + bytes(100))[:-1])
            sock.shutdown(socket.SHUT_RDWR)

        with channel_to(peer) as channel, pytest.raises(ChannelClosed):
            channel.request("hello", timeout=30)

    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            (encode_frame(OURS, b"ok a=1")[:-1] + b"2", "checksum"),
            (HEADER.pack(MAGIC, OURS, 1 << 31, 0), "length field"),
            (encode_frame(OURS, b"maybe a=1"), "instead of ok or err"),
            (encode_frame(OURS, b"ok \xff=1"), "cannot be read"),
            (encode_frame(OURS, b"ok word"), "cannot be read"),
        ],
    )
    def test_a_damaged_reply_is_an_error_at_once(self, reply: bytes, reason: str) -> None:
        with channel_to(answering(reply)) as channel:
            begin = time.monotonic()
            with pytest.raises(ChannelCorrupt, match=reason):
                channel.request("get", timeout=30)
            assert time.monotonic() - begin < 5

    def test_a_refusal_carries_code_and_text(self) -> None:
        refusal = encode_frame(OURS, b"err code=EINVAL text=not a page boundary")
        with channel_to(answering(refusal)) as channel, pytest.raises(RemoteError) as caught:
            channel.request("fallocate off=1", timeout=5)
        assert (caught.value.code, caught.value.text) == ("EINVAL", "not a page boundary")
        assert "the fake refused 'fallocate'" in str(caught.value)

    def test_both_sides_may_send_a_megabyte_at_once(self) -> None:
        blob = os.urandom(MAX_PAYLOAD - 64)

        def peer(sock: socket.socket) -> None:
            sock.sendall(b"z" * (1 << 20))  # more than a socket buffers: blocks until the channel reads
            request_id, payload = read_request(sock)
            sock.sendall(encode_frame(request_id, b"ok\n" + payload.partition(b"\n")[2]))

        with channel_to(peer) as channel:
            assert channel.request("echo", blob, timeout=20).blob == blob

    def test_a_pair_of_pipes_serves_as_well(self) -> None:
        to_peer, from_channel = os.pipe()
        to_channel, from_peer = os.pipe()
        os.write(from_peer, encode_frame(OURS, b"ok a=1"))
        with FrameChannel(to_channel, from_channel, first_id=FIRST_ID) as channel:
            assert channel.request("get", timeout=5).fields == {"a": "1"}
            os.close(to_peer)
            os.close(from_peer)
            with pytest.raises(ChannelClosed):
                channel.request("get", timeout=5)

    def test_the_transcript_keeps_requests_replies_and_failures(self, tmp_path: Path) -> None:
        log = tmp_path / "transcript"
        with channel_to(answering(encode_frame(OURS, b"ok a=\x1b[31m\nblob")), log) as channel:
            channel.request("get what=x", b"abc", timeout=5)
            with pytest.raises(ChannelTimeout):
                channel.request("again", timeout=0.05)
        lines = log.read_text().splitlines()
        assert [line.split(" ", 1)[1] for line in map(str.strip, lines)] == [
            "> id=7 get what=x [blob 3]",
            "< id=7 ok a=\\x1b[31m [blob 4]",
            "> id=8 again",
            lines[3].strip().split(" ", 1)[1],
        ]
        assert "! id=8 ChannelTimeout" in lines[3]
        stamps = [float(line.split()[0]) for line in lines]
        assert stamps == sorted(stamps)

    def test_a_line_with_a_newline_is_the_callers_mistake(self) -> None:
        with channel_to(answering()) as channel, pytest.raises(ValueError, match="newline"):
            channel.request("a\nb", timeout=1)

    def test_a_closed_channel_says_so(self) -> None:
        with channel_to(answering()) as channel:
            channel.close()
            with pytest.raises(ChannelClosed, match="closed already"):
                channel.request("hello", timeout=1)
