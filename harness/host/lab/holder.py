# SPDX-License-Identifier: GPL-2.0-only
"""The process that owns a testbed which stays up: ``python -m harness.host.lab.holder FD``.

``FD`` is a socket to whoever starts it (the *boss*): it carries the plan in, then the phases and one outcome out, then
``keep`` in.  Until ``keep`` has arrived, the end of the boss is the end of the holder, so that a Ctrl-C or a kill -9
of ``gmem lab up`` leaves nothing.  After that the holder serves its socket until it is told to end or QEMU does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from harness.errors import GmemError, InfraError
from harness.host.emulated.prepare import Clock
from harness.host.lab.held import BringUp, Held, bring_up_emulated
from harness.host.lab.place import Place
from harness.host.lab.record import LabRecord, Life, Plan
from harness.host.lab.service import Service

_DOWN = b"\xff"
"""Says on the pipe that wakes it that it was asked to end; other bytes there are the numbers of signals."""
BOSS_SECONDS = 20.0
"""How long the boss may take to answer."""


class Told(BaseException):
    """The holder is told to end, by a signal or by the end of its boss; the text says by what."""


_told_by: list[str] = []
"""Signals that told it: ``Told`` itself is lost where Python ignores exceptions, in destructors and callbacks."""


class Boss:
    """Whoever started the holder and waits for the testbed."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._kept = threading.Event()

    def plan(self) -> Plan:
        """What to bring up."""
        self._connection.settimeout(BOSS_SECONDS)
        plan = msgspec.json.decode(self._lines.readline(), type=Plan)
        self._connection.settimeout(None)
        return plan

    def watch(self) -> None:
        """From now on the boss's end ends this process, unless it has said ``keep``."""
        threading.Thread(target=self._wait, name="boss", daemon=True).start()

    def _wait(self) -> None:
        with contextlib.suppress(OSError):
            if self._lines.readline() == b"keep\n":
                self._kept.set()
                return
        os.kill(os.getpid(), signal.SIGTERM)

    def tell(self, **words: Any) -> None:
        """Send one message; a boss that is gone is noticed elsewhere."""
        with contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(words, sort_keys=True).encode() + b"\n")

    def phase(self, name: str) -> None:
        """A phase begins."""
        self.tell(phase=name)

    def leave(self) -> None:
        """Wait until the boss has taken note; raises ``InfraError`` when it does not."""
        if not self._kept.wait(BOSS_SECONDS):
            raise InfraError("whoever asked for the testbed did not take it over")
        self._connection.close()


class Holder:
    """Brings one testbed up and serves it until its end."""

    def __init__(self, plan: Plan, boss: Boss, bring_up: BringUp) -> None:
        self.plan = plan
        self.place = Place(Path(plan.root), plan.name)
        self._boss = boss
        self._bring_up = bring_up
        self._record = LabRecord(plan=plan, holder=os.getpid(), began=time.time(), life=Life.STARTING)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def run(self) -> None:
        """The holder's whole life, under its lock.  Raises the ``GmemError`` that kept the testbed from coming up."""
        with self.place.lock():
            self._note(life=Life.STARTING)
            try:
                reason = self._live()
            except GmemError as error:
                self._note(life=Life.ENDED, reason=f"it did not come up: {error}")
                raise
            except Told as told:
                came_up = self._record.life is Life.UP  # else whoever wanted it wants it no more
                reason = f"its holder was ended by {told}" if came_up else ""
            except BaseException:
                self._note(life=Life.ENDED, reason=f"its holder failed, see {self.place.log}")
                raise
            if reason:
                self._note(life=Life.ENDED, reason=reason)
            else:
                self.place.record.unlink(missing_ok=True)

    def _live(self) -> str:
        """Returns why the testbed ended; '' when it was asked to."""
        clock = Clock(progress=self._boss.phase)
        held = self._bring_up(self.plan, self.place.evidence, clock)
        with contextlib.closing(held):
            clock.begin("monitors")
            held.greet()
            clock.begin("")
            held.state.save(self.place.state)
            with self.place.listen() as listener:
                self._note(life=Life.UP, qemu=held.qemu, run=str(held.run))
                self._boss.tell(up=[[phase.name, phase.seconds] for phase in clock.phases])
                self._boss.leave()
                return self._serve(listener, held)

    def _serve(self, listener: socket.socket, held: Held) -> str:
        service = Service(held, self._wake)
        # A signal that comes right before poll(), or to another thread, would not end the poll.
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        qemu = os.pidfd_open(held.qemu)
        poll = select.poll()
        for fd in (qemu, listener.fileno(), self._wake_read):
            poll.register(fd, select.POLLIN)
        while True:
            if _told_by:
                raise Told(_told_by[0])
            ready = {fd for fd, _ in poll.poll()}
            if self._wake_read in ready and _DOWN in os.read(self._wake_read, 64):
                return ""
            if qemu in ready:
                return held.last_words()
            if listener.fileno() not in ready:
                continue
            connection, _ = listener.accept()
            threading.Thread(target=service.serve, args=(connection,), name="request", daemon=True).start()

    def _wake(self) -> None:
        os.write(self._wake_write, _DOWN)

    def _note(self, **news: Any) -> None:
        self._record = msgspec.structs.replace(self._record, **news)
        self._record.save(self.place.record)


def main(arguments: Sequence[str], bring_up: BringUp = bring_up_emulated) -> int:
    """Detach and hold; returns 0 in the process that was started, and never in the one that holds."""
    boss = Boss(socket.socket(fileno=int(arguments[0])))
    plan = boss.plan()
    if os.fork():
        return 0  # nobody has to wait for the holder: its parent is init
    code = 1
    try:
        code = _hold(plan, boss, bring_up)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _hold(plan: Plan, boss: Boss, bring_up: BringUp) -> int:
    """Hold the testbed to its end; returns the exit code, which nobody but a person with a debugger reads."""
    os.chdir("/")
    os.umask(0o077)  # the saved memory of guests and their keys are the owner's
    signal.signal(signal.SIGTERM, _told)
    boss.watch()
    try:
        Holder(plan, boss, bring_up).run()
    except BaseException as error:  # noqa: BLE001 - nobody is above: a defect goes to the log, its place to the boss
        signal.signal(signal.SIGTERM, _told_again)  # the boss may leave as soon as it has been told
        if isinstance(error, GmemError):
            boss.tell(failed=str(error), code=error.exit_code)
            return error.exit_code
        traceback.print_exc()
        boss.tell(
            failed=f"this is a defect of gmem itself; please report it with {Place(Path(plan.root), plan.name).log}",
            code=3,
        )
        return 3
    return 0


def _told(number: int, frame: FrameType | None) -> None:
    signal.signal(number, _told_again)
    _told_by.append(signal.Signals(number).name)
    raise Told(signal.Signals(number).name)


def _told_again(number: int, frame: FrameType | None) -> None:
    """Giving back is not to be disturbed.  Not SIG_IGN: QEMU and the janitor would inherit that."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
