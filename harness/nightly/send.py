# SPDX-License-Identifier: GPL-2.0-only
"""Sends a change for each kernel to the running master, as ``buildbot sendchange`` does.

A process of its own, since it needs Twisted's loop: ``python -m harness.nightly.send STATE``, with the changes as JSON
on standard input.  The password stays in the settings, where nobody else sees it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from buildbot.clients.sendchange import Sender
from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import react

from harness.nightly.place import LOOPBACK, Place

USER = "gmem"


@inlineCallbacks
def send(reactor: Any, state: str) -> Any:
    """All of them, one after the other."""
    settings = Place(Path(state)).settings()
    sender = Sender(f"{LOOPBACK}:{settings.worker_port}", (USER, settings.password))
    for change in json.load(sys.stdin):
        yield sender.send(files=[], who="gmem nightly once", **change)


if __name__ == "__main__":
    react(send, sys.argv[1:2])
