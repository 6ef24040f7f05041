# SPDX-License-Identifier: GPL-2.0-only
"""Page identity (claims C2 and C3): how many of the frames that a step allocates are frames given up before.

A frame that leaves a guest_memfd goes to the head of a list of the CPU that frees it, one list for each order, and the
next allocation of that order on that CPU takes the head: the bounds are those of ``allocator.placement.reuse``, with
what the rest of the step's traffic may take from or put on the same lists.  docs/model.md, rule *placement*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harness.model.aligned import PMD_ORDER
from harness.model.allocator.pcp import PcpLimits
from harness.model.allocator.placement import CpuStep, What, reuse
from harness.model.events import PAGE_IN_PASSING, Event
from harness.model.prediction import Prediction, Reason
from harness.model.state import RegionState

COUNTERS = ("frames/kept", "frames/gone", "frames/new", "frames/back")
HIGH, BATCH, COUNT = "pcp_lists/high", "pcp_lists/batch", "pcp_lists/count"
"""What the first sample has to say of the per-CPU lists of the zone that is asked first: pages that a CPU may keep,
pages in a batch, and the most that any CPU has on its lists."""

HELD = "frames/held"
"""Where the start says it: frames that all guest_memfds hold, also those that are nobody's RAM (a ROM)."""

LIST_ORDERS = (0, 1, 2, 3, 9)
"""Orders with per-CPU lists (mm/page_alloc.c:pcp_allowed_order); blocks of others go to the free lists at once."""

_SAME_LISTS = ("nr_slab_unreclaimable", "unaccounted")
"""Pages that come from the same lists as a guest_memfd's: unmovable, and no page tables, which are events."""


@dataclass
class Frames:
    """What is known of the frames that the guest_memfds of a host gave up, from step to step."""

    limits: PcpLimits | None
    """None: the first sample does not tell."""
    count: int
    """Most pages on a CPU's lists at the start."""
    held: int | None
    """Frames held now."""
    lost: str = ""
    """Why the lists are no longer known."""
    steps: dict[int, list[CpuStep]] = field(default_factory=dict)
    """Per order what happened to its lists."""
    pool: int = 0
    """Frames given up and not held again, at most."""
    loose: int = 0
    """Frames among them that never were on a list of a CPU, at most."""
    taken: int = 0
    """Pages that others may have taken from the same lists since the first frame was given up."""
    given: int = 0
    """Pages that others may have put on the same lists since then."""
    freed: int = 0
    """Pages that all steps may have freed, whatever they were."""

    @classmethod
    def from_sample(cls, start: Mapping[str, int], guests: Iterable[str]) -> Frames:
        """Before the first step; see ``HIGH``."""
        limits = None
        if HIGH in start and BATCH in start and COUNT in start:
            limits = PcpLimits(start[BATCH], start[HIGH], start[HIGH])
        held = [start.get(f"gmem/{guest}") for guest in guests]
        known = None if None in held else sum(pages for pages in held if pages is not None)
        known = start.get(HELD, known)
        return cls(
            limits, start.get(COUNT, 0), known, lost="" if limits else "the first sample lacks the lists' limits"
        )

    def follow(
        self,
        events: Iterable[Event],
        bounds: Mapping[str, Prediction],
        before: Mapping[str, RegionState],
        after: Mapping[str, RegionState],
        *,
        one_by_one: bool = False,
    ) -> dict[str, Prediction]:
        """The predictions of ``frames/*`` for a step, and the state after it.

        ``bounds``: the step's other predictions; ``before``, ``after``: its regions; ``one_by_one``: each page is a
        hole of its own.
        """
        events = tuple(events)
        arriving = [event for event in events if event.kind.moves.get("nr_unevictable", 0) > 0]
        leaving = [event for event in events if event.kind.moves.get("nr_unevictable", 0) < 0]
        taken, given = (sum(event.pages for event in moving) for moving in (arriving, leaving))
        resident = bounds.get("nr_unevictable")
        if resident is None or self.held is None:
            self.held, self.lost = None, "how many frames are held is not known"
            return {}
        if "pgfree" not in bounds:
            self.lost = self.lost or "an earlier step freed an unknown number of pages"
        self.freed += bounds["pgfree"].high if "pgfree" in bounds else 0
        if (resident.low, resident.high) != (taken - given, taken - given):
            return self._uncertain(resident, taken, given)
        if not self.pool:  # every frame given up so far is held again: what follows goes on top of the lists
            self.steps, self.taken, self.given = {}, 0, 0
        if self.pool or given:
            took, gave = _others(events, bounds)
            self.taken, self.given = self.taken + took, self.given + gave
        found = {}
        if taken:
            found = self._allocate(arriving, resident, taken)
        if given:
            self._free(leaving, {0: given} if one_by_one else _orders(before, after), given)
        return self._predict(resident, (given, given), found or _nothing_back(resident, given))

    def _predict(
        self, resident: Prediction, given: tuple[int, int], arrived: dict[str, Prediction]
    ) -> dict[str, Prediction]:
        assert self.held is not None
        kept = (self.held - given[1], self.held - given[0])
        reason = Reason("placement", f"{self.held} frames are held before the step; {resident.reasons[0].text}")
        self.held = self.held + resident.low if resident.exact else None
        return {
            "frames/kept": Prediction(*kept, (reason,)),
            "frames/gone": Prediction(*given, (Reason("placement", resident.reasons[0].text),)),
            **arrived,
        }

    def _allocate(self, arriving: list[Event], resident: Prediction, taken: int) -> dict[str, Prediction]:
        low = high = 0
        said = []
        for event in arriving:
            least, most, why = self._reused(event)
            low, high = low + least, high + most
            said.append(why)
        high = min(high, self.pool)
        low = min(low, high)
        self.pool -= low
        self.loose = min(self.loose, self.pool)
        reason = Reason("placement", "; ".join(said))
        fresh = Reason("placement", f"{resident.reasons[0].text}, and {low} to {high} of them are frames held before")
        return {
            "frames/back": Prediction(low, high, (reason,)),
            "frames/new": Prediction(taken - high, taken - low, (fresh,)),
        }

    def _reused(self, event: Event) -> tuple[int, int, str]:
        """Frames held before among those that an allocation gets: least, most, why."""
        order, pages = event.kind.order, event.pages
        most = min(pages, self.pool)
        if not self.pool:
            return 0, 0, "no frame was given up before in this case"
        if event.cpu is None:
            self.lost = self.lost or "a guest that was never placed ran on any CPU"
        if self.lost or self.limits is None or event.cpu is None or order not in LIST_ORDERS:
            why = self.lost or f"blocks of order {order} come from the free lists, wherever those were filled"
            return 0, most, f"up to {self.pool} frames given up before may come back: {why}"
        history = self.steps.setdefault(order, [])
        history.append(CpuStep(What.ALLOC, event.cpu, pages))
        answer = reuse(history, self.limits, self._others_on_lists(order, history))[-1]
        # Others may take freed frames away or put pages on top of them; a frame that they carry from one CPU's list to
        # another's was taken and given.
        taken, given = (self.taken, self.given) if order != PMD_ORDER else (0, 0)
        text = answer.rule
        if taken or given:
            text += f"; slabs and tables may take {taken} pages from these lists and put {given} on them meanwhile"
        if self.loose:
            text += f"; {self.loose} frames went to the free lists as larger blocks"
        high = min(most, answer.high + min(taken, given) + self.loose)
        return min(high, max(0, answer.low - taken - given)), high, text

    def _others_on_lists(self, order: int, history: list[CpuStep]) -> dict[int, int]:
        """Most pages on each CPU's lists that ``reuse`` does not see coming: refills and frees of all other lists."""
        assert self.limits is not None
        refills = 3 * self.limits.largest_refill + 9 * self.limits.batch + 2 * 2 * 512
        own = sum(step.pages for step in history if step.what is What.FREE)
        base = self.count + refills + max(0, self.freed - own)
        return {step.cpu: base for step in history}

    def _free(self, leaving: list[Event], orders: Mapping[int, int] | None, given: int) -> None:
        cpus = {event.cpu for event in leaving}
        self.pool += given
        (cpu,) = cpus if len(cpus) == 1 else (None,)
        if cpu is None:
            self.lost = self.lost or "frames were given up on a CPU that is not known"
            return
        if orders is None or sum(orders.values()) != given:
            orders = {-1: given}
        for order, pages in orders.items():
            if order in LIST_ORDERS:
                self.steps.setdefault(order, []).append(CpuStep(What.FREE, cpu, pages))
            else:
                # Pieces of a folio whose orders are not followed may top a list, too.
                self.loose += pages
                self.given += pages

    def _uncertain(self, resident: Prediction, taken: int, given: int) -> dict[str, Prediction]:
        """Where only bounds of what is held are known; nothing is said of a step that may do both."""
        self.lost = self.lost or "frames came or went where no rule says how many, or on which CPU"
        if (taken and given) or resident.low < 0 < resident.high:
            self.held = None
            return {}
        least, most = max(0, resident.low), max(0, resident.high)
        back = min(most, self.pool)
        gone = (max(0, -resident.high), max(0, -resident.low))
        why = (Reason("placement", f"{self.lost}; {resident.reasons[0].text}"),)
        found = {
            "frames/back": Prediction(0, back, why),
            "frames/new": Prediction(max(0, least - back), most, why),
        }
        self.pool += gone[1]
        return self._predict(resident, gone, found)


def _nothing_back(resident: Prediction, given: int) -> dict[str, Prediction]:
    why = "it gives frames up and takes none" if given else resident.reasons[0].text
    reason = (Reason("placement", why),)
    return {"frames/back": Prediction(0, 0, reason), "frames/new": Prediction(0, 0, reason)}


def _others(events: Iterable[Event], bounds: Mapping[str, Prediction]) -> tuple[int, int]:
    """Most unmovable pages besides a guest_memfd's that a step takes and gives back."""
    taken = given = 0
    for event in events:
        free = event.kind.moves.get("F", 0)
        if event.kind is PAGE_IN_PASSING:
            taken, given = taken + event.pages, given + event.pages
        elif event.kind.demand == "Unmovable" and not event.kind.moves.get("nr_unevictable"):
            taken, given = taken + max(0, -free) * event.pages, given + max(0, free) * event.pages
    for counter in _SAME_LISTS:
        if counter in bounds:
            taken, given = taken + max(0, bounds[counter].high), given + max(0, -bounds[counter].low)
    return taken, given


def _orders(before: Mapping[str, RegionState], after: Mapping[str, RegionState]) -> dict[int, int] | None:
    """Pages that left the regions by the order of the blocks they left as; None where pieces of folios went."""
    found: dict[int, int] = {}
    for name, was in before.items():
        gone = was.private & ~after[name].private if name in after else was.private
        whole = was.private_folios.inside(gone)
        cut = was.private_folios.without(whole).touching(gone).covered() & gone
        if cut and cut & cut - 1:
            return None  # more than one page of a folio that is split first: the pieces may be of any order
        for order, starts in whole:
            found[order] = found.get(order, 0) + (starts.bit_count() << order)
        single = (gone & ~whole.covered()).bit_count()
        if single:
            found[0] = found.get(0, 0) + single
    return found
