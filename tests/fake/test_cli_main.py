# SPDX-License-Identifier: GPL-2.0-only
"""Every way a command can end: one sentence, the right exit code, and never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SECONDS = 60.0
"""Deadline of every process here; importing the command takes half a second on an idle machine."""

COMMANDS = """
import os, signal, sys, time
from pathlib import Path
import click
from harness.errors import CrashError, InfraError, NoBootError, UsageError

ERRORS = {"usage": UsageError, "infra": InfraError, "no-boot": NoBootError, "crash": CrashError,
          "value": ValueError, "full": OSError}

@click.command("end")
@click.argument("how", default="nothing")
@click.option("--colour")
@click.pass_context
def command(ctx, how, colour):
    if how in ERRORS:
        raise ERRORS[how]("what is wrong,\\nwhere \\x1b[31mand what to do")
    if how.isdigit():
        return int(how)
    if how == "ctx":
        ctx.exit(6)
    if how == "exit":
        sys.exit(5)
    if how == "exit-text":
        sys.exit("a text")
    if how == "flood":
        for _ in range(100000):
            print("x" * 100)
    if how == "wait":
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("cleaning", flush=True)
            time.sleep(1)
            print("cleaned", flush=True)

@click.group("group")
def group():
    pass

@group.command("fetch")
def fetch():
    pass
"""

START = """
import sys
import harness.cli.main as main
main.COMMANDS = {
    "end": main.Lazy("end_commands", "command", "End in some way."),
    "group": main.Lazy("end_commands", "group", "A group."),
    "absent": main.Lazy("absent_commands", "command", "Not installed."),
    "broken": main.Lazy("broken_commands", "command", "Needs what is not there."),
}
sys.exit(main.main())
"""


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    sentence: str


@dataclass(frozen=True)
class Shell:
    """Starts ``gmem`` with the commands above instead of its own."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache")}

    def start(self, words: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", START, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def run(self, *words: str, **environment: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-c", START, *words],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env={**self.environment, **environment},
            check=False,
        )
        return Ended(done.returncode, done.stdout, one_sentence(done.stderr))


def one_sentence(stderr: str) -> str:
    if not stderr:
        return ""
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("gmem: ")
    assert "\x1b" not in stderr
    return lines[0].removeprefix("gmem: ")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "end_commands.py").write_text(COMMANDS)
    (tmp_path / "broken_commands.py").write_text("import a_package_that_is_not_installed\n")
    return Shell(tmp_path)


@pytest.mark.parametrize(("how", "code"), [("usage", 4), ("infra", 3), ("no-boot", 7), ("crash", 8)])
def test_an_error_of_the_harness_is_its_sentence(shell: Shell, how: str, code: int) -> None:
    assert shell.run("end", how) == Ended(code, "", "what is wrong, where and what to do")


@pytest.mark.parametrize(("how", "code"), [("nothing", 0), ("0", 0), ("1", 1), ("6", 6), ("ctx", 6), ("exit", 5)])
def test_an_exit_code_is_passed_on(shell: Shell, how: str, code: int) -> None:
    assert shell.run("end", how) == Ended(code, "", "")


def test_a_text_is_no_verdict_on_a_kernel(shell: Shell) -> None:
    assert shell.run("end", "exit-text") == Ended(3, "", "a text")


def test_a_defect_is_one_sentence_and_a_traceback_in_a_file(shell: Shell) -> None:
    ended = shell.run("end", "value")
    assert ended.code == 3
    assert "ValueError: what is wrong, where and what to do" in ended.sentence
    (saved,) = (shell.folder / "cache" / "gmem-harness" / "tracebacks").iterdir()
    assert ended.sentence.endswith(str(saved))
    text = saved.read_text()
    assert "Traceback" in text
    assert "end value" in text
    assert "end_commands.py" in text


def test_a_traceback_finds_a_place_without_a_cache(shell: Shell) -> None:
    (shell.folder / "spare").mkdir()
    ended = shell.run("end", "value", XDG_CACHE_HOME="/dev/null/x", TMPDIR=str(shell.folder / "spare"))
    assert ended.code == 3
    (saved,) = (shell.folder / "spare").iterdir()
    assert ended.sentence.endswith(str(saved))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Missing command. See: gmem --help"),
        (["ent"], "No such command 'ent'. Did you mean 'end'? See: gmem --help"),
        (["zzz"], "No such command 'zzz'. See: gmem --help"),
        (["absent"], "No such command 'absent'."),
        (["group", "fetsh"], "No such command 'fetsh'. Did you mean 'fetch'? See: gmem group --help"),
        (["--versoin"], "Did you mean '--version'? See: gmem --help"),
        (["end", "--color"], "Did you mean '--colour'? See: gmem end --help"),
        (["end", "--colour"], "requires an argument"),
        (["end", "a", "b"], "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_is_4(shell: Shell, words: list[str], sentence: str) -> None:
    ended = shell.run(*words)
    assert (ended.code, ended.out) == (4, "")
    assert sentence in ended.sentence


def test_a_command_whose_dependency_is_missing_says_which(shell: Shell) -> None:
    ended = shell.run("broken")
    assert ended.code == 3
    assert "gmem broken needs the Python module a_package_that_is_not_installed" in ended.sentence


def test_help_lists_what_is_installed_and_imports_none_of_it(shell: Shell) -> None:
    ended = shell.run("--help")
    assert (ended.code, ended.sentence) == (0, "")
    assert "End in some way." in ended.out
    assert "broken" in ended.out
    assert "absent" not in ended.out


def test_version(shell: Shell) -> None:
    ended = shell.run("--version")
    assert ended.code == 0
    assert ended.out.startswith("gmem 0.")


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "interrupted by SIGTERM"),
        (signal.SIGHUP, "interrupted by SIGHUP"),
    ],
)
def test_a_signal_lets_the_run_clean_up_and_is_2(shell: Shell, number: signal.Signals, sentence: str) -> None:
    with shell.start(["end", "wait"]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, one_sentence(err)) == (2, "cleaning\ncleaned\n", sentence)


def test_a_second_sigterm_does_not_disturb_the_clean_up(shell: Shell) -> None:
    with shell.start(["end", "wait"]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaning\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, one_sentence(err)) == (2, "cleaned\n", "interrupted by SIGTERM")


def test_nohup_is_respected(shell: Shell) -> None:
    command = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{START}"]
    with subprocess.Popen(
        [*command, "end", "wait"], stdout=subprocess.PIPE, text=True, env=shell.environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)  # the proof is that nothing happens
        assert process.poll() is None
        process.kill()


def test_a_reader_that_goes_away_is_no_verdict(shell: Shell) -> None:
    with shell.start(["end", "flood"]) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        sentence = one_sentence(process.stderr.read())
        process.wait(timeout=SECONDS)
    assert (process.returncode, sentence) == (3, "whoever read the output went away before its end")


@pytest.mark.parametrize("words", [["end", "flood"], ["--help"]])
def test_a_full_disk_is_no_verdict(shell: Shell, words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", START, *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            env=shell.environment,
            check=False,
        )
    assert done.returncode == 3
    assert one_sentence(done.stderr) == "standard output or a file cannot be written: the disk is full"


def test_the_real_command_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli.main", "doctr"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 4
    assert one_sentence(done.stderr) == "No such command 'doctr'. Did you mean 'doctor'? See: gmem --help"
