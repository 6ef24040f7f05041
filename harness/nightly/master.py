# SPDX-License-Identifier: GPL-2.0-only
"""The configuration of the Buildbot master, from a matrix.

A builder is one (host, guest kind, suite) and a change is a commit of a kernel's branch, or one night of a kernel that
is no branch: so the grid view has kernels and their commits on one side and hosts on the other.  Every host has one
worker and one lock: one job at a time, bisections too.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from buildbot.plugins import changes, schedulers, steps, util, worker

from harness.host.config.load import load_host
from harness.nightly.matrix import Cell, Matrix, load_matrix
from harness.nightly.place import LOOPBACK, MARK, Place, Settings
from harness.nightly.steps import Begin, Bisect, History, Kernel, News, Remember, Run
from harness.nightly.web import pages

CHANGES: Final = "gmem"
"""Who may send changes: ``gmem nightly once``."""
BISECT: Final = "bisect"
BISECT_HOURS: Final = 48.0
"""Deadline of an attempt at a bisection; the next one goes on where it stood."""
KEPT_DAYS: Final = 90
"""Of logs and builds in Buildbot's own database; results are kept by the history."""
HOST_LOCK: Final = util.WorkerLock("host under test", maxCount=1)
BUILD_LOCK: Final = util.MasterLock("kernel trees", maxCount=1)
"""A tree holds one commit at a time, and a kernel build takes every CPU of the controller."""


def configuration(state: Path) -> dict[str, Any]:
    """``BuildmasterConfig`` of the state folder; raises :class:`UsageError` for a matrix that cannot be run."""
    place = Place(state)
    settings = place.settings()
    matrix = load_matrix(Path(settings.matrix))
    return {
        "title": "gmem nightly",
        "titleURL": "https://www.buildbot.net/",
        "buildbotURL": page_url(matrix, settings),
        "buildbotNetUsageData": None,
        "db": {"db_url": database_url(matrix)},
        "protocols": {"pb": {"port": f"tcp:{settings.worker_port}:interface={LOOPBACK}"}},
        "workers": [worker.Worker(host, settings.password, max_builds=2) for host in matrix.hosts],
        "builders": builders(place, matrix),
        "schedulers": starts(matrix, timers=settings.timers),
        "change_source": sources(matrix, settings),
        "www": pages(matrix, settings),
        "configurators": [util.JanitorConfigurator(logHorizon=_days(), build_data_horizon=_days(), hour=12)],
        "caches": {"Changes": 200, "Builds": 500},
    }


def page_url(matrix: Matrix, settings: Settings) -> str:
    """Where the pages are."""
    host = matrix.web.interface
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.web_port}/"


def database_url(matrix: Matrix) -> str:
    """As SQLAlchemy wants it, with the driver that the history uses too."""
    if not matrix.database:
        return "sqlite:///state.sqlite"
    return f"postgresql+psycopg://{matrix.database.split('://', 1)[1]}"


def builders(place: Place, matrix: Matrix) -> list[Any]:
    """One for each column of the grid, and one for bisections."""
    found = []
    for name in dict.fromkeys(cell.builder for cell in matrix.cells()):
        cell = next(one for one in matrix.cells() if one.builder == name)
        found.append(
            util.BuilderConfig(
                name=name,
                workernames=[cell.host],
                factory=job(place, matrix, cell),
                tags=[cell.host, cell.guest, cell.suite],
                locks=[HOST_LOCK.access("exclusive")],
                env=environment(place),
            )
        )
    hosts = [host for host in matrix.hosts if emulated(matrix, host)]
    if bisects(matrix):
        found.append(
            util.BuilderConfig(
                name=BISECT,
                workernames=hosts,
                factory=bisection(place, matrix),
                tags=[BISECT],
                locks=[HOST_LOCK.access("exclusive"), BUILD_LOCK.access("exclusive")],
                env=environment(place),
            )
        )
    return found


def job(place: Place, matrix: Matrix, cell: Cell) -> Any:
    """The steps of a builder's jobs; which kernel it is says each build."""
    hours = matrix.hours
    factory = util.BuildFactory()
    factory.workdir = "."
    factory.addStep(_of(Begin, place, cell))
    factory.addStep(
        _of(Kernel, place, cell, hours=hours, doStepIf=_is_branch(matrix), locks=[BUILD_LOCK.access("exclusive")])
    )
    factory.addStep(_of(Run, place, cell, hours=hours))
    factory.addStep(_of(History, place, cell))
    factory.addStep(_of(News, place, cell))
    if bisects(matrix):
        factory.addStep(
            steps.Trigger(
                schedulerNames=[BISECT],
                waitForFinish=False,
                doStepIf=lambda step: bool(step.getProperty("asked")),
                hideStepIf=lambda results, step: not step.getProperty("asked"),
                set_properties={
                    "tree": util.Interpolate("%(kw:tree)s", tree=_tree(place, matrix)),
                    "guest": cell.guest,
                    "suite": cell.suite,
                    **{name: util.Property(name) for name in ("kernel", "good", "bad", "bisection")},
                },
            )
        )
    factory.addStep(_of(Remember, place, cell))
    return factory


def bisection(place: Place, matrix: Matrix) -> Any:
    """The steps of a bisection; what is asked stands in the properties of its build."""
    nobody = Cell("", BISECT, "", "")
    factory = util.BuildFactory([_of(Begin, place, nobody), _of(Bisect, place, nobody, hours=BISECT_HOURS)])
    factory.workdir = "."
    return factory


def starts(matrix: Matrix, *, timers: bool) -> list[Any]:
    """What starts jobs: a new commit or a change that is sent, the clock, a person."""
    found = []
    for kernel in matrix.kernels:
        names = list(dict.fromkeys(cell.builder for cell in matrix.cells() if cell.kernel == kernel))
        if not names:
            continue
        mine = util.ChangeFilter(category=kernel)
        which = {"kernel": kernel}
        found.append(
            schedulers.AnyBranchScheduler(
                name=f"{kernel}: changes", change_filter=mine, builderNames=names, properties=which
            )
        )
        if not timers:
            continue
        if matrix.at is not None:
            hour, minute = matrix.at
            found.append(
                schedulers.Nightly(
                    name=f"{kernel}: nightly",
                    builderNames=names,
                    hour=hour,
                    minute=minute,
                    change_filter=mine,
                    codebases={"": codebase(matrix, kernel)},
                    createAbsoluteSourceStamps=True,  # that of the newest change: its row of the grid
                    properties=which,
                )
            )
        fixed = codebase(matrix, kernel)
        found.append(
            schedulers.ForceScheduler(
                name="by-hand-" + "".join(letter if letter.isalnum() else "-" for letter in kernel),
                buttonName=f"run {kernel}",
                builderNames=names,
                codebases=[
                    util.CodebaseParameter(
                        "",
                        branch=util.FixedParameter(name="branch", default=fixed["branch"]),
                        revision=util.StringParameter(name="revision", label="commit:", default=""),
                        repository=util.FixedParameter(name="repository", default=fixed["repository"]),
                        project=util.FixedParameter(name="project", default=""),
                    )
                ],
                properties=[util.FixedParameter(name="kernel", default=kernel)],
            )
        )
    if bisects(matrix):
        found.append(schedulers.Triggerable(name=BISECT, builderNames=[BISECT]))
    return found


def codebase(matrix: Matrix, kernel: str) -> dict[str, str]:
    """Where a kernel comes from, as Buildbot keeps it; a kernel that is no branch has its name for one.

    Changes tell kernels apart by their category: Buildbot's project is no part of what a clock starts.
    """
    entry = matrix.kernels[kernel]
    return {"branch": entry.branch or kernel, "repository": entry.git}


def sources(matrix: Matrix, settings: Settings) -> list[Any]:
    """What brings changes: git trees that are polled, and ``gmem nightly once``."""
    found: list[Any] = [changes.PBChangeSource(user=CHANGES, passwd=settings.password)]
    for kernel, entry in matrix.kernels.items():
        if entry.git and matrix.poll and settings.timers:
            found.append(
                changes.GitPoller(
                    name=f"git {kernel}",
                    repourl=entry.git,
                    branches=[entry.branch],
                    category=kernel,
                    pollInterval=matrix.poll * 60,
                    pollAtLaunch=True,
                    workdir=f"poll-{kernel}",
                )
            )
    return found


def emulated(matrix: Matrix, host: str) -> bool:
    """Whether the harness starts that host itself: bisections run there."""
    return load_host(matrix.hosts[host].host).transport == "emulated"


def bisects(matrix: Matrix) -> bool:
    branches = any(entry.git for entry in matrix.kernels.values())
    return matrix.bisect and branches and any(emulated(matrix, host) for host in matrix.hosts)


def environment(place: Place) -> dict[str, str]:
    """Of every command: whose it is."""
    return {MARK: str(place.path), "PYTHONUNBUFFERED": "1", "GIT_TERMINAL_PROMPT": "0"}


def tree_of(place: Place, matrix: Matrix, kernel: str) -> str:
    """The git tree on this machine: the user's own, or our copy of one that has an URL."""
    entry = matrix.kernels[kernel]
    return str(place.mirror(kernel)) if is_remote(entry.git) else entry.git


def is_remote(git: str) -> bool:
    return not git.startswith("/")


def _tree(place: Place, matrix: Matrix) -> Any:
    @util.renderer
    def tree(props: Any) -> str:
        kernel = props.getProperty("kernel")
        return tree_of(place, matrix, kernel) if matrix.kernels[kernel].git else ""

    return tree


def _is_branch(matrix: Matrix) -> Any:
    def asked(step: Any) -> bool:
        return bool(matrix.kernels[step.getProperty("kernel")].git)

    return asked


def _of(kind: Any, place: Place, cell: Cell, **more: Any) -> Any:
    return kind(str(place.path), cell.host, cell.guest, cell.suite, **more)


def _days() -> Any:
    return timedelta(days=KEPT_DAYS)
