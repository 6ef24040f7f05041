# SPDX-License-Identifier: GPL-2.0-only
"""Hand a kernel over to a host, and say plainly which one runs afterwards."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.errors import GmemError, InfraError, NoBootError
from harness.host.config.host import HostConfig
from harness.host.config.reaching import reach_host
from harness.host.handover import grub, hooks, kexec
from harness.host.handover.order import Order, complaint, reboot
from harness.host.handover.running import (
    PAUSE_SECONDS,
    Expected,
    Running,
    Waited,
    compare,
    expected,
    read_running,
    wait_for_start,
)
from harness.host.knobs.lock import HostLock, take
from harness.host.knobs.place import DEFAULT_PLACE
from harness.host.reach import Reach, ReachError


@dataclass(frozen=True)
class HandedOver:
    """A host that runs the kernel that was wanted."""

    reach: Reach
    """A connection with it; the caller closes it."""
    before: Running
    running: Running
    compared: str
    """What proves that it is the kernel that was wanted."""
    seconds: float
    """From the restart until the host answered; 0 where it ran that kernel already."""


class Handover:
    """One hand-over.  ``connect`` makes a new connection; ``notice`` is told each step in a sentence."""

    def __init__(
        self,
        config: HostConfig,
        order: Order,
        *,
        connect: Callable[[], Reach] | None = None,
        notice: Callable[[str], None],
        lock: Callable[[Reach], HostLock] | None = None,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self.config = config
        self.order = order
        self.connect = connect or (lambda: reach_host(config))
        self.notice = notice
        self.take = lock or self._take
        self._lock: HostLock | None = None
        self.pause = pause
        self.wanted: Expected = expected(order.kernel)

    def _take(self, reach: Reach) -> HostLock:
        purpose = f"boot {self.order.kernel.name}"
        return take(reach, DEFAULT_PLACE, purpose, notice=self.notice, host=self.config.name)

    def do(self, *, again: bool = True) -> HandedOver:
        """Boot the kernel once.  Without ``again``, a host that runs it with that command line is left alone.

        Raises ``NoBootError`` when the kernel did not come up, and says what runs instead; other errors are
        ``InfraError``, and leave the host with the kernel that it had.
        """
        name, order = self.config.name, self.order
        reach = self.connect()
        try:
            before = read_running(reach)
            same = compare(self.wanted, before)
            if (
                not again
                and same.same
                and order.command_line(before.command_line).split() == before.command_line.split()
            ):
                self.notice(f"{name} runs {before.text} already: {same.text}")
                return HandedOver(reach, before, before, same.text, 0.0)
            self.notice(f"{name} runs {before.text}; handing over {self.wanted.text} by {order.way.how}")
            self._alone(reach, before)
        except BaseException:
            reach.close()
            raise
        reach.close()
        began = time.monotonic()
        waited = wait_for_start(self.connect, before.boot, order.way.seconds, pause=self.pause)
        return self._judged(waited, before, time.monotonic() - began)

    def _alone(self, reach: Reach, before: Running) -> None:
        """Nobody else's run is ended by the restart: the host's lock is held until the host answers again."""
        self._lock = self.take(reach)
        try:
            self._leave(reach, before)
        except BaseException:
            self._free(reach)
            raise

    def _free(self, reach: Reach) -> None:
        """A lock that did not outlive the restart is none any more, and one of an earlier start is stale."""
        if self._lock is not None:
            with contextlib.suppress(GmemError):
                replace(self._lock, reach=reach).free()

    def _leave(self, reach: Reach, before: Running) -> None:
        """Everything up to the restart."""
        if self.order.way.how == "kexec":
            kexec.go(reach, kexec.load(reach, self.order, before))
        elif self.order.way.how == "grub":
            grub.install(reach, self.order, before)
            reboot(reach)
        else:
            hooks.install(self.config, self.order, before)
            try:
                if read_running(reach).boot == before.boot:  # a hook may have restarted it
                    reboot(reach)
            except ReachError:
                self.notice(f"{self.config.name} went down with its hooks")

    def _judged(self, waited: Waited, before: Running, seconds: float) -> HandedOver:
        name = self.config.name
        if waited.reach is None or waited.running is None:
            raise NoBootError(
                f"{self.wanted.text} did not come up on {name} within {self.order.way.seconds:g} s ({waited.reason}); "
                f"{self._fall_back(before)}"
            )
        self._free(waited.reach)
        found = compare(self.wanted, waited.running)
        if waited.running.boot == before.boot:
            said = complaint(waited.reach)
            waited.reach.close()
            raise InfraError(
                f"{name} did not restart within {self.order.way.seconds:g} s and still runs {before.text}; {said}"
            )
        if not found.same:
            waited.reach.close()
            raise NoBootError(
                f"{self.wanted.text} did not come up on {name}: it restarted, and runs {waited.running.text} now; "
                f"{found.text}"
            )
        return HandedOver(waited.reach, before, waited.running, found.text, seconds)

    def _fall_back(self, before: Running) -> str:
        """Bring the host back by its power hook; what runs there then, as part of a sentence."""
        name = self.config.name
        if not self.config.hooks.power_cycle:
            return f"its file has no hooks.power_cycle: switch {name} off and on; nothing is known of what it runs now"
        self.notice(f"{name} does not answer; power-cycling it")
        try:
            hooks.power_cycle(self.config)
        except GmemError as error:
            return f"{error}; nothing is known of what it runs now"
        waited = wait_for_start(self.connect, before.boot, self.order.way.seconds, pause=self.pause)
        if waited.reach is None or waited.running is None:
            return f"after hooks.power_cycle it does not answer either ({waited.reason})"
        self._free(waited.reach)
        waited.reach.close()
        same = " (the kernel from before)" if _alike(waited.running, before) else ""
        return f"after hooks.power_cycle it runs {waited.running.text}{same}"


def _alike(one: Running, other: Running) -> bool:
    return (one.build_id, one.banner) == (other.build_id, other.banner)
