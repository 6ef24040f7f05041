# SPDX-License-Identifier: GPL-2.0-only
"""Commands end with their deadline, and take their children with them."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest

from harness.errors import InfraError
from harness.kernel.commands import run
from harness.kernel.toolchain import build_environment, jobs, require_tools


def _gone(pid: int) -> bool:
    """The process does not exist, or only waits to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_output_comes_by_lines_and_the_tail_is_kept() -> None:
    seen: list[str] = []
    log = io.StringIO()
    done = run(["sh", "-c", "seq 1 50; echo err >&2; printf last"], timeout=10, line=seen.append, log=log, tail_lines=3)
    assert done.code == 0
    assert done.tail == ("50", "err", "last")
    assert seen[:2] == ["1", "2"]
    assert log.getvalue().endswith("err\nlast\n")


def test_exit_codes_and_signals_are_the_callers_business() -> None:
    assert run(["sh", "-c", "exit 3"], timeout=10).code == 3
    assert run(["sh", "-c", "kill -9 $$"], timeout=10).code == -9


def test_standard_input_is_empty() -> None:
    assert run(["cat"], timeout=10).tail == ()


def test_a_program_that_does_not_exist() -> None:
    with pytest.raises(InfraError, match="no-such-program is not there"):
        run(["no-such-program"], timeout=10)


@pytest.mark.parametrize("stubborn", [False, True])
def test_at_the_deadline_the_whole_group_ends(tmp_path: Path, stubborn: bool) -> None:
    trap = "trap '' TERM; " if stubborn else ""
    script = f"{trap}sleep 60 & echo $! > {tmp_path}/child; echo begun; wait"
    started = time.monotonic()
    with pytest.raises(InfraError, match="sh did not finish within 1 s and was ended"):
        run(["sh", "-c", script], timeout=1.0)
    assert time.monotonic() - started < 12
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while not _gone(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _gone(child)


def test_an_interrupt_ends_the_group_too(tmp_path: Path) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", f"echo $$ > {tmp_path}/pid; echo begun; sleep 60"], timeout=30, line=interrupt)
    assert _gone(int((tmp_path / "pid").read_text()))


def test_what_changes_a_build_does_not_get_into_make(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAKEFLAGS", "KCFLAGS", "ARCH", "LLVM", "KBUILD_OUTPUT", "KCONFIG_CONFIG", "O"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("KEPT", "x")
    env = build_environment()
    assert env["KEPT"] == "x"
    assert env["LC_ALL"] == "C"
    assert not {"MAKEFLAGS", "KCFLAGS", "ARCH", "LLVM", "KBUILD_OUTPUT", "KCONFIG_CONFIG", "O"} & set(env)


def test_tools_that_are_missing_are_all_named() -> None:
    require_tools({"sh": "dash"}, work="a test")
    with pytest.raises(InfraError, match="a test needs no-a, no-b, not installed here: apt-get install a b"):
        require_tools({"sh": "dash", "no-a": "a"}, {"no-b": "b"}, work="a test")


def test_one_job_more_than_cpus() -> None:
    assert jobs([0, 1]) == 3
    assert jobs() == len(os.sched_getaffinity(0)) + 1
