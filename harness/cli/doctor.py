# SPDX-License-Identifier: GPL-2.0-only
"""``gmem doctor``: what this machine can do, what is missing, and the command that mends it.

Wherever there is a part that will need the thing, that part is asked, so that doctor and run cannot disagree.  Things
are tested, versions are only shown: distributions backport.  Nothing here needs root, or looks different to root.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import click

from harness.cache import cache_root
from harness.cli.doctor_host import OF_THE_FILE, doctor_host
from harness.errors import GmemError, InfraError, UsageError
from harness.host.emulated.machine import MachineSpec, qemu_program
from harness.images.firmware import firmware_from_qboot
from harness.images.recipes import QEMU_DATA, find_program
from harness.kernel.make import BUILD_BYTES
from harness.kernel.toolchain import BUILD_TOOLS, PATCH_TOOLS, UNPACK_TOOLS, require_tools
from harness.kernel.worktree import EXTRACTED_BYTES
from harness.report.text import one_line
from harness.run.verdict import Verdict

_ASK_SECONDS: Final = 20.0  # the slowest answer takes 0.2 s on an idle machine
_MEMORY_NEEDED: Final = (MachineSpec().memory_mib + 512) << 20
"""Bytes: the RAM of the emulated host, QEMU's translation buffer and the harness itself beside it."""
_DISK_NEEDED: Final = EXTRACTED_BYTES + BUILD_BYTES + 1_000_000_000
"""Bytes: a kernel's source and its build, then its archive, the images, and a few saved testbeds of 150 MB each."""

_QEMU: Final = "qemu-system-x86_64"
_QEMU_PACKAGES: Final = "apt-get install qemu-system-x86 qemu-system-data"
_NEWER_QEMU: Final = f"{_QEMU_PACKAGES}  # 10.0 or later: Debian 13, or bookworm-backports"
_KERNEL_PACKAGES: Final = "apt-get install libelf-dev " + " ".join(
    sorted({package for table in (BUILD_TOOLS, UNPACK_TOOLS, PATCH_TOOLS) for package in table.values()})
)
_QMP: Final = "".join(
    json.dumps({"execute": command}) + "\n" for command in ("qmp_capabilities", "query-migrate-capabilities", "quit")
)


@dataclass(frozen=True)
class Check:
    """One thing this machine may have."""

    name: str
    ask: Callable[[], str]
    """Returns what was found; raises :class:`GmemError` with what is missing."""
    fix: str
    needed: bool = True
    """Whether the emulated host cannot run without it."""
    after: str = ""
    """Name of an earlier check without which this one cannot be asked: a missing program is reported once."""


@dataclass(frozen=True)
class Answer:
    """What a check found: ``ok``, ``missing``, or ``note`` for something that is absent and not needed."""

    name: str
    state: str
    found: str
    fix: str
    needed: bool


def _say(command: Sequence[str | Path], text: str | None = None) -> str:
    """Standard output of a command that is expected to succeed within the deadline."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            [str(word) for word in command],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_ASK_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InfraError(f"{name} did not answer within {_ASK_SECONDS:.0f} s") from error
    except FileNotFoundError as error:
        raise InfraError(f"{name} is not installed") from error
    except OSError as error:
        raise InfraError(f"{name} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise InfraError(f"{name} exited with {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.stdout


def _python() -> str:
    if sys.version_info < (3, 11):  # noqa: UP036 - asks the interpreter that runs, whatever the package's metadata says
        raise InfraError(f"{platform.python_version()} is too old")
    return platform.python_version()


def _qemu_version() -> str:
    program = qemu_program()
    first = _say([program, "--version"]).partition("\n")[0]
    return f"{first.removeprefix('QEMU emulator version ')}, {program}"


def _qemu_lists(option: str, word: str) -> str:
    """``word`` is the first word of a line of ``qemu-system-x86_64 OPTION help``."""
    lines = _say([qemu_program(), option, "help"]).splitlines()
    if not any(line.split()[:1] == [word] for line in lines):
        raise InfraError(f"this QEMU has no {word} ({option} help)")
    return "there"


def _qemu_saves() -> str:
    """The capability can only be asked for at run time; starting QEMU with TCG is a proof by itself."""
    arguments = ["-M", "none", "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio"]
    replies = []
    for line in _say([qemu_program(), *arguments], _QMP).splitlines():
        try:
            replies.append(json.loads(line).get("return"))
        except (ValueError, AttributeError):
            continue
    names = {entry.get("capability") for reply in replies if isinstance(reply, list) for entry in reply}
    if "mapped-ram" not in names:
        raise InfraError("this QEMU cannot save a machine with mapped-ram")
    return "there"


def _qboot() -> str:
    path = QEMU_DATA / "qboot.rom"
    firmware_from_qboot(path)
    return str(path)


def _static_c() -> str:
    with tempfile.TemporaryDirectory(prefix="gmem-doctor-") as folder:
        program = Path(folder) / "program"
        try:
            _say(["gcc", "-static", "-x", "c", "-o", program, "-"], "int main(void) { return 0; }\n")
        except InfraError as error:
            if "-lc" in str(error):
                raise InfraError("the static C library is not installed") from error
            raise
        _say([program])
    return _say(["gcc", "--version"]).partition("\n")[0]


def _kernel_tools() -> str:
    require_tools(BUILD_TOOLS, UNPACK_TOOLS, PATCH_TOOLS, work="building a kernel")
    return "there"


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise InfraError(f"{name} is not installed")
    return found


def _busybox() -> str:
    program = find_program("busybox")
    if b"/ld-linux" in program.read_bytes():
        raise InfraError(f"{program} needs shared libraries")
    return f"{program}, static"


def _memory() -> str:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return _enough(int(value.split()[0]) << 10, _MEMORY_NEEDED, "")
    raise InfraError("/proc/meminfo does not say how much is available")


def _disk() -> str:
    place = cache_root()
    while not place.exists():
        place = place.parent
    stat = os.statvfs(place)
    return _enough(stat.f_bavail * stat.f_frsize, _DISK_NEEDED, f" in {cache_root()}")


def _enough(available: int, needed: int, where: str) -> str:
    text = f"{available / 2**30:.1f} GiB free{where}, needed {needed / 2**30:.1f} GiB"
    if available < needed:
        raise InfraError(text)
    return text


def _kvm() -> str:
    if not Path("/dev/kvm").exists():
        raise InfraError("absent; not needed: the emulated host runs without hardware virtualization")
    return "present; not used: the emulated host runs without hardware virtualization"


def _kernel_sources() -> str:
    names = [name for name in _say(["apt-cache", "pkgnames", "linux-source-"]).split() if name[-1:].isdigit()]
    if not names:
        raise InfraError("apt knows no linux-source package")
    return "apt offers " + ", ".join(sorted(names))


CHECKS: Final = (
    Check("python", _python, "apt-get install python3  # 3.11 or later"),
    Check(_QEMU, _qemu_version, _NEWER_QEMU),
    Check("qemu: sev-snp-guest", partial(_qemu_lists, "-object", "sev-snp-guest"), _NEWER_QEMU, after=_QEMU),
    Check("qemu: tcg", partial(_qemu_lists, "-accel", "tcg"), _NEWER_QEMU, after=_QEMU),
    Check("qemu: microvm", partial(_qemu_lists, "-M", "microvm"), _NEWER_QEMU, after=_QEMU),
    Check("qemu: mapped-ram", _qemu_saves, _NEWER_QEMU, after=_QEMU),
    Check("qemu-system-x86_64-microvm", lambda: str(find_program("qemu-system-x86_64-microvm")), _QEMU_PACKAGES),
    Check("qboot.rom", _qboot, _NEWER_QEMU),
    Check("gcc and static libc", _static_c, "apt-get install gcc libc6-dev"),
    Check("kernel build tools", _kernel_tools, _KERNEL_PACKAGES),
    Check("cpio", partial(_program, "cpio"), "apt-get install cpio"),
    Check("ldd", partial(_program, "ldd"), "apt-get install libc-bin"),
    Check("busybox", _busybox, "apt-get install busybox-static"),
    Check("dropbear", lambda: str(find_program("dropbear")), "apt-get install dropbear-bin"),
    Check("ssh", partial(_program, "ssh"), "apt-get install openssh-client  # for other hosts", needed=False),
    Check("memory", _memory, "end some programs"),
    Check("disk", _disk, "free some space, or export XDG_CACHE_HOME=DIRECTORY on a larger file system"),
    Check("linux-source", _kernel_sources, "apt-get update, or gmem run --kernel TREE or BZIMAGE", needed=False),
    Check("/dev/kvm", _kvm, "", needed=False),
)


def examine(checks: Sequence[Check] = CHECKS) -> list[Answer]:
    """Ask all checks; one that breaks counts as missing and does not hide the others."""
    answers: list[Answer] = []
    for check in checks:
        if any(answer.name == check.after and answer.state != "ok" for answer in answers):
            answers.append(Answer(check.name, "missing", f"cannot be asked without {check.after}", "", check.needed))
            continue
        try:
            state, found = "ok", check.ask()
        except (GmemError, OSError, ValueError) as error:
            state, found = "missing" if check.needed else "note", str(error)
        answers.append(
            Answer(check.name, state, one_line(found, 300), "" if state == "ok" else check.fix, check.needed)
        )
    return answers


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--host", metavar="FILE|NAME", help="Look at a real machine as a host under test (gmem host list).")
@click.option(
    "--require",
    multiple=True,
    is_flag=False,
    flag_value=OF_THE_FILE,
    metavar="[KIND]",
    help="With --host: exit with 3 when it cannot have guests of KIND; without KIND, when it lacks anything of FILE.",
)
@click.option("--save", metavar="PATH", help="With --host: also keep all texts that were read there in one file.")
def doctor_command(as_json: bool, host: str | None, require: tuple[str, ...], save: str | None) -> int:
    """Show what this machine can do, what is missing, and the command that mends it.

    Exits with 0 when the emulated host can run here, else with 3; with --host, with 0 when that could be looked at.
    """
    if host is not None:
        return doctor_host(host, as_object=as_json, required=require, save=save)
    if require or save:
        raise UsageError("--require and --save are about a host: give them with --host")
    answers = examine()
    missing = [answer.name for answer in answers if answer.state == "missing"]
    if as_json:
        report = {"checks": [vars(answer) for answer in answers], "ready": not missing}
        click.echo(json.dumps(report, indent=1, sort_keys=True))
    else:
        width = max(len(answer.name) for answer in answers)
        for answer in answers:
            click.echo(f"{answer.state:<8} {answer.name:<{width}}  {answer.found}")
            if answer.fix:
                click.echo(f"{'':8} {'':{width}}  fix: {answer.fix}")
        ready = "ready: the emulated host can run here"
        click.echo(f"not ready, missing: {', '.join(missing)}" if missing else ready)
    return Verdict.INFRA.exit_code if missing else Verdict.PASS.exit_code
