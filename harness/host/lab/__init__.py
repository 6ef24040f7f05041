# SPDX-License-Identifier: GPL-2.0-only
"""A testbed that stays up after the command that brought it up: ``gmem lab``.

A *holder* process owns the testbed, so that its files and processes go when the holder goes, however it ends.
Everybody else reaches it through a folder (:mod:`.place`) with a record (:mod:`.record`), a lock and a Unix socket.
"""
