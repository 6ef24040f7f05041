# SPDX-License-Identifier: GPL-2.0-only
"""Which commit, or which kernel of a list, brought a deviation: the decision (pure), and the driver around it."""
