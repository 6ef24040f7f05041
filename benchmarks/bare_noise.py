# SPDX-License-Identifier: GPL-2.0-only
"""How often the counters of this machine move while nothing is done: those of the whole machine, and those of a bare
guest_memfd with 512 pages.  ``python benchmarks/bare_noise.py [WINDOWS]``
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from harness.cache import ContentCache
from harness.counters.sample import difference
from harness.guest.launch import BARE
from harness.host.emulated.prepare import Clock
from harness.host.emulated.state import TestbedSpec
from harness.host.local.beds import LocalBeds

NAMES = (
    "nr_file_pages", "nr_unevictable", "F", "pgalloc", "pgfree", "gmem/g0", "memcg/g0/file", "memcg/g0/unevictable",
    "memcg/g0/file_mapped",
)  # fmt: skip


def main(windows: int) -> None:
    beds, spec = LocalBeds(ContentCache()), TestbedSpec.of(launch=BARE)
    moved: dict[str, list[int]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        beds.saved(spec, folder, Clock())
        with beds.restored(spec, folder, folder, Clock()) as testbed:
            testbed.channels.agents["g0"].touch(0, 0, 512, stride=1, write=True, gen=1, timeout=10.0)
            for _ in range(windows):
                testbed.settle(rcu=False)
                testbed.sample(0)
                testbed.settle()
                testbed.sample(1)
                seen = difference(testbed.fetch(0), testbed.fetch(1))
                for name in NAMES:
                    moved[name].append(abs(seen.get(name, 0)))
    for name, amounts in moved.items():
        print(f"{name:22} moved in {sum(map(bool, amounts))} of {windows} empty windows, by {max(amounts)} at most")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
