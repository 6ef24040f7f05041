# SPDX-License-Identifier: GPL-2.0-only
"""SSH to the emulated host and through it to a guest: keys made per testbed, host keys pinned.

dropbear reads its host key in its own format; for Ed25519 that is the algorithm's name and the 64 bytes of key and
public key, each with its length in front (dropbear ``ed25519.c``).
"""

from __future__ import annotations

import base64
import io
import logging
import socket
import struct
from dataclasses import dataclass
from types import TracebackType

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness.errors import InfraError

_ALGORITHM = "ssh-ed25519"
# A connection that breaks is an error of ours with one sentence; Python would print paramiko's log of it besides.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class SshError(InfraError):
    """No SSH session stands, or a command over it failed to run."""


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


@dataclass(frozen=True)
class KeyPair:
    """An Ed25519 key pair; ``private`` in OpenSSH's PEM format, ``public`` as in authorized_keys."""

    private: str
    public: str

    @classmethod
    def generate(cls) -> KeyPair:
        """A new pair."""
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return cls(private.decode(), public.decode())

    def dropbear(self) -> bytes:
        """The private key as dropbear's server wants it."""
        key = serialization.load_ssh_private_key(self.private.encode(), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise SshError("a host key of the testbed is not Ed25519; remove the saved testbed")
        raw = key.private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return _string(_ALGORITHM.encode()) + _string(raw + public)


@dataclass(frozen=True)
class Keys:
    """The keys of one testbed: the user's, the emulated host's, one for every guest."""

    user: KeyPair
    machines: dict[str, KeyPair]

    @classmethod
    def generate(cls, machines: list[str]) -> Keys:
        """New keys for the machines named (``host``, ``g0``, ...)."""
        return cls(KeyPair.generate(), {name: KeyPair.generate() for name in machines})


class SshSession:
    """One SSH connection; ``through`` is a session on the machine in between, owned from then on."""

    def __init__(
        self, name: str, keys: Keys, port: int, *, through: SshSession | None = None, timeout: float = 60.0
    ) -> None:
        self.name = name
        self._timeout = timeout
        self._through = through
        self._client = paramiko.SSHClient()
        self._client.set_missing_host_key_policy(paramiko.RejectPolicy())
        pinned = paramiko.Ed25519Key(data=base64.b64decode(keys.machines[name].public.split()[1]))
        address = "127.0.0.1"
        entry = address if port == 22 else f"[{address}]:{port}"
        self._client.get_host_keys().add(entry, _ALGORITHM, pinned)
        try:
            sock = socket.create_connection((address, port), timeout) if through is None else through.forward(port)
            self._client.connect(
                address,
                port=port,
                username="root",
                pkey=paramiko.Ed25519Key.from_private_key(io.StringIO(keys.user.private)),
                sock=sock,
                timeout=timeout,
                banner_timeout=timeout,
                auth_timeout=timeout,
                allow_agent=False,
                look_for_keys=False,
            )
        except (paramiko.SSHException, OSError, EOFError) as error:
            self._client.close()
            raise SshError(
                f"no SSH session with {name} within {timeout:g} s ({error or type(error).__name__})"
            ) from error

    def forward(self, port: int) -> paramiko.Channel:
        """A stream to a TCP port on the loopback of this session's machine."""
        transport = self._client.get_transport()
        if transport is None:
            raise SshError(f"the SSH session with {self.name} is closed")
        return transport.open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0), timeout=self._timeout)

    def run(self, command: str, timeout: float = 60.0) -> tuple[int, str, str]:
        """Run a command; returns its exit status, standard output and standard error."""
        try:
            _, out, err = self._client.exec_command(command, timeout=timeout)
            text, errors = out.read(), err.read()
            return out.channel.recv_exit_status(), text.decode("utf-8", "replace"), errors.decode("utf-8", "replace")
        except (paramiko.SSHException, OSError) as error:
            raise SshError(f"{self.name}: {command!r} did not end within {timeout:g} s ({error})") from error

    def stream(self) -> paramiko.Channel:
        """A channel on which nothing runs yet, for a command or a shell whose input and output are passed on."""
        transport = self._client.get_transport()
        if transport is None:
            raise SshError(f"the SSH session with {self.name} is closed")
        try:
            return transport.open_session(timeout=self._timeout)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise SshError(f"{self.name}: no command can be started over SSH ({error})") from error

    def close(self) -> None:
        """End the session, and the one it goes through."""
        self._client.close()
        if self._through is not None:
            self._through.close()

    def __enter__(self) -> SshSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
