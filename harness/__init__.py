# SPDX-License-Identifier: GPL-2.0-only
"""gmem-harness: what did the kernel do with guest_memfd memory, and was it right?"""

from __future__ import annotations

__version__ = "0.1.0"
