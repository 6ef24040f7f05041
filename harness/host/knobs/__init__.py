# SPDX-License-Identifier: GPL-2.0-only
"""A host under test is borrowed: what is set there is written down first, and given back however the run ends."""
