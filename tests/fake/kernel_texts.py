# SPDX-License-Identifier: GPL-2.0-only
"""Texts of /proc of one small host, as a kernel prints them: 8 GiB free, all of it in blocks of order 10."""

from __future__ import annotations

VMSTAT = "nr_free_pages 2097152\nnr_file_pages 1000\nthp_split_page 0\n"

ZONEINFO = """\
Node 0, zone   Normal
  pages free     2097152
        min      4096
  pagesets
    cpu: 0
              count:    100
              high:     252
              batch:    63
              high_min: 252
              high_max: 4096
  vm stats threshold: 24
  start_pfn:           4096
"""

BUDDYINFO = "Node 0, zone   Normal      0      0      0      0      0      0      0      0      0      0   2048 \n"

_NONE = "      0" * 10
PAGETYPEINFO = (
    "Page block order: 9\nPages per block:  512\n\n"
    f"Free pages count per migrate type at order {''.join(f'{order:7}' for order in range(11))} \n"
    f"Node    0, zone   Normal, type    Unmovable {_NONE}      0 \n"
    f"Node    0, zone   Normal, type      Movable {_NONE}   2048 \n\n"
    "Number of blocks type     Unmovable      Movable \n"
    "Node 0, zone   Normal            8         4096 \n"
)

TEXTS = {"vmstat": VMSTAT, "zoneinfo": ZONEINFO, "pagetypeinfo": PAGETYPEINFO, "buddyinfo": BUDDYINFO}
