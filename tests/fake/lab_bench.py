# SPDX-License-Identifier: GPL-2.0-only
"""A holder whose testbed is a sleeping process: ``python lab_bench.py FD``, started by the tests as a real one is.

The plan's ``kernel`` says how it behaves: ``up``, ``no-boot``, ``crash``, ``defect``, ``slow``, ``vanish``,
``ignored`` (told to end in a destructor), ``aside`` (told in another thread, while it waits).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from harness.errors import CrashError, GmemError, InfraError, NoBootError
from harness.host.emulated.prepare import Clock
from harness.host.emulated.rundir import RunDir
from harness.host.emulated.state import GuestState, TestbedState
from harness.host.lab.holder import main
from harness.host.lab.record import Plan

ERRORS: dict[str, GmemError] = {
    "no-boot": NoBootError("the kernel under test did not come up"),
    "crash": CrashError("the kernel under test printed: Oops"),
}
SLEEP = "import time; time.sleep(600)"


class Ignoring:
    """Told to end where Python ignores exceptions."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def tell_aside() -> None:
    """The signal comes to this thread, so that no system call of the main one ends."""
    time.sleep(1.0)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(60)


class FakeHeld:
    """A process that sleeps, in a run directory with its janitor."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._dir = RunDir()
        self.run = self._dir.path
        command = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-c", SLEEP, str(self.run)]
        self._process = subprocess.Popen(command, start_new_session=True)
        (self.run / "outer.pid").write_text(f"{self._process.pid}\n")
        self.state = TestbedState(
            release="7.3",
            version="#1",
            guests=(GuestState(name="g0", pid=7, chunks=(0,)),),
            user_key="",
            user_public="",
            host_keys={},
            host_public={},
            kernel_facts={},
        )

    @property
    def qemu(self) -> int:
        return self._process.pid

    def greet(self) -> None:
        """Nobody to greet."""

    def pulse(self) -> None:
        if self._plan.origin == "no pulse":
            raise InfraError("QEMU does not answer")

    def health(self) -> dict[str, str]:
        return {"g0": "running", "host": "running"}

    def save(self, folder: Path) -> None:
        (folder / "state.bin").write_bytes(b"x" * 4096)
        if self._plan.origin == "save fails":
            raise InfraError("migrate failed: No space left on device")
        if self._plan.origin == "save is wrong":
            raise KeyError("status")

    def ssh_port(self, machine: str) -> int:
        return 2222 if machine == "host" else 2200

    def last_words(self) -> str:
        status = self._process.wait(10)
        return f"QEMU was killed by {signal.Signals(-status).name}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._dir.close()


def bring_up(plan: Plan, evidence: Path, clock: Clock) -> FakeHeld:
    """What ``plan.kernel`` says."""
    evidence.mkdir(exist_ok=True)
    (evidence / "host-console.txt").write_text("booted\n")
    clock.begin("start QEMU")
    if plan.kernel in ERRORS:
        raise ERRORS[plan.kernel]
    if plan.kernel == "defect":
        raise ValueError("nobody thought of this")
    if plan.kernel == "vanish":
        os.kill(os.getpid(), signal.SIGKILL)
    held = FakeHeld(plan)
    if plan.kernel == "ignored":
        Ignoring()
    if plan.kernel == "aside":
        threading.Thread(target=tell_aside, daemon=True).start()
    if plan.kernel == "slow":
        try:
            time.sleep(60)
        except BaseException:
            held.close()
            raise
    clock.begin("")
    return held


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], bring_up))
