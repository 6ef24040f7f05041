# SPDX-License-Identifier: GPL-2.0-only
"""``python -m tests.emulated.borrower HOST [SECONDS]``: borrows a host as a run does, and is killed by tests/emulated.

Locks, sets knobs, makes a folder, starts a QEMU that sleeps, holds all that (1 s unless told), gives back; says on
standard output how far it is.
"""

from __future__ import annotations

import sys
import time
from typing import Final

from harness.host.config.knobs import wanted
from harness.host.config.load import load_host
from harness.host.config.reaching import reach_host
from harness.host.knobs.lending import lent
from harness.host.reach import check

FOLDER: Final = "/run/gmem-borrowed"
QEMU: Final = (
    *("qemu-system-x86_64", "-name", "borrowed", "-M", "none", "-display", "none"),
    *("-S", "-monitor", "none", "-serial", "none"),
)


def main(host: str, hold: float) -> None:
    config = load_host(host)
    reach = reach_host(config)
    say("reached")
    with lent(reach, config.name, wanted(config), purpose="a run to be killed", notice=say) as mine:
        say("set")
        mine.made(FOLDER)
        check(reach, ["mkdir", FOLDER])
        qemu = reach.start(mine.recorded("qemu borrowed", QEMU))
        say("started")
        time.sleep(hold)
        mine.beat()
    say("given back")
    qemu.wait(30)
    reach.close()


def say(what: str) -> None:
    print(what, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float((*sys.argv, "1")[2]))
