# SPDX-License-Identifier: GPL-2.0-only
"""How a host under test is reached that this harness did not start: this machine, or another one over OpenSSH.

OpenSSH's own client, so that what an engineer has in ``~/.ssh/config`` holds: jump hosts, certificates, agents, pinned
host keys.  Nothing is asked interactively, and a host whose key is not known is refused.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

from harness.cache import cache_root
from harness.errors import InfraError

CONNECT_SECONDS: Final = 20.0
COMMAND_SECONDS: Final = 60.0
FILE_BYTES: Final = 1 << 24
"""Most bytes that are read of a file."""
PERSIST_SECONDS: Final = 60
"""A connection ends by itself so long after the last command of a process that did not end it."""
_FOLDER: Final = "gmem-ssh-"
_SSH_FAILED = 255
IN_CACHE: Final = "cache:"
"""Prefix of a path below the cache."""


class ReachError(InfraError):
    """The host is not reached, or a command there did not end in time."""


@dataclass(frozen=True)
class Done:
    """A command that ended: exit status (negative or above 128 when a signal killed it) and what it printed."""

    code: int
    output: bytes
    errors: bytes

    @property
    def text(self) -> str:
        """Standard output as text; what is no UTF-8 is replaced."""
        return self.output.decode("utf-8", "replace")

    @property
    def complaint(self) -> str:
        """Last line of standard error, or of standard output, for a sentence."""
        for stream in (self.errors, self.output):
            lines = [line for line in stream.decode("utf-8", "replace").splitlines() if line.strip()]
            if lines:
                return lines[-1].strip()[:300]
        return "it printed nothing"


class Reach(Protocol):
    """A host on which commands run as root or as the user who was logged in; every call has a deadline in seconds."""

    @property
    def name(self) -> str:
        """What to call the host in sentences."""

    def run(self, arguments: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Done:
        """Run a command to its end; raises ``ReachError`` when the host is not reached or the deadline passes.

        Words arrive as they are.  A command that does not exist ends with status 127.
        """

    def start(
        self, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program whose standard input and output are pipes here; whoever starts it ends it.

        It gets an end of file on its standard input when this side goes away, and has to end by that.
        """

    def close(self) -> None:
        """Give the connection back; safe to call twice."""


def read_file(reach: Reach, path: str, *, timeout: float = COMMAND_SECONDS) -> bytes | None:
    """A whole file there; None where it does not exist or cannot be read.

    Raises ``ReachError`` for one of more than ``FILE_BYTES`` bytes.
    """
    done = reach.run(["head", "-c", str(FILE_BYTES + 1), path], timeout=timeout)
    if done.code:
        return None
    if len(done.output) > FILE_BYTES:
        raise ReachError(f"{reach.name}: {path} has more than {FILE_BYTES} bytes")
    return done.output


def write_file(reach: Reach, path: str, data: bytes, *, timeout: float = COMMAND_SECONDS) -> None:
    """Write to an existing file of /proc or /sys, in one write(); raises ``ReachError`` with what the kernel said."""
    done = reach.run(["dd", f"of={path}", "bs=65536", "conv=notrunc"], stdin=data, timeout=timeout)
    if done.code:
        raise ReachError(f"{reach.name}: {path} cannot be written: {done.complaint}")


def put_file(reach: Reach, path: str, data: bytes, *, mode: int = 0o644, timeout: float = COMMAND_SECONDS) -> None:
    """Make a file there, whole or not at all."""
    script = 'umask 077 && cat > "$1.new" && chmod "$2" "$1.new" && mv -f "$1.new" "$1"'
    done = reach.run(["sh", "-c", script, "sh", path, f"{mode:o}"], stdin=data, timeout=timeout)
    if done.code:
        raise ReachError(f"{reach.name}: {path} cannot be made: {done.complaint}")


def check(reach: Reach, arguments: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> str:
    """Run a command that must succeed; returns its output, raises ``ReachError`` with its last words."""
    done = reach.run(arguments, stdin=stdin, timeout=timeout)
    if done.code:
        raise ReachError(f"{reach.name}: {shlex.join(arguments)} ended with status {done.code}: {done.complaint}")
    return done.text


def _run(name: str, command: Sequence[str], shown: str, stdin: bytes, timeout: float) -> Done:
    """A child of ours, with everything that it starts, ended at the deadline."""
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except FileNotFoundError:
        return Done(127, b"", f"{command[0]}: not found".encode())
    except OSError as error:
        return Done(126, b"", f"{command[0]}: {error.strerror}".encode())
    try:
        output, errors = child.communicate(stdin, timeout)
    except subprocess.TimeoutExpired as error:
        raise ReachError(f"{name}: {shown} did not end within {timeout:g} s") from error
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            # No reading to the end of file: with ControlMaster the connection's process has these pipes too, and holds
            # them while the command over there runs.
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
    return Done(child.returncode, output, errors)


class LocalReach:
    """This machine."""

    name = "this machine"

    def run(self, arguments: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Done:
        """See :class:`Reach`."""
        return _run(self.name, arguments, shlex.join(arguments), stdin, timeout)

    def start(
        self, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """See :class:`Reach`."""
        return subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )

    def close(self) -> None:
        """Nothing is open."""


def in_cache(path: str) -> str:
    """The file that is meant by ``cache:PATH`` or ``~``; relative ones stay as they are."""
    if path.startswith(IN_CACHE):
        return str(cache_root() / path.removeprefix(IN_CACHE))
    return path and str(Path(path).expanduser())


@dataclass(frozen=True)
class SshTarget:
    """Whom ``ssh`` shall reach, and how; what is left out is as in the user's own configuration of OpenSSH."""

    host: str
    user: str = ""
    port: int = 0
    key: str = ""
    """File of a private key."""
    jump: str = ""
    """As ``ssh -J`` takes it."""
    known_hosts: str = ""
    """File with the host's key, in place of the user's."""
    config: str = ""
    """File in place of ``~/.ssh/config``; ``cache:PATH`` is one in the cache, as ``gmem lab ssh-config`` writes it."""

    def options(self) -> list[str]:
        """Options of ``ssh``, without the host."""
        words = [
            *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR"),
            *("-o", f"ConnectTimeout={CONNECT_SECONDS:.0f}", "-o", "ServerAliveInterval=5"),
            *("-o", "ServerAliveCountMax=3", "-o", "ForwardX11=no", "-o", "ForwardAgent=no"),
        ]
        for option, value in (("-F", in_cache(self.config)), ("-l", self.user), ("-J", self.jump)):
            words += [option, value] if value else []
        if self.port:
            words += ["-p", str(self.port)]
        if self.key:
            words += ["-i", str(Path(self.key).expanduser()), "-o", "IdentitiesOnly=yes"]
        if self.known_hosts:
            words += ["-o", f"UserKnownHostsFile={Path(self.known_hosts).expanduser()}"]
        return words


def _sweep() -> None:
    """Remove what processes that were killed left: their connections have ended by themselves meanwhile."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError, ValueError):
            mine = folder.stat().st_uid == os.getuid() and time.time() - folder.stat().st_mtime > 2 * PERSIST_SECONDS
            if mine and not Path(f"/proc/{int((folder / 'pid').read_text())}").exists():
                shutil.rmtree(folder, ignore_errors=True)


class SshReach:
    """Another machine; one connection carries all commands (OpenSSH's ControlMaster)."""

    def __init__(self, target: SshTarget) -> None:
        """Raises ``ReachError`` when no connection stands within ``CONNECT_SECONDS``."""
        self.target = target
        if shutil.which("ssh") is None:
            raise ReachError("ssh is not installed: apt-get install openssh-client")
        _sweep()
        self._folder = Path(tempfile.mkdtemp(prefix=_FOLDER))  # 0700, and short enough for a socket's name
        (self._folder / "pid").write_text(str(os.getpid()))
        self._ssh = ["ssh", *target.options(), "-o", f"ControlPath={self._folder}/control"]
        self._open = True
        # ControlPersist: the connection ends by itself some time after this process, however that ends.
        master = [*self._ssh, "-o", "ControlMaster=yes", "-o", f"ControlPersist={PERSIST_SECONDS}", target.host, "true"]
        try:
            with (self._folder / "said").open("wb") as said:  # the connection stays behind, and would hold a pipe open
                code = subprocess.run(
                    master, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=CONNECT_SECONDS + 5, check=False
                ).returncode
        except subprocess.TimeoutExpired as error:
            self.close()
            raise ReachError(f"no SSH connection with {self.name} within {CONNECT_SECONDS:g} s") from error
        if code:
            complaint = Done(code, (self._folder / "said").read_bytes(), b"").complaint
            self.close()
            raise ReachError(f"no SSH connection with {self.name}: {complaint}")

    @property
    def name(self) -> str:
        """See :class:`Reach`."""
        return self.target.host

    def _line(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        words = [f"{key}={shlex.quote(value)}" for key, value in sorted((environment or {}).items())]
        return [*self._ssh, "-o", "ControlMaster=no", self.target.host, " ".join([*words, shlex.join(arguments)])]

    def run(self, arguments: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Done:
        """See :class:`Reach`; status 255 is taken for a connection that broke, as OpenSSH says it."""
        done = _run(self.name, self._line(arguments), shlex.join(arguments), stdin, timeout)
        if done.code == _SSH_FAILED:
            raise ReachError(f"{self.name}: the SSH connection broke during {shlex.join(arguments)}: {done.complaint}")
        return done

    def start(
        self, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """See :class:`Reach`."""
        return subprocess.Popen(
            self._line(arguments, environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def close(self) -> None:
        """End the connection, and remove its socket."""
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            command = [*self._ssh, "-O", "exit", self.target.host]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> SshReach:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
