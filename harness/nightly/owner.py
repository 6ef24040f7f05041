# SPDX-License-Identifier: GPL-2.0-only
"""The owner of master and workers: starts them, starts again what died, ends them, and shows that nothing is left.

All of them are its children and end with it, however it ends (``setpriv --pdeathsig``): the master is killed, since its
database survives that and its own orderly end waits for jobs; a worker is told to end, and its run with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from harness.errors import InfraError
from harness.interruption import INTERRUPTION
from harness.nightly.files import programs, write_master, write_worker
from harness.nightly.leftovers import end_all
from harness.nightly.matrix import Matrix
from harness.nightly.place import MARK, Place, Settings
from harness.nightly.rest import Pages
from harness.report.text import one_line

MASTER: Final = "master"
UPGRADE_SECONDS: Final = 300.0
READY_SECONDS: Final = 180.0
"""Until master and workers answer; measured 6 s on an idle machine."""
END_SECONDS: Final = 120.0
"""For a worker to end its run in order; the run gives its host back."""
LEFT_SECONDS: Final = 60.0
"""For what a run started to end after it."""
RESTARTS: Final = 10
RESTART_SECONDS: Final = 600.0
"""A program that dies more often than ``RESTARTS`` times in that time ends everything."""
LOOK_SECONDS: Final = 0.5


class Owner:
    """Made by :func:`owning`."""

    def __init__(self, place: Place, matrix: Matrix, settings: Settings, note: Callable[[str], None]) -> None:
        self.place = place
        self.matrix = matrix
        self.settings = settings
        self.pages = Pages(matrix, settings)
        self.note = note
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._deaths: dict[str, deque[float]] = {}

    def start(self) -> None:
        """Until the pages answer and every worker is connected."""
        write_master(self.place)
        self._upgrade()
        self._begin(MASTER)
        for host in self.matrix.hosts:
            write_worker(self.place, host)
            self._begin(host)
        self._until_ready()

    def tend(self) -> None:
        """Starts again what died; to be called now and then.  Raises ``KeyboardInterrupt`` when asked to end."""
        INTERRUPTION.check()
        for name, process in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            deaths = self._deaths.setdefault(name, deque(maxlen=RESTARTS))
            if len(deaths) == RESTARTS and time.monotonic() - deaths[0] < RESTART_SECONDS:
                raise InfraError(f"{self._title(name)} died {RESTARTS + 1} times, see {self._log(name)}")
            deaths.append(time.monotonic())
            self.note(f"{self._title(name)} died ({_how(code)}): started again")
            self._begin(name)

    def end(self) -> None:
        """Ends workers, then the master, then what they left; raises :class:`InfraError` for what does not end."""
        workers = [process for name, process in self._running.items() if name != MASTER]
        _end(workers, signal.SIGTERM, END_SECONDS)
        _end([process for name, process in self._running.items() if name == MASTER], signal.SIGKILL, END_SECONDS)
        self._running.clear()
        ended = end_all(self.place.path, LEFT_SECONDS)
        if ended:
            self.note(f"{ended} processes of jobs had to be ended")

    # -- programs

    def _begin(self, name: str) -> None:
        host = None if name == MASTER else name
        signal_at_our_end = "KILL" if host is None else "TERM"
        words = ["setpriv", "--pdeathsig", signal_at_our_end, "--", sys.executable, "-m", "twisted"]
        words = [*words[:-2], str(Path(sys.executable).with_name("twistd")), *programs(self.place, self.settings, host)]
        with self._output(name) as output:
            self._running[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=self._environment(),
                start_new_session=True,  # a Ctrl-C is for us, and we tell the others
            )  # fmt: skip

    def _upgrade(self) -> None:
        """Makes or brings up to date the master's database; also checks the configuration."""
        words = [str(Path(sys.executable).with_name("buildbot")), "upgrade-master", "--quiet", str(self.place.master)]
        words = ["setpriv", "--pdeathsig", "KILL", "--", *words]
        try:
            done = subprocess.run(
                words, env=self._environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=UPGRADE_SECONDS, check=False, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise InfraError(f"{error.filename} is not installed: pip install 'gmem-harness[nightly]'") from error
        except subprocess.TimeoutExpired:
            raise InfraError(f"Buildbot's database was not ready within {UPGRADE_SECONDS:.0f} s") from None
        if done.returncode != 0:
            with self._output(MASTER) as output:
                os.write(output, done.stdout)
            raise InfraError(f"Buildbot refuses to start: {_reason(done.stdout)}; see {self._log(MASTER)}")

    def _until_ready(self) -> None:
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            INTERRUPTION.check()
            for name, process in self._running.items():
                code = process.poll()
                if code is not None:
                    raise InfraError(f"{self._title(name)} ended at once ({_how(code)}), see {self._log(name)}")
            with contextlib.suppress(InfraError):
                if set(self.matrix.hosts) <= self.pages.connected():
                    return
            time.sleep(LOOK_SECONDS)
        raise InfraError(f"Buildbot was not ready within {READY_SECONDS:.0f} s, see {self._log(MASTER)}")

    def _environment(self) -> dict[str, str]:
        """Ours, with the mark; the ``gmem`` of this installation is found if there is no other."""
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
        return {**os.environ, "PATH": path, MARK: str(self.place.path)}

    @contextmanager
    def _output(self, name: str) -> Iterator[int]:
        path = self._log(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            yield fd
        finally:
            os.close(fd)

    def _log(self, name: str) -> Path:
        return (self.place.master if name == MASTER else self.place.worker(name)) / "output.txt"

    def _title(self, name: str) -> str:
        return "the master" if name == MASTER else f"the worker of {name}"


@contextmanager
def owning(place: Place, matrix: Matrix, settings: Settings, note: Callable[[str], None]) -> Iterator[Owner]:
    """Master and workers, ready; everything is ended at the end, whatever that is."""
    owner = Owner(place, matrix, settings, note)
    try:
        owner.start()
        yield owner
    finally:
        owner.end()


def _end(processes: list[subprocess.Popen[bytes]], number: signal.Signals, seconds: float) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)
    end = time.monotonic() + seconds
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, end - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait(seconds)


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _reason(output: bytes) -> str:
    """The last line that says something, of what Buildbot printed."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if "Error" in line or "error" in line] or lines or ["it gave no reason"]
    return one_line(told[-1], 300)
