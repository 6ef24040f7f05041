# SPDX-License-Identifier: GPL-2.0-only
"""The steps of a job, as Buildbot runs them.

The kernel of a job is a property of its build; host, guest kind and suite are those of the builder.  Commands run on
the worker and end with it (``setpriv --pdeathsig``); what is written about them is written by the master, on the same
machine.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import msgspec
from buildbot.process.buildstep import BuildStep, ShellMixin
from buildbot.process.results import CANCELLED, RETRY, SKIPPED, SUCCESS
from twisted.internet.defer import inlineCallbacks
from twisted.internet.threads import deferToThread

from harness.nightly.matrix import Cell, Matrix, load_matrix
from harness.nightly.place import Place
from harness.nightly.told import Bisection, Told, remember
from harness.nightly.verdicts import Result, bisect_result, result_of, verdict_of
from harness.run.verdict import Verdict

Steps = Generator[Any, Any, Any]
END_WITH_WORKER: Final = ("setpriv", "--pdeathsig", "TERM", "--")
"""A worker that is killed takes its run with it; the run gives the host back in order."""
END_SECONDS: Final = 90
"""For a command that is told to end, to give its host back."""
DOES_NOT_BUILD: Final = 9
"""Exit code of ``gmem nightly job-kernel``."""
KEPT_LAST: Final = 2
"""Attempts at a job whose folders are never removed: the one that runs, and the one before."""


class Job(BuildStep):  # type: ignore[misc,unused-ignore]
    """A step that knows its cell."""

    def __init__(self, state: str, host: str, guest: str, suite: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.place = Place(Path(state))
        self.names = (host, guest, suite)
        self.told = ""

    @property
    def matrix(self) -> Matrix:
        return load_matrix(Path(self.place.settings().matrix))

    @property
    def cell(self) -> Cell:
        return Cell(self.getProperty("kernel"), *self.names)

    @property
    def tries(self) -> int:
        """How often this job was begun, this time included."""
        return int(self.getProperty("tries", 1))

    @property
    def out(self) -> Path:
        """The folder of this attempt's run."""
        return Path(self.getProperty("out"))

    @property
    def verdict(self) -> Verdict | None:
        """Once there is one."""
        word = self.getProperty("verdict")
        return Verdict(word) if word else None

    def say(self, text: str) -> None:
        """What the pages show of this step, and of its build."""
        self.told = text

    def getResultSummary(self) -> dict[str, str]:
        if not self.told:
            found: dict[str, str] = super().getResultSummary()
            return found
        return {"step": self.told, "build": self.told}

    @property
    def given_up(self) -> bool:
        """Whether the build will be run again, or somebody stopped it: then nothing is kept of it."""
        return self.build.results in (RETRY, CANCELLED)


class Begin(Job):
    """Counts how often this job was begun.

    Buildbot itself begins a job again whose worker was lost, without an end.
    """

    name = "begin"
    haltOnFailure = True

    @inlineCallbacks
    def run(self) -> Steps:
        request = self.build.requests[0].id
        builds = yield self.master.data.get(("buildrequests", str(request), "builds"))
        tries = len(builds)
        self.setProperty("tries", tries, self.name)
        self.setProperty("began", int(time.time()), self.name)
        self.setProperty("out", str(self.place.results(self.cell.key) / f"{request:08d}-{tries}"), self.name)
        if tries > self.matrix.retries + 1:
            self.say(f"given up: begun {tries - 1} times, and the worker was lost")
            return int(Result.EXCEPTION)
        self.say(f"{self.cell.kernel}, try {tries}")
        return SUCCESS


class Command(ShellMixin, Job):  # type: ignore[misc,unused-ignore]
    """A command on the worker; its exit code decides."""

    haltOnFailure = True

    def __init__(self, state: str, host: str, guest: str, suite: str, hours: float = 1.0, **kwargs: Any) -> None:
        kwargs = self.setupShellMixin(
            {"timeout": None, "maxTime": hours * 3600, "sigtermTime": END_SECONDS, **kwargs},
            prohibitArgs=["command"],
        )
        super().__init__(state, host, guest, suite, **kwargs)

    def words(self) -> list[str]:
        """The command line."""
        raise NotImplementedError

    def ended(self, code: int, output: str) -> int:
        """Buildbot's result of that exit code; ``output`` is what the command wrote to standard output."""
        raise NotImplementedError

    @inlineCallbacks
    def run(self) -> Steps:
        command = yield self.makeRemoteShellCommand(
            command=[*END_WITH_WORKER, *self.words()], collectStdout=True, stdioLogName="output"
        )
        yield self.runCommand(command)
        if self.stopped:  # by somebody, or with its worker, which is Buildbot's to tell apart
            return CANCELLED
        return self.ended(-1 if command.rc is None else command.rc, command.stdout)

    def decide(self, verdict: Verdict, text: str = "") -> int:
        """Keeps the verdict of the job."""
        self.setProperty("verdict", verdict.value, self.name)
        result = result_of(verdict, self.tries, self.matrix.retries)
        more = ", is run again" if result is Result.RETRY else ""
        self.say(f"{text or verdict.value}{more}")
        return int(result)


class Kernel(Command):
    """Checks the commit out and builds it, for a kernel that is a branch."""

    name = "kernel"

    def words(self) -> list[str]:
        revision = self.getProperty("revision") or ""
        return ["gmem", "nightly", "job-kernel", *_at(self.place), self.cell.host, self.cell.kernel, revision]

    def ended(self, code: int, output: str) -> int:
        if code == DOES_NOT_BUILD:
            return self.decide(Verdict.NO_BOOT, "does not build")
        if code != 0:
            return self.decide(verdict_of(code))
        found = _last_object(output)
        for name in ("commit", "image"):
            self.setProperty(name, found[name], self.name)
        self.say(found["title"])
        return int(Result.SUCCESS)


class Run(Command):
    """``gmem run``."""

    name = "run"
    haltOnFailure = False

    def words(self) -> list[str]:
        matrix, cell = self.matrix, self.cell
        kernel, suite = matrix.kernels[cell.kernel], matrix.suites[cell.suite]
        return [
            *("gmem", "run", *suite.run),
            *("--kernel", self.getProperty("image") or kernel.kernel or cell.kernel),
            *("--host", matrix.hosts[cell.host].host, "--guest", cell.guest, "--design", kernel.design),
            *(("-k", suite.cases) if suite.cases else ()),
            *(("--brief",) if suite.brief else ()),
            *("--out", str(self.out)),
        ]

    def ended(self, code: int, output: str) -> int:
        return self.decide(verdict_of(code))


class History(Command):
    """``gmem history add``."""

    name = "history"
    alwaysRun = True
    haltOnFailure = False

    def doStepIf(self, step: BuildStep) -> bool:
        return not self.given_up and self.verdict is not None and (self.out / "run.json").is_file()

    def words(self) -> list[str]:
        branch, commit = self.matrix.kernels[self.cell.kernel].branch, self.getProperty("commit") or ""
        given = ["--branch", branch, "--commit", commit] if commit else []
        return ["gmem", "history", "add", str(self.out), "--db", self.place.history(self.matrix), *given]

    def ended(self, code: int, output: str) -> int:
        return int(Result.SUCCESS if code == 0 else Result.WARNINGS)


class News(Command):
    """Asks the history whether what deviates is new, and what was good before."""

    name = "news"
    alwaysRun = True
    haltOnFailure = False

    def doStepIf(self, step: BuildStep) -> bool:
        bad = self.verdict in (Verdict.DEVIATES, Verdict.CRASH)
        return not self.given_up and bad and bool(self.getProperty("commit"))

    def words(self) -> list[str]:
        return ["gmem", "nightly", "job-news", *_at(self.place), self.cell.key, str(self.out)]

    def ended(self, code: int, output: str) -> int:
        if code != 0:
            return int(Result.WARNINGS)
        found = _last_object(output)
        for name in ("good", "bad", "bisection", "asked"):
            self.setProperty(name, found.get(name, ""), self.name)
        self.say(found["sentence"])
        return int(Result.SUCCESS)


class Remember(Job):
    """Keeps the end of the job where ``gmem nightly status`` looks, and makes room."""

    name = "remember"
    alwaysRun = True

    @inlineCallbacks
    def run(self) -> Steps:
        if self.given_up:
            return SKIPPED
        link = yield self.build.getUrl()
        now = int(time.time())
        told = Told(
            verdict=self.verdict or Verdict.INFRA,
            since=utc(now),
            ended=utc(now),
            seconds=float(now - int(self.getProperty("began", now))),
            tries=self.tries,
            commit=self.getProperty("commit") or "",
            link=link,
            folder=str(self.out) if self.out.is_dir() else "",
            bisection=self.getProperty("bisection") or "",
        )
        remember(self.place, self.cell.key, told)
        yield deferToThread(make_room, self.place.results(self.cell.key), self.matrix.keep)
        self.say("")
        return SUCCESS


class Bisect(Command):
    """``gmem bisect``; an attempt that was lost is gone on with."""

    name = "bisect"

    @property
    def folder(self) -> Path:
        return self.place.bisection(self.getProperty("bisection"))

    def words(self) -> list[str]:
        state = self.folder / "run"
        if (state / "bisect.json").is_file():
            return ["gmem", "bisect", "--resume", str(state), "--json"]
        suite = self.matrix.suites[self.getProperty("suite")]
        kernel = self.matrix.kernels[self.cell.kernel]
        return [
            *("gmem", "bisect", *suite.run, "--tree", self.getProperty("tree")),
            *("--good", self.getProperty("good"), "--bad", self.getProperty("bad")),
            *("--guest", self.getProperty("guest"), "--design", kernel.design),
            *(("-k", suite.cases) if suite.cases else ()),
            *("--state", str(state), "--json"),
        ]

    def ended(self, code: int, output: str) -> int:
        result = bisect_result(code, self.tries, self.matrix.retries)
        if result is Result.RETRY:
            self.say("undecided, goes on")
            return int(result)
        answer = _last_object(output) if code in (0, 6) else {}
        sentence = str(answer.get("sentence") or f"gmem bisect ended with {code}")
        found = Bisection(self.getProperty("good"), self.getProperty("bad"), answer.get("found") or "", sentence)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "answer.json").write_bytes(msgspec.json.encode(found, order="sorted"))
        self.say(sentence)
        return int(result)


def make_room(folder: Path, keep: int) -> None:
    """Removes the oldest runs of a cell beyond ``keep``: folders begin with the number of their job."""
    runs = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for path in runs[: -max(keep, KEPT_LAST)]:
        shutil.rmtree(path, ignore_errors=True)


def utc(seconds: float) -> str:
    """2026-01-02T03:04:05Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _at(place: Place) -> tuple[str, str]:
    return "--state", str(place.path)


def _last_object(output: str) -> dict[str, Any]:
    """The JSON object that a command wrote at the end of its output."""
    begin = output.rfind("\n{") + 1
    found: dict[str, Any] = json.loads(output[begin:] if output[begin : begin + 1] == "{" else output)
    return found
