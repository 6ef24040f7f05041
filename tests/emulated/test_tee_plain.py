# SPDX-License-Identifier: GPL-2.0-only
"""A real guest by the line of kind ``plain``, with TCG in the place of KVM: its ports are FIFOs of the real relay.

What no made-up QEMU shows: that the ports of such a line come up in that way, that a kernel of ours boots on a q35, and
that QEMU and guest say by themselves what their kind is judged by.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InfraError
from harness.guest.tee.kinds import SNP, TDX
from harness.guest.tee.proof import Standing, prove
from harness.host.remote import tee
from tests.emulated.plain_guest import host_files, plain_guest


def test_it_comes_up_and_is_proven(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    files = host_files(tmp_path_factory.mktemp("host"), None)
    with plain_guest(files, tmp_path, {}) as up:
        assert up.told.startswith("proven: "), up.told
        assert "host: QEMU has 0 guest_memfd open" in up.told
        assert "guest: its module converts by hypercall" in up.told
        facts = tee._facts(up.guest, up.pid, up.channels)
        assert [prove(kind, facts).standing for kind in (SNP, TDX)] == [Standing.CONTRADICTED] * 2
        assert prove(SNP, facts).sentence.startswith("a plain VM in place of a confidential one")
        with pytest.raises(InfraError, match="converts by hypercall, where a SEV-SNP guest does by set_memory"):
            tee._check_module(up.guest, SNP, "hypercall")
