# SPDX-License-Identifier: GPL-2.0-only
"""Launching guests on a host's own KVM: SEV-SNP, TDX and plain ones, and telling whether that is what came up.

``kinds`` has the records, ``line`` makes QEMU's command line from one, ``firmware`` and ``candidates`` find its
firmware.  ``schema`` asks a QEMU what it knows and ``linecheck`` holds the line against it; ``plan`` does all this
before anything is started.  ``refusals`` turns what QEMU says when it ends into a sentence.  ``facts`` records what
both sides of a guest say of its kind, and ``proof`` judges whether it is the one that was asked for; ``asked`` whether
QEMU converted what the guest asked for.  ``debian`` has a QEMU of another release, for tests.
"""
