# SPDX-License-Identifier: GPL-2.0-only
"""Options that several commands share: one word, one meaning, one text."""

from __future__ import annotations

import click

from harness.run.walk import STEP_SECONDS

host_option = click.option("--host", default="emulated", show_default=True, help="Host under test.")
kernel_option = click.option(
    "--kernel", metavar="NAME|TREE|IMAGE", help="Kernel under test (default: that of kernels.yaml)."
)
patch_option = click.option(
    "--patch", multiple=True, type=click.Path(exists=True, dir_okay=False), help="Patch on a named kernel."
)
design_option = click.option(
    "--design", default="auto", show_default=True, help="gmem design to judge by; auto reads the kernel."
)
cmdline_option = click.option("--cmdline", default="", help="Added to the command line of the kernel under test.")
deadline_option = click.option(
    "--deadline", type=click.FloatRange(min=1), default=STEP_SECONDS, show_default=True, help="Seconds per step."
)
out_option = click.option(
    "--out", type=click.Path(file_okay=False), help="Output directory (default: gmem-out/DATE-TIME-xxxx)."
)
expression_option = click.option(
    "-k", "expression", default="", help="Only cases whose name matches this pytest expression."
)
