# SPDX-License-Identifier: GPL-2.0-only
"""A session on a lab of paper, which hands out saved testbeds or fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.errors import GmemError
from harness.host.emulated import state as testbed  # by its module: its classes begin with Test
from harness.host.emulated.testbed import DESCRIPTION
from harness.run.options import RunOptions
from harness.run.runner import CaseName
from harness.run.session import Session
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Empty

FACTS = {"ncpu": "2", "slab.radix_tree_node": "28,4", "config.PT_RECLAIM": "y", "kvm.nx_huge_pages": "never"}
ONE, TWO = Scenario("one", (Empty(),)), Scenario("two", (Empty(),), guests=2)


@dataclass
class FakeLab:
    """Hands out saved testbeds, or fails with ``error``."""

    folder: Path
    error: GmemError | None = None
    facts: dict[str, str] = field(default_factory=lambda: dict(FACTS))
    asked: list[int] = field(default_factory=list)

    def saved(self, spec: testbed.TestbedSpec, evidence: Path, clock: object) -> Path:
        self.asked.append(len(spec.guests))
        if self.error:
            raise self.error
        guest = testbed.GuestState(name="g0", pid=7, chunks=(0x200000,))
        state = testbed.TestbedState(
            release="7.3.4", version="#1", guests=(guest,), user_key="", user_public="", host_keys={}, host_public={},
            kernel_facts=self.facts,
        )  # fmt: skip
        state.save(self.folder / DESCRIPTION)
        return self.folder


Make = Callable[..., Session]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A session on a lab; its notices are in ``notes``."""

    def evidence(name: str) -> Path:
        for number in range(100):
            folder = tmp_path / "evidence" / f"{name}-{number}"
            if not folder.exists():
                folder.mkdir(parents=True)
                return folder
        raise AssertionError("too many folders")

    def make(lab: object = None, notes: list[str] | None = None, **options: object) -> Session:
        notice = (notes if notes is not None else []).append
        session = Session(RunOptions(**options), evidence, lambda path: path.name, notice)  # type: ignore[arg-type]
        session._lab = lab  # type: ignore[assignment]
        return session

    return make


def name(word: str) -> CaseName:
    return CaseName("smoke", word, "A claim.")
