# SPDX-License-Identifier: GPL-2.0-only
"""The files that Buildbot's own programs want to find: a few lines each, which call this package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from harness.nightly.place import LOOPBACK, Place, Settings

LOG_BYTES: Final = 10_000_000
LOGS_KEPT: Final = 5

_HEAD = "# Written by gmem nightly at each start.\n"

MASTER_CFG: Final = (
    _HEAD
    + """from pathlib import Path

from harness.nightly.master import configuration

BuildmasterConfig = configuration(Path({state!r}))
"""
)

_TAC = (
    _HEAD
    + """from twisted.application import service
from twisted.python.log import FileLogObserver, ILogObserver
from twisted.python.logfile import LogFile
{more_imports}
basedir = {basedir!r}
application = service.Application({name!r})
application.setComponent(
    ILogObserver, FileLogObserver(LogFile("twistd.log", basedir, rotateLength={length}, maxRotatedFiles={kept})).emit
)
"""
)

_MASTER_TAC: Final = (
    _TAC
    + """configfile = "master.cfg"
BuildMaster(basedir, configfile, umask=0o077).setServiceParent(application)
# upgrade-master looks for: Application('buildmaster')
"""
)

_WORKER_TAC: Final = (
    _TAC
    + """settings = Place(Path({state!r})).settings()
Worker(
    {host!r}, settings.worker_port, {worker!r}, settings.password, basedir, keepalive={keepalive}, umask=0o077,
    maxdelay={maxdelay},
).setServiceParent(application)
"""
)
KEEPALIVE_SECONDS: Final = 60
RECONNECT_SECONDS: Final = 5


def write_master(place: Place) -> None:
    """``master.cfg`` and ``buildbot.tac``."""
    place.master.mkdir(parents=True, exist_ok=True, mode=0o700)
    (place.master / "master.cfg").write_text(MASTER_CFG.format(state=str(place.path)))
    (place.master / "buildbot.tac").write_text(
        _MASTER_TAC.format(
            more_imports="\nfrom buildbot.master import BuildMaster\n",
            basedir=str(place.master), name="buildmaster", length=LOG_BYTES, kept=LOGS_KEPT,
        )
    )  # fmt: skip


def write_worker(place: Place, host: str) -> Path:
    """``buildbot.tac`` of a host's worker; returns its folder."""
    folder = place.worker(host)
    (folder / "info").mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "info" / "host").write_text(f"the host under test {host}\n")
    (folder / "buildbot.tac").write_text(
        _WORKER_TAC.format(
            more_imports="from pathlib import Path\n\nfrom buildbot_worker.bot import Worker\n"
            "from harness.nightly.place import Place\n",
            basedir=str(folder), name="buildbot-worker", length=LOG_BYTES, kept=LOGS_KEPT,
            state=str(place.path), host=LOOPBACK, worker=host,
            keepalive=KEEPALIVE_SECONDS, maxdelay=RECONNECT_SECONDS,
        )
    )  # fmt: skip
    return folder


def programs(place: Place, settings: Settings, host: str | None) -> list[str]:
    """Command line of the master (``host`` None) or of a host's worker, to be run in the foreground."""
    folder = place.master if host is None else place.worker(host)
    return ["--nodaemon", "--no_save", "--pidfile=", f"--rundir={folder}", f"--python={folder / 'buildbot.tac'}"]
