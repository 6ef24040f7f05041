# SPDX-License-Identifier: GPL-2.0-only
"""The command ``gmem``: finds the subcommand, and turns however it ends into one sentence and an exit code.

Exit codes are those of ``docs/design.md``, "Verdicts and exit codes".  A subcommand returns its exit code as an int
(None is 0) or raises.  Three things would otherwise break "one meaning each": click's own codes 1 and 2 for usage
errors and its code 1 for a closed pipe, Python's code 1 for an exception, and -15 for SIGTERM.

SIGTERM and SIGHUP mean the same as Ctrl-C: somebody or something outside stopped the run.  They are raised as a
``KeyboardInterrupt``, the one exception that pytest and every ``with`` block treat as an order to clean up and end, so
the run's own record says ``interrupted`` and the exit code is 2 too.  A repeated SIGTERM does not disturb the clean-up.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import importlib.util
import os
import re
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Final

import click

from harness import __version__
from harness.cache import cache_root
from harness.errors import GmemError, InfraError
from harness.interruption import INTERRUPTION
from harness.report.text import one_line
from harness.run.verdict import Verdict


@dataclass(frozen=True)
class Lazy:
    """A subcommand that is imported when it is asked for: ``gmem --help`` must not wait for everything."""

    module: str
    name: str
    help: str  # what ``gmem --help`` says; the command's own help may say more


COMMANDS: Final[Mapping[str, Lazy]] = MappingProxyType(
    {
        "run": Lazy("harness.cli.run", "run_command", "Run suites on a kernel and judge what it did."),
        "selftests": Lazy("harness.cli.selftests", "selftests_command", "Run the kernel's own KVM selftests on it."),
        "explore": Lazy("harness.cli.explore", "explore_command", "Random scenarios on a kernel against the model."),
        "shrink": Lazy("harness.cli.shrink", "shrink_command", "The least that still shows what a scenario shows."),
        "report": Lazy("harness.cli.report", "report_command", "Merge runs into one table of claims."),
        "statistics": Lazy(
            "harness.cli.statistics", "statistics_command", "Many runs: false alarms, and unused bounds."
        ),
        "bisect": Lazy("harness.cli.bisect", "bisect_command", "Which commit, or which kernel, brought a deviation."),
        "compare": Lazy("harness.cli.compare", "compare_command", "Two runs: what differs, and what takes longer."),
        "history": Lazy("harness.cli.history", "history_group", "Many runs: what deviates, since when, how often."),
        "nightly": Lazy("harness.cli.nightly", "nightly_group", "A matrix of kernels and hosts, night after night."),
        "doctor": Lazy("harness.cli.doctor", "doctor_command", "What this machine can do, and what is missing."),
        "host": Lazy("harness.cli.host", "host_group", "Real machines as hosts: their files, their settings."),
        "guest-image": Lazy("harness.cli.guest_image", "guest_image_group", "Larger guests: a full Debian."),
        "lab": Lazy("harness.cli.lab", "lab_group", "A testbed to play in."),
        "model": Lazy("harness.cli.model", "model_command", "Ask the model: what would a design do, and why?"),
        "kernel": Lazy("harness.cli.kernel", "kernel_group", "Kernels to test: list, fetch, build."),
    }
)


class LazyGroup(click.Group):
    """A group over :data:`COMMANDS`; a command whose module is not installed does not exist."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, lazy in COMMANDS.items() if importlib.util.find_spec(lazy.module) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        lazy = COMMANDS[cmd_name]
        try:
            command = getattr(importlib.import_module(lazy.module), lazy.name)
        except ModuleNotFoundError as error:
            raise InfraError(
                f"gmem {cmd_name} needs the Python module {error.name}: install the harness again with its dependencies"
            ) from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, COMMANDS[name].help) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


# Without a command nothing is done, and 0 would mean "pass": so that is a usage error, not a page of help.
@click.group(cls=LazyGroup, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gmem", message="%(prog)s %(version)s")
def gmem() -> None:
    """Judge what a Linux kernel does with the memory of confidential VMs (guest_memfd)."""


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C asked the process to end; the text is the signal's name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``gmem`` with ``arguments`` (default: those of the process) and return the exit code."""
    _catch_signals()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except GmemError as error:
        return _say(str(error), error.exit_code)
    except click.ClickException as error:
        return _say(_usage_sentence(error), Verdict.USAGE.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        by = f" by {error}" if isinstance(error, Terminated) else ""
        return _say(f"interrupted{by}", Verdict.INTERRUPTED.exit_code)
    except BrokenPipeError:
        _forget_stdout()
        return _say("whoever read the output went away before its end", Verdict.INFRA.exit_code)
    except Exception as error:  # noqa: BLE001 - the last resort that keeps a traceback off the terminal
        _forget_stdout()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or "standard output or a file"
            return _say(f"{where} cannot be written: the disk is full", Verdict.INFRA.exit_code)
        return _say(_unexpected(error, words), Verdict.INFRA.exit_code)


def _run(words: list[str]) -> int:
    """What click's own ``main`` does, without its exit code 1 for a closed pipe."""
    if "_GMEM_COMPLETE" in os.environ:
        gmem.main(prog_name="gmem")  # answers the shell that completes a command line, and exits
    try:
        with gmem.make_context("gmem", words) as ctx:
            result: object = gmem.invoke(ctx)
    except click.exceptions.Exit as end:
        result = end.exit_code
    except SystemExit as end:
        result = end.code
        if isinstance(result, str):
            raise InfraError(result) from end
    return int(result) if isinstance(result, int) else 0


def _say(sentence: str, code: int) -> int:
    """Print one sentence to standard error; returns ``code``."""
    try:
        print(f"gmem: {one_line(sentence)}", file=sys.stderr, flush=True)
    except OSError:
        return code  # nobody is left to read it
    return code


def _usage_sentence(error: click.ClickException) -> str:
    """click's message with the nearest name, and where to read more."""
    message = error.format_message()
    ctx = getattr(error, "ctx", None)
    unknown = re.match(r"No such command '(.*?)'", message)  # click before 8.4 suggests options, but not commands
    if unknown and "Did you mean" not in message and ctx is not None and isinstance(ctx.command, click.Group):
        near = difflib.get_close_matches(unknown[1], ctx.command.list_commands(ctx), n=1)
        message += f" Did you mean '{near[0]}'?" if near else ""
    path = ctx.command_path if ctx is not None else "gmem"
    return f"{message} See: {path} --help"


def _unexpected(error: Exception, words: Sequence[str]) -> str:
    """Keep the traceback in a file; returns the sentence that names it."""
    text = f"gmem {__version__}: {shlex.join(words)}\n{''.join(traceback.format_exception(error))}"
    what = f"{type(error).__name__}: {one_line(str(error), 300)}"
    for folder in (cache_root() / "tracebacks", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd, name = tempfile.mkstemp(prefix=time.strftime("gmem-%Y%m%d-%H%M%S-"), suffix=".txt", dir=folder)
        except OSError:
            continue
        with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
        return f"this is a defect of gmem itself ({what}); please report it with {name}"
    return f"this is a defect of gmem itself ({what}); its traceback could not be saved anywhere"


def _forget_stdout() -> None:
    """If standard output takes no more, let the interpreter flush it to nowhere: its failure would be exit code 120."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _interrupt(number: int, frame: FrameType | None) -> None:
    INTERRUPTION.asked = True
    raise KeyboardInterrupt


def _catch_signals() -> None:
    INTERRUPTION.asked = False
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a job in the background has it ignored
        signal.signal(signal.SIGINT, _interrupt)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup has it ignored, and that is meant
        signal.signal(signal.SIGHUP, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, _already_ending)
    raise Terminated(signal.Signals(number).name)


def _already_ending(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN: programs started by the clean-up would inherit that."""


if __name__ == "__main__":
    sys.exit(main())
