# SPDX-License-Identifier: GPL-2.0-only
"""Launching guests on a host's own KVM: SEV-SNP, TDX and plain ones, and telling whether that is what came up.

``kinds`` has the records, ``line`` makes QEMU's command line from one, ``firmware`` and ``candidates`` find its
firmware.  ``schema`` asks a QEMU what it knows and ``linecheck`` holds the line against it, before anything is
started; ``refusals`` turns what QEMU says when it ends into a sentence.  ``proof`` judges from both sides of the guest
whether it is of the kind that was asked for, ``asked`` whether QEMU converted what the guest asked for.
"""
