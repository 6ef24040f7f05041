# SPDX-License-Identifier: GPL-2.0-only
"""The reference that is written from the code: ``python -m harness.reference`` makes docs/reference anew."""
