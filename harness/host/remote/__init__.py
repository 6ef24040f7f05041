# SPDX-License-Identifier: GPL-2.0-only
"""A host under test that is reached over SSH: guests are started there afresh for each case."""
