# SPDX-License-Identifier: GPL-2.0-only
"""Asks a Debian archive for a package through an apt configuration of our own.

Lists, cache, sources and status live in a folder of ours; nothing of the system's apt is read for writing or changed.
What the system's configuration says about reaching the network (``Acquire::*``: proxies, time limits) is taken over,
its hooks are not.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.cache import file_sha256
from harness.errors import InfraError
from harness.kernel import apt_sources
from harness.kernel.commands import Finished, run
from harness.kernel.progress import Progress, silent

UPDATE_SECONDS = 300.0
DOWNLOAD_SECONDS = 3600.0

_UNREACHABLE = re.compile(
    r"(Temporary failure resolving '[^']*'|Could not resolve '[^']*'|Could not connect to \S+|Unable to connect to \S+"
    r"|Cannot initiate the connection to \S+|Connection (?:timed out|failed|refused)|Network is unreachable"
    r"|No route to host)"
)


class NotOffered(InfraError):
    """A suite exists and does not have the package, or the archive does not have the suite."""


@dataclass(frozen=True)
class Offer:
    """A package as a suite has it now."""

    package: str
    version: str
    suite: str
    # Name and size in bytes of the .deb.
    filename: str
    size: int


@dataclass(frozen=True, order=True)
class Deb:
    """One package file of an archive."""

    filename: str
    """With name and version."""
    size: int
    """Bytes."""


class PrivateApt:
    """An apt of our own below ``folder``; the system's sources are read from ``etc``."""

    def __init__(self, folder: Path, *, etc: Path = Path("/etc/apt"), codename: str | None = None) -> None:
        self.folder = folder
        self.etc = etc
        self.codename = apt_sources.codename() if codename is None else codename

    def suites(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The suites with ``RELEASE`` replaced by this machine's, without repetitions."""
        resolved = [name.replace("RELEASE", self.codename) for name in names if self.codename or "RELEASE" not in name]
        return tuple(dict.fromkeys(resolved))

    def configure(self, *suites: str) -> Path:
        """Writes the configuration for the suites and returns its path (to be used as ``APT_CONFIG``)."""
        home = self.folder / "+".join(suites)
        for name in ("lists/partial", "archives/partial", "sources", "empty"):
            (home / name).mkdir(parents=True, exist_ok=True)
        sources = apt_sources.read_sources(self.etc)
        archives = {suite: apt_sources.archive_for(suite, sources, self.codename) for suite in suites}
        stanzas = [apt_sources.private_stanza(source, suite) for suite, source in archives.items()]
        (home / "sources" / "debian.sources").write_text("\n".join(stanzas))
        (home / "status").touch()
        settings = {
            "Dir::State::lists": home / "lists",
            "Dir::State::status": home / "status",
            "Dir::Cache": home,
            "Dir::Cache::archives": home / "archives",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": home / "sources",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": home / "empty",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": home / "empty",
            # Root would otherwise download as a user that cannot enter root's cache.
            "APT::Sandbox::User": "root",
            # A suite that cannot be refreshed is an error, not a reason to use its old lists in silence.
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
        }
        lines = network_settings(self.etc) + [f'{name} "{value}";' for name, value in settings.items()]
        path = home / "apt.conf"
        path.write_text("\n".join(lines) + "\n")
        return path

    def offer(self, package: str, suite: str) -> Offer:
        """What ``suite`` offers of ``package``, after refreshing its lists.

        Raises :class:`NotOffered` (naming the related packages it does have), or :class:`InfraError` if the archive
        cannot be reached or is not signed as it should be.
        """
        config = self.configure(suite)
        updated = self._apt(config, ["apt-get", "-q", "update"], UPDATE_SECONDS)
        if updated.code != 0:
            raise _update_error(suite, updated)
        shown = self._apt(config, ["apt-cache", "show", "--no-all-versions", package], 60.0, tail_lines=400)
        version = re.search(r"^Version: (\S+)$", shown.text, re.MULTILINE)
        filename = re.search(r"^Filename: (\S+)$", shown.text, re.MULTILINE)
        size = re.search(r"^Size: (\d+)$", shown.text, re.MULTILINE)
        if shown.code != 0 or version is None or filename is None or size is None:
            stem = re.sub(r"[0-9.]+$", "", package)
            names = self._apt(config, ["apt-cache", "pkgnames", stem], 60.0, tail_lines=400).tail
            near = sorted(name for name in names if re.fullmatch(re.escape(stem) + r"[0-9][0-9.]*", name))
            raise NotOffered(
                f"suite {suite} does not offer {package}" + (f" (it has {', '.join(near)})" if near else "")
            )
        return Offer(package, version[1], suite, Path(filename[1]).name, int(size[1]))

    def download(self, offer: Offer, into: Path, progress: Progress = silent) -> tuple[Path, str]:
        """Fetches the .deb into the folder ``into``; returns its path and SHA-256.  apt checks signature and hash."""
        config = self.folder / offer.suite / "apt.conf"

        def line(text: str) -> None:
            match = re.match(r"dlstatus:\d+:([0-9.]+):", text)
            if match:
                progress("fetch", int(float(match[1])), 100)

        wanted = f"{offer.package}={offer.version}"
        argv = ["apt-get", "-q", "-o", "APT::Status-Fd=1", "download", wanted]
        done = self._apt(config, argv, DOWNLOAD_SECONDS, cwd=into, line=line)
        found = sorted(into.glob("*.deb"))
        if done.code != 0 or len(found) != 1:
            reason = _UNREACHABLE.search(done.text)
            raise InfraError(
                f"fetching {wanted} from {offer.suite} failed ({reason[1] if reason else _last_error(done)}): "
                f"check this machine's network and proxy settings, then run again"
            )
        progress("fetch", 100, 100)
        return found[0], file_sha256(found[0])

    def closure(self, packages: Sequence[str], suites: Sequence[str]) -> tuple[Deb, ...]:
        """The packages with all that they depend on, as if nothing were installed, after refreshing the lists.

        Versions of the first suite are taken where it has one, the others have the rest.  Raises as :meth:`offer`.
        """
        config = self.configure(*suites)
        updated = self._apt(config, ["apt-get", "-q", "update"], UPDATE_SECONDS)
        if updated.code != 0:
            raise _update_error(" or ".join(suites), updated)
        done = self._apt(config, [*_install(packages, suites), "--print-uris"], 120.0, tail_lines=2000)
        found = [Deb(match[1], int(match[2])) for line in done.tail if (match := _DEB.fullmatch(line))]
        if done.code != 0 or not found:
            raise NotOffered(f"suite {suites[0]} does not offer {' and '.join(packages)}: {_last_error(done)}")
        return tuple(sorted(found))

    def download_closure(self, packages: Sequence[str], suites: Sequence[str], into: Path) -> list[Path]:
        """Fetches what :meth:`closure` just named into the folder ``into``.  apt checks signatures and hashes."""
        config = self.folder / "+".join(suites) / "apt.conf"
        (into / "partial").mkdir(parents=True, exist_ok=True)
        argv = [*_install(packages, suites), "--download-only", "-o", f"Dir::Cache::archives={into}"]
        done = self._apt(config, argv, DOWNLOAD_SECONDS)
        found = sorted(into.glob("*.deb"))
        if done.code != 0 or not found:
            reason = _UNREACHABLE.search(done.text)
            said = reason[1] if reason else _last_error(done)
            raise InfraError(
                f"fetching {' and '.join(packages)} from {suites[0]} failed ({said}): "
                f"check this machine's network and proxy settings, then run again"
            )
        return found

    def _apt(
        self,
        config: Path,
        argv: list[str],
        timeout: float,
        *,
        cwd: Path | None = None,
        line: Callable[[str], None] | None = None,
        tail_lines: int = 60,
    ) -> Finished:
        if shutil.which(argv[0]) is None:
            raise InfraError(
                "this machine has no apt, so a distribution's kernel source cannot be fetched: "
                "give --kernel a source tree or a bzImage instead"
            )
        env = {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        return run(argv, timeout=timeout, cwd=cwd, env=env, line=line, tail_lines=tail_lines)


_DEB = re.compile(r"'[^']+' (\S+\.deb) (\d+) .*")


def _install(packages: Sequence[str], suites: Sequence[str]) -> list[str]:
    options = ["-q", "-y", "-o", "APT::Install-Recommends=false", "-t", suites[0]]
    return ["apt-get", "install", *options, *packages]


def network_settings(etc: Path = Path("/etc/apt")) -> list[str]:
    """The lines of the system's configuration that say how to reach the network."""
    if etc != Path("/etc/apt") or shutil.which("apt-config") is None:
        return []
    dumped = run(["apt-config", "dump"], timeout=30.0, env={**os.environ, "LC_ALL": "C"}, tail_lines=5000)
    return [text for text in dumped.tail if re.match(r"Acquire::(?!IndexTargets|Languages)\S+ \"[^\"]+\";$", text)]


def _last_error(finished: Finished) -> str:
    errors = [text for text in finished.tail if text.startswith("E:")]
    return (errors or [f"exit code {finished.code}"])[0].removeprefix("E:").strip()


def _update_error(suite: str, finished: Finished) -> InfraError:
    reason = _UNREACHABLE.search(finished.text)
    if reason:
        return InfraError(
            f"the Debian archive could not be reached for suite {suite} ({reason[1]}): "
            f"check this machine's network and proxy settings, or give --kernel a source tree or a bzImage"
        )
    if re.search(r"does not have a Release file|404 +Not Found|File not found", finished.text):
        return NotOffered(f"this machine's Debian archive has no suite {suite}")
    if "NO_PUBKEY" in finished.text or "is not signed" in finished.text:
        return InfraError(
            f"suite {suite} is signed with a key that this machine does not have: "
            f"apt-get install debian-archive-keyring"
        )
    return InfraError(f"the package lists of suite {suite} could not be fetched: {_last_error(finished)}")
