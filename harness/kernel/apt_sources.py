# SPDX-License-Identifier: GPL-2.0-only
"""Reads the system's apt sources, to find the Debian mirror that this machine already uses.

Both formats of ``sources.list(5)``: deb822 (``*.sources``) and one line per source (``*.list``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InfraError

DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Names a Debian archive gives its suites, besides the code name of the machine itself.
_RELEASES: tuple[str, ...] = ("oldoldstable", "oldstable", "stable", "testing", "unstable", "sid")
_RELEASES += ("bullseye", "bookworm", "trixie", "forky", "duke")
_POCKETS = ("-proposed-updates", "-backports-sloppy", "-backports", "-updates", "-security")


@dataclass(frozen=True)
class AptSource:
    """One ``deb`` source of the system: where, what, and on whose signature it is believed."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    # Path of a keyring, or the key itself as it stands in a deb822 file; "" if the source names none.
    signed_by: str
    # The system believes this source without a signature.
    trusted: bool


def read_sources(etc: Path = Path("/etc/apt")) -> tuple[AptSource, ...]:
    """All enabled ``deb`` sources below ``etc``, in the order of apt.  Unreadable lines are left out, as apt warns."""
    files = [etc / "sources.list"]
    parts = etc / "sources.list.d"
    if parts.is_dir():
        files += sorted(p for p in parts.iterdir() if p.suffix in (".list", ".sources"))
    found: list[AptSource] = []
    for path in files:
        if not path.is_file():
            continue
        try:
            text = path.read_text(errors="replace")
        except OSError as error:
            raise InfraError(f"the apt sources in {path} cannot be read: {error.strerror}") from error
        found += parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text)
    return tuple(found)


def parse_one_line(text: str) -> list[AptSource]:
    """Sources of the form ``deb [option=value ...] URI SUITE COMPONENT...``."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match is None:
            continue
        options = _options(match[1])
        found.append(
            AptSource(
                uri=match[2],
                suites=(match[3],),
                components=tuple(match[4].split()),
                signed_by=options.get("signed-by", "").replace(",", " "),
                trusted=options.get("trusted", "no") == "yes",
            )
        )
    return found


def _options(text: str | None) -> dict[str, str]:
    pairs = (word.partition("=") for word in (text or "").split())
    return {name.lower(): value for name, _, value in pairs}


def parse_deb822(text: str) -> list[AptSource]:
    """Sources of the form ``Types: deb``, ``URIs: ...``, stanzas separated by empty lines."""
    found = []
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").strip().lower() == "no":
            continue
        for uri in fields.get("uris", "").split():
            found.append(
                AptSource(
                    uri=uri,
                    suites=tuple(fields.get("suites", "").split()),
                    components=tuple(fields.get("components", "").split()),
                    signed_by=fields.get("signed-by", "").strip("\n "),
                    trusted=fields.get("trusted", "no").strip().lower() == "yes",
                )
            )
    return found


def _fields(stanza: str) -> dict[str, str]:
    """Field names in lower case; continuation lines are kept with their newline."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line[0] in " \t" and name:
            fields[name] += "\n" + line
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def is_security(suite: str) -> bool:
    """Whether a suite lives in the separate security archive."""
    return suite.endswith("-security")


def archive_for(suite: str, sources: tuple[AptSource, ...], codename: str) -> AptSource:
    """The system's source whose archive also serves ``suite`` (which the system itself need not use).

    ``codename`` is the release of this machine, e.g. ``bookworm``.  Suites ending in ``-security`` live in another
    archive than the rest.  Among several, one believed on Debian's own key comes first.  Raises :class:`InfraError`.
    """
    fitting = [
        source
        for source in sources
        if "main" in source.components
        and not source.uri.startswith("cdrom:")
        and any(_release(name, codename) and is_security(name) == is_security(suite) for name in source.suites)
    ]
    if not fitting:
        which = "security archive" if is_security(suite) else "archive"
        raise InfraError(
            f"the apt sources of this machine name no Debian {which} to look for suite {suite} in: "
            f"give --kernel a source tree or a bzImage instead"
        )
    return min(fitting, key=_foreignness)


def _release(suite: str, codename: str) -> bool:
    for pocket in _POCKETS:
        suite = suite.removesuffix(pocket)
    return suite == codename or suite in _RELEASES


def _foreignness(source: AptSource) -> int:
    if "debian-archive" in source.signed_by:
        return 0
    return 2 if source.signed_by else 1


def private_stanza(source: AptSource, suite: str) -> str:
    """A deb822 source for one suite of that archive, for our own configuration.

    The signature is checked with the key that the system uses for the archive, else with Debian's keyring.
    """
    signed_by = source.signed_by or (str(DEBIAN_KEYRING) if DEBIAN_KEYRING.exists() else "")
    lines = ["Types: deb", f"URIs: {source.uri}", f"Suites: {suite}", "Components: main"]
    if signed_by:
        separator = "\n " if "\n" in signed_by else " "
        lines.append(f"Signed-By:{separator}{signed_by}")
    if source.trusted:
        lines.append("Trusted: yes")
    return "\n".join(lines) + "\n"


def codename(os_release: Path = Path("/etc/os-release")) -> str:
    """The release of this machine, e.g. ``bookworm``; ``""`` if it does not say."""
    try:
        text = os_release.read_text()
    except OSError:
        return ""
    match = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', text, re.MULTILINE)
    return match[1] if match else ""
