# SPDX-License-Identifier: GPL-2.0-only
"""Random exploration of a kernel against the model: draw, run, shrink, remember (docs/explore.md)."""
