# SPDX-License-Identifier: GPL-2.0-only
"""The page allocator of the reference model; see ``docs/allocator.md``.

``framezone`` and ``machine`` know every frame and are exact; ``countzone`` knows numbers per order and type and answers
with intervals; ``placement`` bounds which freed frames come back; ``metrics`` are the kernel's own indices.
"""
