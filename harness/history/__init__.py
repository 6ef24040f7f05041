# SPDX-License-Identifier: GPL-2.0-only
"""The history: results of many runs in one database, and what they say together about each case."""
