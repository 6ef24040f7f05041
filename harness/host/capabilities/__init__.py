# SPDX-License-Identifier: GPL-2.0-only
"""What a host under test can do, why not, and what mends it; texts are gathered once and judged by pure functions."""
