# SPDX-License-Identifier: GPL-2.0-only
"""Planted faults: small bugs patched into the kernels under test, and a board of which of them are caught.

``python -m tests.planted --help`` is the runner, ``faults/`` has a patch and a record of each fault.
"""
