# SPDX-License-Identifier: GPL-2.0-only
"""What the host may see of a guest's RAM: by the model, and what is said when it sees anything else."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import InfraError
from harness.guest.pattern import KEY, first_word, words_of
from harness.host.probe import ProbeError
from harness.model.designs import backing_named, design_named
from harness.model.facts import HostFacts
from harness.model.predict import predict
from harness.model.prediction import ExpectedView
from harness.run.host_view import peek
from harness.run.walk import Walker
from harness.scenario.region import G0
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Convert, Peek, Populate, Side, Step

PRIVATE, SHARED = Side.PRIVATE, Side.SHARED
FACTS = HostFacts(ncpu=2, regions={"g0.r0": 8})


def views(design: str, *steps: Step, backing: str = "anon-4k") -> list[tuple[int, int, int | None, bool, bool]]:
    scenario = Scenario("case", (*steps, Peek(G0[0:512])))
    *_, last = predict(scenario, design_named(design), {"gmem/g0": 0}, FACTS, backing=backing_named(backing))
    assert all(bound.low == bound.high == 0 for name, bound in last.predictions.items() if name != "movable_balance")
    return [(view.start, view.count, view.generation, view.refused, view.mapped) for view in last.views]


class TestModel:
    def test_what_is_shared_shows_and_what_is_private_leaves_nothing(self) -> None:
        there, some = G0[0:512], G0[100:300]
        assert views("order0", Populate(there)) == [(0, 512, 1, False, True)]
        assert views("order0", Populate(there), Convert(some, PRIVATE), Populate(some)) == [
            (0, 100, 1, False, True),
            (100, 200, None, False, False),
            (300, 212, 1, False, True),
        ]

    def test_what_nobody_discards_is_still_there(self) -> None:
        """QEMU does not discard huge pages of a pool: the host sees what was shared last, not what is private."""
        chunk = G0[0:512]
        there = (Populate(chunk), Convert(chunk, PRIVATE), Populate(chunk))
        assert views("order0", *there, backing="hugetlb") == [(0, 512, 1, False, True)]

    @pytest.mark.parametrize("design", ["inplace", "inplace-thp-noop"])
    def test_in_place_private_pages_refuse(self, design: str) -> None:
        there, some = G0[0:512], G0[100:300]
        assert views(design, Populate(there), Convert(some, PRIVATE), Populate(some)) == [
            (0, 100, 1, False, False),
            (100, 200, None, True, False),
            (300, 212, 1, False, False),
        ]

    def test_in_place_what_comes_back_shows_again(self) -> None:
        some = G0[100:300]
        found = views("inplace", Convert(some, PRIVATE), Populate(some), Convert(some, SHARED))
        assert (100, 200, 1, False, False) in found


class TestPattern:
    def test_a_word_says_whose_it_is(self) -> None:
        assert words_of(first_word("g1.r0", 300, 17)) == "g1.r0, page 300, generation 17"
        assert words_of(0) == "nothing"
        assert words_of(KEY ^ 5) == f"{KEY ^ 5:#018x}"

    def test_the_formula_is_that_of_the_module(self) -> None:
        # guest-images/module/gmem_conv.c:pattern(region 1, generation 2, page 3, word 0) of tag 4
        assert first_word("g4.r1", 3, 2) == (4 << 60 | 1 << 56 | 2 << 40 | 3 << 16) ^ 0x6D656D67C0DEBEAD


@dataclass
class Probe:
    """A process that maps some pages; ``words`` by page, None: refuses."""

    mapped: set[int]
    words: dict[int, int | None]
    read: list[int] = field(default_factory=list)

    def nodes(self, pid: int, address: int, pages: int, timeout: float) -> list[int | None]:
        first = address // 4096
        return [0 if first + number in self.mapped else None for number in range(pages)]

    def peek(self, pid: int, address: int, pages: int, timeout: float) -> list[int | None]:
        first = address // 4096
        self.read += range(first, first + pages)
        return [self.words.get(first + number, 0) for number in range(pages)]


def seen(probe: Probe, *expected: ExpectedView) -> tuple[str, ...]:
    guest = SimpleNamespace(name="g0", pid=7, ram=0, chunks=(0, 512 * 4096))
    testbed = SimpleNamespace(guest=lambda name: guest, channels=SimpleNamespace(probe=probe))
    return peek(Walker(cast(Any, testbed)), expected)


class TestReading:
    def test_only_mapped_pages_are_read(self) -> None:
        probe = Probe({3, 4, 9}, {})
        assert seen(probe, ExpectedView("g0.r0", 0, 12, None)) == ()
        assert probe.read == [3, 4, 9], "a read of any other would fault it in"

    def test_a_private_page_that_shows_is_named(self) -> None:
        probe = Probe({5}, {5: first_word("g0.r0", 5, 2)})
        (said,) = seen(probe, ExpectedView("g0.r0", 4, 4, None))
        assert said == (
            "host view: 1 pages of g0.r0[4:8] are not as predicted: page 5 shows the host g0.r0, page 5, generation 2"
        )

    def test_what_is_shared_has_to_show(self) -> None:
        shown = ExpectedView("g0.r0", 0, 2, 3, mapped=True)
        right = {0: first_word("g0.r0", 0, 3), 1: first_word("g0.r0", 1, 3)}
        assert seen(Probe({0, 1}, dict(right)), shown) == ()
        (said,) = seen(Probe({0}, dict(right)), shown)
        assert said.endswith("page 1 cannot be read")
        (said,) = seen(Probe({0, 1}, {**right, 1: first_word("g0.r0", 0, 3)}), shown)
        assert said.endswith("page 1 shows the host g0.r0, page 0, generation 3"), "another page's contents"

    def test_pages_that_must_refuse_are_tried_whether_mapped_or_not(self) -> None:
        hidden = ExpectedView("g0.r0", 0, 3, None, refused=True)
        assert seen(Probe(set(), dict.fromkeys(range(3))), hidden) == ()
        (said,) = seen(Probe(set(), {0: None, 1: 0, 2: None}), hidden)
        assert said.endswith("page 1 shows the host nothing"), "even zeroes: it could be read"

    def test_many_wrong_pages_are_counted_and_a_few_named(self) -> None:
        (said,) = seen(Probe(set(range(9)), dict.fromkeys(range(9), 1)), ExpectedView("g0.r0", 0, 9, None))
        assert said.startswith("host view: 9 pages of g0.r0[0:9]")
        assert said.endswith("page 2 shows the host 0x0000000000000001 and 6 more")

    def test_a_kernel_that_cannot_look_says_which_option_is_missing(self) -> None:
        class Lacking(Probe):
            def peek(self, pid: int, address: int, pages: int, timeout: float) -> list[int | None]:
                raise ProbeError("probe refused 'peek'", "ENOSYS")

        with pytest.raises(InfraError, match="CONFIG_CROSS_MEMORY_ATTACH is needed"):
            seen(Lacking({0}, {}), ExpectedView("g0.r0", 0, 1, None))
