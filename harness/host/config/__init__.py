# SPDX-License-Identifier: GPL-2.0-only
"""A host under test that the harness did not start: how it is reached, what it must have, how it is set."""

from __future__ import annotations

from harness.host.config.host import HostConfig
from harness.host.config.load import load_host

__all__ = ["HostConfig", "load_host"]
