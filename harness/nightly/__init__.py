# SPDX-License-Identifier: GPL-2.0-only
"""Nightly runs: a matrix of kernels, hosts, guest kinds and suites, run by Buildbot."""
