# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own selftests on the default kernel: they pass, and a fault that they check for is caught."""

from __future__ import annotations

from tests.emulated.conftest import Gmem
from tests.planted.faults import FAULTS


def test_the_selftests_pass(gmem_cli: Gmem) -> None:
    # that one makes memory slots for half a minute and more: docs/kernels.md has what it says of each kernel
    ended = gmem_cli.run("-k", "not set_memory_region", command="selftests")
    assert ended.code == 0, ended.said()
    verdicts = {case["case"]: case["verdict"] for case in ended.cases}
    assert verdicts == {
        "guest_memfd_test": "pass",
        "pre_fault_memory_test": "pass",
        "x86/private_mem_conversions_test": "pass",
        "x86/private_mem_kvm_exits_test": "pass",
        "x86/guest_memfd_conversions_test": "skip",
    }
    assert ended.case("x86/guest_memfd_conversions_test")["sentence"].startswith("absent: ")
    assert ended.info["design"] == "order0"
    assert gmem_cli.left_behind() == []


def test_a_hole_of_one_page_that_frees_nothing_is_caught(gmem_cli: Gmem) -> None:
    ended = gmem_cli.run(
        "-k", "guest_memfd_test", "--patch", str(FAULTS / "punch-keeps-single-page.patch"), command="selftests"
    )
    assert ended.code == 1, ended.said()
    case = ended.case("guest_memfd_test")
    assert case["verdict"] == "deviates"
    assert case["sentence"].startswith("exit status 254: guest_memfd_test.c:")
    output = ended.out / case["evidence"] / "output.txt"
    assert "==== Test Assertion Failure ====" in output.read_text()
