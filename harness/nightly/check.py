# SPDX-License-Identifier: GPL-2.0-only
"""Buildbot's own check of the generated configuration, in this process."""

from __future__ import annotations

from buildbot.config.errors import ConfigErrors
from buildbot.config.master import FileLoader

from harness.errors import UsageError
from harness.nightly.files import write_master
from harness.nightly.master import configuration
from harness.nightly.place import Place
from harness.report.text import one_line


def check(place: Place) -> None:
    """Raises :class:`UsageError` with the first thing that we or Buildbot do not take."""
    configuration(place.path)
    write_master(place)
    try:
        FileLoader(str(place.master), "master.cfg").loadConfig()
    except ConfigErrors as error:
        raise UsageError(f"Buildbot does not take the matrix: {one_line(error.errors[0], 300)}") from error
