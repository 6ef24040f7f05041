# SPDX-License-Identifier: GPL-2.0-only
"""The shared side of a process that holds its RAM in a file: references, and where its pages are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from probe_bench import ROOT, Bench, running

from harness.host.probe import ProbeError
from harness.native.build import build_program

PAGE: Final = 4096
SIZE: Final = 64 * PAGE

# A guest_memfd's stand-in, and a RAM of the same size in a file without a name, mapped; a page that is written is
# there.  Prints the address and waits for the end of its input.
_RAM: Final = """
import ctypes, mmap, os, sys
size = int(sys.argv[1])
gmem, ram = os.memfd_create("kvm-gmem"), os.memfd_create("ram0")
for fd in (gmem, ram):
    os.ftruncate(fd, size)
memory = mmap.mmap(ram, size)
memory[: size // 2] = b"x" * (size // 2)
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
sys.stdin.read()
"""


@contextmanager
def guest() -> Iterator[tuple[int, int]]:
    """Process id and address of the RAM of something like a QEMU."""
    command = [sys.executable, "-I", "-c", _RAM, str(SIZE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_program("probe", tmp_path_factory.mktemp("native"))


@pytest.fixture
def bench(binary: Path) -> Iterator[Bench]:
    with running(binary) as bench:
        yield bench


needs_root = pytest.mark.skipif(not ROOT, reason="descriptors and memory of another process are for root")


@needs_root
class TestReferences:
    def test_pages_are_held_and_let_go(self, bench: Bench) -> None:
        with guest() as (pid, _):
            bench.probe.watch(pid, SIZE)
            bench.probe.hold(pid, 0, 0, 8)
            bench.probe.hold(pid, 1, 31 * PAGE, 1)
            assert bench.probe.release(0) == 8
            assert bench.probe.release(0) == 0
        assert bench.probe.release(1) == 1, "a reference outlives the process"

    def test_the_position_of_the_shared_descriptor_stays(self, bench: Bench) -> None:
        with guest() as (pid, _):
            bench.probe.watch(pid, SIZE)
            ram = next(link.name for link in Path(f"/proc/{pid}/fd").iterdir() if "ram0" in str(link.readlink()))
            bench.probe.hold(pid, 0, 4 * PAGE, 8)
            info = Path(f"/proc/{pid}/fdinfo/{ram}").read_text()
            assert info.splitlines()[0].split() == ["pos:", "0"]

    def test_more_than_a_chunk_is_refused(self, bench: Bench) -> None:
        with guest() as (pid, _):
            bench.probe.watch(pid, SIZE)
            for pages in (0, 513):
                with pytest.raises(ProbeError) as caught:
                    bench.probe.hold(pid, 0, 0, pages)
                assert caught.value.code == "usage"


@needs_root
class TestNodes:
    def test_what_is_mapped_is_somewhere(self, bench: Bench) -> None:
        with guest() as (pid, address):
            seen = bench.probe.nodes(pid, address, 64)
            assert None not in seen[:32]
            assert bench.probe.move_pages(pid, address, 4, seen[0] or 0) == 0
            assert bench.probe.nodes(pid, address, 4) == seen[:4]

    def test_a_node_that_is_not_there(self, bench: Bench) -> None:
        with guest() as (pid, address):
            with pytest.raises(ProbeError) as caught:
                bench.probe.move_pages(pid, address, 1, 63)
            assert caught.value.code == "ENODEV"

    def test_no_page_of_a_chunk_is_left_out(self, bench: Bench) -> None:
        with guest() as (pid, address), pytest.raises(ProbeError) as caught:
            bench.probe.nodes(pid, address + 1, 1)
        assert caught.value.code == "usage"


@needs_root
class TestPeek:
    def test_the_first_words_of_mapped_pages(self, bench: Bench) -> None:
        with guest() as (pid, address):
            seen = bench.probe.peek(pid, address, 64)
        assert seen == [int.from_bytes(b"x" * 8, "little")] * 32 + [0] * 32

    def test_what_is_not_mapped_at_all_refuses(self, bench: Bench) -> None:
        with guest() as (pid, _):
            assert bench.probe.peek(pid, PAGE, 2) == [None, None]

    def test_a_process_that_is_gone(self, bench: Bench) -> None:
        with guest() as (pid, address):
            pass
        with pytest.raises(ProbeError) as caught:
            bench.probe.peek(pid, address, 1)
        assert caught.value.code == "ESRCH"
