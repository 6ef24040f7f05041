# SPDX-License-Identifier: GPL-2.0-only
"""A program that calls as QEMU does, a KVM of paper, and the interposers between them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from harness.native.build import build_program

SOURCES: Final = Path(__file__).parent / "interposer"
FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-strict-aliasing")

PAGE: Final = 4096
HVA: Final = 0x200000000000  # far from where the kernel puts anything by itself
ROM: Final = 0x210000000000
MIB: Final = 1 << 20
RAM: Final = 8 * PAGE  # what GMEM_RAM_BYTES says
READONLY, DIRTY_LOG = 2, 1
HYPERCALL, MEMORY_FAULT, MMIO = 3, 39, 6
PRIVATE, SHARED = 1 << 4, 0  # in the third argument of KVM_HC_MAP_GPA_RANGE
FAULT_PRIVATE: Final = 1 << 3
EHWPOISON: Final = 133  # the other error with a memory fault; the module errno does not have it
TYPES: Final = "fake types 0x3\n"  # ordinary and software-protected
SNP_VM: Final = TYPES + "vm 4\n"
SNP_VM_SEEN: Final = ["kvm: create_vm type=1", "kvm: enable_cap cap=201 flags=0 arg=0x1000", "vm: ok"]


@dataclass(frozen=True)
class Stage:
    """The compiled programs of this session."""

    drive: Path
    fake: Path
    interposers: dict[str, Path]

    def play(self, interposer: str, script: str, complaint: str = "", **environment: str) -> list[str]:
        """The lines of what KVM saw and QEMU was told; the interposer's standard error must be ``complaint``."""
        done = self.run(interposer, script, environment)
        assert (done.stderr, done.returncode) == (complaint, 0), done.stdout
        return done.stdout.splitlines()

    def run(self, interposer: str, script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        layers = [str(self.interposers[name]) for name in interposer.split()]
        preload = {"LD_PRELOAD": " ".join([*layers, str(self.fake)])}
        environment = preload | environment
        return subprocess.run(
            [self.drive], input=script, capture_output=True, text=True, timeout=30, env=environment, umask=0o022
        )


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    out = tmp_path_factory.mktemp("interposer")
    for name, link in (("drive", ()), ("fakekvm", ("-shared", "-fPIC"))):
        subprocess.run(["gcc", *FLAGS, *link, "-o", out / name, SOURCES / f"{name}.c"], check=True, timeout=60)
    interposers = {name: build_program(name, out) for name in ("snp-standin", "tdx-standin", "swprot", "inplace")}
    return Stage(out / "drive", out / "fakekvm", interposers)
