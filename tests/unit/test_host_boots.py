# SPDX-License-Identifier: GPL-2.0-only
"""A testbed whose guest hangs is booted once more; a kernel that does not come up, or crashes, is not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from harness.cache import ContentCache
from harness.errors import CrashError, GmemError, InfraError, NoBootError
from harness.host.emulated.prepare import Clock
from harness.host.emulated.state import TestbedSpec
from harness.host.emulated.testbed import BOOTS_AT_MOST, Lab

SPEC = TestbedSpec.of(guests=1)


class Saver:
    """A testbed that only saves."""

    def save(self, folder: Path) -> None:
        (folder / "state.bin").write_bytes(b"state")


def lab_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boots: list[GmemError | None]) -> tuple[Lab, list[Path]]:
    """A lab whose boots end as ``boots`` says; the places where each was tried."""
    for name in ("kernel", "initrd"):
        (tmp_path / name).write_bytes(b"x")
    places: list[Path] = []

    def booted(self: Lab, spec: TestbedSpec, evidence: Path, clock: Clock) -> Any:
        places.append(evidence)
        end = boots.pop(0)
        if end is not None:
            raise end
        return nullcontext(Saver())

    monkeypatch.setattr(Lab, "booted", booted)
    notice: Callable[[str], None] = lambda line: (tmp_path / "notices").open("a").write(line + "\n")  # noqa: E731
    cache = ContentCache(tmp_path / "cache", notify=notice)
    return Lab(cache, kernel=tmp_path / "kernel", initrd=tmp_path / "initrd", notice=notice), places


def test_a_hang_is_booted_again_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, places = lab_with(tmp_path, monkeypatch, [InfraError("guest g0 hangs"), None])
    assert (lab.saved(SPEC, tmp_path / "evidence", Clock()) / "state.bin").read_bytes() == b"state"
    assert places == [tmp_path / "evidence", tmp_path / "evidence" / "attempt-2"]
    assert "guest g0 hangs" in (tmp_path / "notices").read_text()


def test_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, places = lab_with(tmp_path, monkeypatch, [InfraError(f"hang {n}") for n in range(9)])
    with pytest.raises(InfraError, match=f"hang {BOOTS_AT_MOST - 1}"):
        lab.saved(SPEC, tmp_path / "evidence", Clock())
    assert len(places) == BOOTS_AT_MOST


@pytest.mark.parametrize("end", [NoBootError("no boot"), CrashError("oops")], ids=["no-boot", "crash"])
def test_what_the_kernel_did_stands(end: GmemError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, places = lab_with(tmp_path, monkeypatch, [end, None])
    with pytest.raises(type(end)):
        lab.saved(SPEC, tmp_path / "evidence", Clock())
    assert len(places) == 1
