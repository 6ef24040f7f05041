# SPDX-License-Identifier: GPL-2.0-only
"""Pressure on the host: how much is asked for, what is started, and what has to show before anything is judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from test_allocator_seed import BUDDYINFO, PAGETYPEINFO, ZONEINFO

from harness.counters import zoneinfo
from harness.counters.sample import Sample
from harness.errors import InfraError, UsageError
from harness.run import pressure
from harness.run.pressure import Held, Taken, amount, press, prove, takeable
from harness.scenario.steps import Pressure

ZONES = zoneinfo.parse(ZONEINFO)
FREE = 505322 + 188726
REST = {"nr_anon_pages": 100, "nr_file_pages": 50, "nr_inactive_file": 5, "nr_active_file": 1, "unaccounted": 20}


def sample(buddyinfo: str = BUDDYINFO, **moved: int) -> Sample:
    values = REST | {"F": FREE, "hugetlb/2048kB/nr_hugepages": 3}
    return Sample({name: value + moved.get(name, 0) for name, value in values.items()}, {"buddyinfo": buddyinfo}, 1)


class TestAmount:
    def test_what_can_be_taken_stays_above_the_high_marks(self) -> None:
        assert takeable(ZONES) == FREE - (2162 + 966) - 1057

    def test_shares(self) -> None:
        assert amount(Pressure("anon", pages=7), ZONES) == 7
        assert amount(Pressure("cache", percent=50), ZONES) == takeable(ZONES) // 2
        for percent in (1, 50, 95):
            taken = amount(Pressure("fragment", percent=percent), ZONES)
            free = sum(zone.free + zone.pcp for zone in ZONES) - taken // 2
            assert taken // 2 * 100 >= percent * free
            assert (taken // 2 - 2) * 100 < percent * (free + 2)

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"pages": 5, "percent": 5}, "its amount more than once"),
            ({"percent": 101}, "a share is 1 to 100"),
            ({"leave": 1}, "only fragment and pinned can"),
        ],
    )
    def test_amounts_that_cannot_be(self, wrong: dict[str, int], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            Pressure("anon", **wrong)

    def test_texts(self) -> None:
        assert Pressure("anon").text() == "end of anon pressure"
        assert Pressure("pinned", leave=0).text() == "pinned pressure that leaves 0 blocks of 2 MiB"
        assert not Pressure("pinned", leave=0).gives_back


PIECES = "Node 0, zone   Normal 90000 0 0 0 0 0 0 0 0 1 0\n"


class TestProof:
    """A stimulus that did nothing is no stimulus."""

    STEPS = (
        (Pressure("anon", pages=1000), {"nr_anon_pages": 1000, "F": -1002}),
        (
            Pressure("cache", pages=1000),
            {"nr_file_pages": 1000, "nr_inactive_file": 990, "nr_active_file": 10, "F": -1000},
        ),
    )

    @pytest.mark.parametrize(("step", "moved"), STEPS)
    def test_what_happened(self, step: Pressure, moved: dict[str, int]) -> None:
        assert prove(step, 1000, Taken(1, 1000, 0), sample(), sample(**moved)) == ""

    @pytest.mark.parametrize(("step", "moved"), STEPS)
    def test_nothing_happened(self, step: Pressure, moved: dict[str, int]) -> None:
        said = prove(step, 1000, Taken(1, 1000, 0), sample(), sample())
        assert said == f"{step.text()} did not happen: 0 pages less are free, where 1000 are said to be held"
        for counter, by in moved.items():
            short = moved | {counter: by // 2 if counter != "nr_active_file" else -10}
            assert "did not happen" in prove(step, 1000, Taken(1, 1000, 0), sample(), sample(**short)), counter
        said = prove(step, 1000, Taken(1, 900, 0), sample(), sample(**moved))
        assert said == f"{step.text()} did not happen: 900 of 1000 pages were taken"

    def test_pieces(self) -> None:
        step, taken = Pressure("fragment", percent=95), Taken(1, 500, 500)
        moved = {"nr_anon_pages": 500, "F": -510}
        assert prove(step, 1000, taken, sample(), sample(PIECES, **moved)) == ""
        said = prove(step, 1000, taken, sample(), sample(**moved))
        assert said.startswith("fragment pressure of 95 % did not happen: 0 % of the free memory are in pieces")
        pinned = Pressure("pinned", percent=95)
        assert "unaccounted rose by 0" in prove(pinned, 1000, taken, sample(), sample(PIECES, **moved))


@dataclass
class FakeHost:
    """Control and probe of a host on which the program says that it took what was asked for."""

    says: str = ""
    state: str = "running"
    started: list[list[str]] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    texts: dict[str, str] = field(
        default_factory=lambda: {"zoneinfo": ZONEINFO, "buddyinfo": PIECES, "pagetypeinfo": PAGETYPEINFO}
    )
    written: list[str] = field(default_factory=list)

    def spawn(self, arguments: list[str], environment: dict[str, str], log: str) -> int:
        self.started.append(arguments[1:])
        return len(self.started)

    def status(self, pid: int) -> str:
        return "killed by signal 9" if pid in self.ended else self.state

    def get(self, path: str) -> bytes:
        kind, wanted = self.started[-1]
        taken = int(wanted) // 2 if kind in ("fragment", "pinned") else 0
        return (self.says or f"holds={int(wanted) - taken} gave={taken}\n").encode()

    def signal(self, pid: int, number: int) -> None:
        self.ended.append(pid)

    def read(self, path: str) -> bytes:
        return self.texts[path.removeprefix("/proc/")].encode()

    def write(self, path: str, value: str, *, timeout: float) -> None:
        self.written.append(f"{value} to {path}")

    def settle(self) -> None:
        pass

    def press(self, step: Pressure, held: Held | None = None) -> pressure.Proof:
        return press(cast(Any, self), cast(Any, self), step, held or Held())


class TestPress:
    def test_takes_and_gives_back(self) -> None:
        host, held = FakeHost(), Held()
        proof = host.press(Pressure("anon", pages=100), held)
        assert host.started == [["anon", "100"]]
        assert proof(sample(), sample(nr_anon_pages=100, F=-100)) == ""
        assert "did not happen" in proof(sample(), sample())
        assert host.press(Pressure("anon"), held)(sample(), sample()) == ""
        assert host.ended == [1]
        assert not held.by_kind

    def test_a_program_that_fails_says_why(self) -> None:
        host = FakeHost(
            says="gmem-pressure: /dev/fuse (CONFIG_FUSE_FS is needed): No such file", state="exited with status 1"
        )
        with pytest.raises(InfraError, match=r"pressure by cache, 5 wanted: gmem-pressure: /dev/fuse .*status 1\)"):
            host.press(Pressure("cache", pages=5))

    def test_more_than_there_is(self) -> None:
        with pytest.raises(InfraError, match="before it begins to reclaim"):
            FakeHost().press(Pressure("anon", pages=FREE))

    def test_a_program_that_never_gets_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pressure, "TAKE_SECONDS", 0.05)
        with pytest.raises(InfraError, match="it did not get them"):
            FakeHost(says="...").press(Pressure("anon", pages=5))

    def test_a_share_is_one_of_576_blocks(self) -> None:
        host = FakeHost()
        host.texts["buddyinfo"] = "Node 0, zone   Normal 0 0 0 0 0 0 0 0 0 0 300\n"
        host.press(Pressure("cache", percent=50))
        assert host.started == [["blocks", str(600 - 576)], ["cache", str(takeable(ZONES) // 2)]]

    def test_leave_takes_all_whole_blocks_but_those_and_gives_these_back_last(self) -> None:
        host, held = FakeHost(), Held()
        proof = host.press(Pressure("fragment", leave=4), held)
        assert host.started[:2] == [["blocks", "4"], ["fragment", str(pressure.PIECES_OF)]]
        assert host.started[2] == ["blocks", "1"]
        assert host.ended == [1]
        assert proof(sample(), sample(PIECES)) == (
            "fragment pressure that leaves 4 blocks of 2 MiB did not happen: 1 are left"
        )
        assert proof(sample(), sample(PIECES.replace(" 1 0", " 0 2"))) == ""

    def test_pinned_pieces_have_to_be_there_and_nowhere_to_move_to(self) -> None:
        host = FakeHost()
        proof = host.press(Pressure("pinned", leave=1))
        assert ["pinned", str(pressure.PIECES_OF)] in host.started
        assert "nobody can move are not there" in proof(sample(), sample(PIECES))
        assert proof(sample(), sample(PIECES, unaccounted=pressure.PIECES_OF // 2)) == ""
        pool = {"hugetlb/2048kB/nr_hugepages": 100, "unaccounted": 51200}
        assert "nobody can move are not there" in proof(sample(), sample(PIECES, **pool))
        host.texts["buddyinfo"] = PIECES.replace(" 1 0", " 0 0")
        host.press(Pressure("pinned", leave=1))
        assert host.started[-1][0] == "anon"
