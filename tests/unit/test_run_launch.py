# SPDX-License-Identifier: GPL-2.0-only
"""Which guest a run starts: what was asked for, in the form that the kernel under test needs, and the run says so."""

from __future__ import annotations

from pathlib import Path

from harness.host.emulated import state as testbed  # by its module: its classes begin with Test
from harness.host.emulated.testbed import DESCRIPTION
from harness.run.options import RunOptions
from harness.run.session import Session

FACTS = {"ncpu": "2", "slab.radix_tree_node": "28,4"}
IN_PLACE = {**FACTS, "kvm.gmem_in_place_conversion": "Y"}


class PaperLab:
    """Every shape is saved already, on a kernel with ``facts``."""

    def __init__(self, folder: Path, facts: dict[str, str]) -> None:
        self.folder = folder
        testbed.TestbedState(
            release="7.3.4", version="#1", guests=(), user_key="", user_public="", host_keys={}, host_public={},
            kernel_facts=facts,
        ).save(folder / DESCRIPTION)  # fmt: skip

    def saved(self, spec: object, evidence: Path, clock: object) -> Path:
        return self.folder


def session(folder: Path, facts: dict[str, str]) -> tuple[Session, list[str]]:
    notes: list[str] = []
    made = Session(RunOptions(), lambda name: folder, str, notes.append)
    made._lab = PaperLab(folder, facts)  # type: ignore[assignment]
    return made, notes


def test_a_kernel_that_converts_in_place_is_told_once_and_named_in_the_record(tmp_path: Path) -> None:
    run, notes = session(tmp_path, IN_PLACE)
    for guests in (1, 2):
        run.ready(run.spec(guests=guests, chunks=8))
    [note] = notes
    assert note.startswith("kvm.gmem_in_place_conversion is Y: guests are started as snp-stand-in-inplace")
    assert run.info(()).guest_kind == "sw-protected (SNP stand-in, guest_memfd as RAM)"
    assert run.design == "inplace"


def test_without_guests_there_is_nothing_to_tell(tmp_path: Path) -> None:
    run, notes = session(tmp_path, IN_PLACE)
    run.ready(run.spec(guests=0, chunks=1))
    assert notes == []
    assert run.design == "inplace"


def test_other_kernels_get_what_was_asked_for(tmp_path: Path) -> None:
    run, notes = session(tmp_path, FACTS)
    run.ready(run.spec(guests=1, chunks=8))
    assert notes == []
    assert run.info(()).guest_kind == "sw-protected (SNP stand-in)"
