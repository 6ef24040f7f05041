# SPDX-License-Identifier: GPL-2.0-only
"""What a guest's shared side is made of: QEMU's arguments, the host's settings, and the proof that it is so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import InfraError, UsageError
from harness.guest.backing import BACKING_RECORDS, POOL_2M, backing_record
from harness.guest.launch import GuestSpec, guest_command
from harness.host.emulated.machine import FAR_MIB, MachineSpec, command_line
from harness.host.emulated.memory import ram_address, set_up_memory
from harness.host.probe import ProbeError
from harness.model.designs import backing_named

RAM = 128
ALL = RAM << 10


ADDRESS = 0x7F2C57E00000


def smaps(field: str, huge: int, *, rss: int | None = None, start: int = ADDRESS) -> str:
    """A mapping of the RAM, one that the kernel merged with it, and one of something else."""
    end = start + (RAM << 20)
    return (
        f"7f0000000000-7f0000200000 rw-p 00000000 00:00 0\nRss: 2048 kB\n{field}: 2048 kB\n"
        f"{start:x}-{end + (2 << 20):x} rw-p 00000000 00:00 0 \nRss:   {huge if rss is None else rss} kB\n"
        f"{field}:      {huge} kB\n"
    )


@pytest.mark.parametrize("name", BACKING_RECORDS)
def test_the_model_knows_each_by_its_name(name: str) -> None:
    assert backing_named(name).name == name


def test_an_unknown_one_is_one_sentence_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"^unknown shared backing 'memfd' of a testbed; known: anon-4k, anon-thp, "):
        backing_record("memfd")


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("anon-4k", "memory-backend-ram,id=ram0,size=128M,share=off,prealloc=on"),
        ("anon-thp", "memory-backend-ram,id=ram0,size=128M,share=off,prealloc=on"),
        ("memfd-4k", "memory-backend-ram,id=ram0,size=128M,share=on,prealloc=on"),
        ("shmem-thp", "memory-backend-ram,id=ram0,size=128M,share=on,prealloc=on"),
        ("hugetlb", "memory-backend-memfd,id=ram0,size=128M,share=on,hugetlb=on,hugetlbsize=2M,prealloc=on"),
    ],
)
def test_qemu_is_given_it(name: str, argument: str) -> None:
    arguments, _ = guest_command(GuestSpec(0, backing=backing_record(name)), cbitpos=8)
    assert arguments[arguments.index("-object") + 1] == argument


def test_the_pool_has_a_page_for_each_2_mib_of_all_guests() -> None:
    assert (POOL_2M, "128") in backing_record("hugetlb").host_settings(2 * RAM)
    assert POOL_2M not in dict(backing_record("anon-4k").host_settings(RAM))


def test_khugepaged_sleeps_before_huge_pages_are_switched_on() -> None:
    for name, switch in (("anon-thp", "enabled"), ("shmem-thp", "shmem_enabled")):
        settings = [(path.rpartition("/")[2], value) for path, value in backing_record(name).host_settings(RAM)]
        assert settings[0] == ("scan_sleep_millisecs", "4294967295")
        assert [word for word, value in settings[1:] if value != "never"] == [switch]


@pytest.mark.parametrize(
    ("name", "seen", "wrong"),
    [
        ("anon-4k", smaps("AnonHugePages", 0, rss=ALL), ""),
        ("anon-4k", smaps("AnonHugePages", 2048, rss=ALL), "2048 kB of it are mapped huge (AnonHugePages)"),
        ("anon-thp", smaps("AnonHugePages", ALL), ""),
        ("anon-thp", smaps("AnonHugePages", ALL + 2048), ""),
        (
            "anon-thp",
            smaps("AnonHugePages", ALL, rss=ALL + 4),
            "131072 kB of it are mapped huge (AnonHugePages) and 4 kB",
        ),
        ("anon-thp", smaps("AnonHugePages", ALL - 2048), "129024 kB of it are mapped huge"),
        ("shmem-thp", smaps("ShmemPmdMapped", 0, rss=ALL), "0 kB of it are mapped huge (ShmemPmdMapped) and 131072 kB"),
        ("hugetlb", smaps("Private_Hugetlb", ALL, rss=0), ""),
        ("memfd-4k", smaps("ShmemPmdMapped", 0, start=1 << 30), "its smaps have no field ShmemPmdMapped at 0x7f2c57e"),
    ],
)
def test_what_the_memory_is_shows_in_smaps(name: str, seen: str, wrong: str) -> None:
    said = backing_record(name).wrong(seen, ADDRESS, RAM)
    assert said.startswith(wrong) if wrong else not said


def test_what_is_not_aligned_is_not_taken() -> None:
    said = backing_record("memfd-4k").wrong(smaps("ShmemPmdMapped", 0, rss=ALL), ADDRESS - 4096, RAM)
    assert said == "QEMU maps it at 0x7f2c57dff000, which is not aligned to 2 MiB"


class Host:
    """The probe of a host: files and what they say after a write."""

    def __init__(self, **answers: str) -> None:
        self.written: list[tuple[str, str]] = []
        self.answers = answers

    def write(self, path: str, value: str) -> SimpleNamespace:
        self.written.append((path, value))
        now = self.answers.get(path.rpartition("/")[2], value)
        if now == "missing":
            raise ProbeError("No such file or directory", "ENOENT")
        return SimpleNamespace(was="", now=now)

    def set_up(self, name: str) -> None:
        set_up_memory(backing_record(name), RAM, cast(Any, self))


def test_settings_are_read_back() -> None:
    host = Host(enabled="always [madvise] never")
    host.set_up("anon-thp")
    assert [value for _, value in host.written] == ["4294967295", "never", "madvise"]
    with pytest.raises(
        InfraError, match=r"nr_hugepages says '60' after '64' was written: guests need a memfd of 2 MiB"
    ):
        Host(nr_hugepages="60").set_up("hugetlb")


def test_a_kernel_without_it_is_told_in_a_sentence() -> None:
    with pytest.raises(InfraError, match=r"cannot give guests a memfd of 2 MiB pages from the hugetlb pool: No such"):
        Host(nr_hugepages="missing").set_up("hugetlb")


BLOCKS = """\
              Block Name    PSize              Offset               Used              Total                HVA  RO
                    ram0    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000 0x00007f2c57e00000  rw
            pc.bios/ram1    4 KiB  0x0000000008000000 0x0000000000010000 0x0000000000010000 0x00007f2c67a00000  ro
"""


def test_the_address_of_the_ram() -> None:
    assert ram_address("g0", BLOCKS) == 0x7F2C57E00000
    with pytest.raises(InfraError, match="QEMU of g0 does not say where its RAM is"):
        ram_address("g0", "unknown command")


def test_a_second_node_is_taken_from_the_end_of_the_ram(tmp_path: Any) -> None:
    def numa(nodes: int) -> list[str]:
        line = command_line(
            MachineSpec(nodes=nodes), kernel=tmp_path, initrd=tmp_path, run=tmp_path, evidence=tmp_path, incoming=False
        )
        return [word for word in line if "node,nodeid" in word or word.startswith("memory-backend")]

    assert numa(1) == ["memory-backend-ram,id=ram,size=3072M"]
    near = 3072 - FAR_MIB
    assert numa(2) == [
        f"memory-backend-ram,id=near,size={near}M",
        f"memory-backend-ram,id=far,size={FAR_MIB}M",
        "node,nodeid=0,memdev=near,cpus=0-1",
        "node,nodeid=1,memdev=far",
    ]
