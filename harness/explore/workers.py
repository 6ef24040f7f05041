# SPDX-License-Identifier: GPL-2.0-only
"""Processes that run scenarios side by side, each with its own session; the saved testbeds are shared by the cache.

The parent gives a worker one task at a time over a pipe and gets its report.  A worker that dies loses its task, and
another one takes its place; it is the parent's business how often that may happen.  A worker ends in order (its testbed
is given back) when it is told to, when it is interrupted, and when the parent is gone.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from types import FrameType

import msgspec

from harness.errors import GmemError
from harness.explore.case import CaseReport, Runner, ShrinkReport, shrink_case
from harness.explore.together import run_together
from harness.scenario.scenario import Scenario

Factory = Callable[[Callable[[str], None]], Runner]
"""Makes a runner in a worker, given where it may tell the user something; has to be picklable."""
END_SECONDS = 30.0
"""How long a worker may take to give its testbed back before it is killed."""


class Cases(msgspec.Struct, frozen=True):
    """A task: run these scenarios, ``together`` at most on a restored testbed; go on with none after ``until``.

    ``until`` is a time of CLOCK_MONOTONIC, which is the same in every process.
    """

    scenarios: tuple[Scenario, ...]
    together: int
    until: float = math.inf

    def is_over(self) -> bool:
        """Whether no further scenario may begin."""
        return time.monotonic() >= self.until


class Shrink(msgspec.Struct, frozen=True):
    """A task: make this smaller."""

    found: CaseReport
    seconds: float


Task = Cases | Shrink


class Over(msgspec.Struct, frozen=True):
    """The end of the task :class:`Cases`: what was not reported before it was not begun."""


class Smaller(msgspec.Struct, frozen=True):
    """While a worker shrinks: how far it came."""

    report: ShrinkReport


class Said(msgspec.Struct, frozen=True):
    """A line for the user."""

    line: str


class Lost(msgspec.Struct, frozen=True):
    """A worker died, or could not go on, with this task in hand."""

    why: str


Report = CaseReport | ShrinkReport | Over | Lost
_Message = Report | Smaller | Said


@dataclass
class Worker:
    """The parent's end of one worker."""

    process: multiprocessing.process.BaseProcess
    pipe: Connection
    task: Task | None = None
    smaller: ShrinkReport | None = None
    """How far shrinking has come, in the task in hand."""
    left: list[Scenario] = field(default_factory=list)
    """Scenarios of the task in hand that were not reported yet."""


@dataclass
class Workers:
    """``jobs`` workers; a context that ends them all."""

    factory: Factory
    jobs: int
    notice: Callable[[str], None]
    all: list[Worker] = field(default_factory=list)
    lost: int = 0

    def __enter__(self) -> Workers:
        self.all = [self._start() for _ in range(self.jobs)]
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _start(self) -> Worker:
        context = multiprocessing.get_context("spawn")  # a fork would take threads' locks of the parent along
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.factory, os.getpid()), daemon=False)
        process.start()
        theirs.close()  # so that its end is seen here when it dies
        return Worker(process, ours)

    def idle(self) -> Iterator[Worker]:
        """Workers without a task."""
        yield from [worker for worker in self.all if worker.task is None]

    @property
    def busy(self) -> list[Worker]:
        """Workers with a task."""
        return [worker for worker in self.all if worker.task is not None]

    def give(self, worker: Worker, task: Task) -> None:
        """Give a task to an idle worker; that it is dead shows in :meth:`reports`."""
        worker.task, worker.smaller = task, None
        worker.left = list(task.scenarios) if isinstance(task, Cases) else []
        with suppress(OSError):
            worker.pipe.send(task)

    def reports(self, timeout: float) -> Iterator[tuple[Worker, Task, Report]]:
        """What workers report within ``timeout`` seconds, with the task that it is about; returns with the first ones.

        In place of a worker that died a new one is started.
        """
        by_pipe = {worker.pipe: worker for worker in self.busy}
        for pipe in wait(list(by_pipe), timeout):
            worker = by_pipe[pipe]  # type: ignore[index]  # wait() gives back what it was given
            try:
                message: _Message = worker.pipe.recv()
            except (EOFError, OSError):
                message = self._replace(worker)
            if isinstance(message, Said):
                self.notice(message.line)
            elif isinstance(message, Smaller):
                worker.smaller = message.report
            else:
                task = worker.task
                assert task is not None, "a worker without a task reports nothing"
                if isinstance(message, CaseReport):
                    worker.left.remove(message.scenario)
                else:
                    worker.task = None
                yield worker, task, message

    def _replace(self, worker: Worker) -> Lost:
        """Start another worker in the place of a dead one."""
        worker.pipe.close()
        worker.process.join(END_SECONDS)
        code = worker.process.exitcode
        how = f"by {signal.Signals(-code).name}" if code and code < 0 else f"with status {code}"
        self.lost += 1
        fresh = self._start()
        worker.process, worker.pipe = fresh.process, fresh.pipe
        return Lost(f"a worker ended {how}")

    def end(self) -> None:
        """Tell all to end, wait, and kill what does not."""
        for worker in self.all:
            with suppress(OSError):
                worker.pipe.send(None)
            if worker.task is not None and worker.process.pid is not None and worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGTERM)  # in the middle of a case nobody reads the pipe
        for worker in self.all:
            worker.process.join(END_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self.all = []


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _ending)
    raise KeyboardInterrupt


def _ending(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN: programs started by the clean-up would inherit that."""


def _work(pipe: Connection, factory: Factory, parent: int) -> None:
    """A worker's life."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _interrupt)

    def send(message: _Message) -> None:
        pipe.send(message)

    runner: Runner | None = None
    try:
        while os.getppid() == parent:
            if not pipe.poll(1.0):
                continue
            task: Task | None = pipe.recv()
            if task is None:
                break
            try:
                runner = runner or factory(lambda line: send(Said(line)))
                if isinstance(task, Cases):
                    for report in run_together(runner, task.scenarios, task.together, task.is_over):
                        send(report)
                    send(Over())
                else:
                    keep = lambda smaller: send(Smaller(smaller))  # noqa: E731
                    send(shrink_case(runner, task.found, seconds=task.seconds, keep=keep))
            except GmemError as error:
                send(Lost(str(error)))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        pass  # the parent knows, or is gone
    finally:
        if runner is not None:
            runner.close()
