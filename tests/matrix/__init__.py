# SPDX-License-Identifier: GPL-2.0-only
"""Every kernel of kernels.yaml against every design: ``pytest tests/matrix``, some minutes when all kernels are built."""
