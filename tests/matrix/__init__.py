# SPDX-License-Identifier: GPL-2.0-only
"""Every kernel of kernels.yaml against every design: ``pytest tests/matrix``; minutes, once the kernels are built."""
