# SPDX-License-Identifier: GPL-2.0-only
"""Mutation testing of the reference model: ``python -m tests.mutation --help``."""
