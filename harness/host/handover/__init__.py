# SPDX-License-Identifier: GPL-2.0-only
"""Another kernel on a host under test: put it there, boot it once, and make sure that it is the one that runs."""
