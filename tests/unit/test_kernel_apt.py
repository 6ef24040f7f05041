# SPDX-License-Identifier: GPL-2.0-only
"""The mirror is found in whatever form the system's apt sources have; our configuration names nothing of the system."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from harness.errors import InfraError
from harness.kernel.apt import NotOffered, Offer, PrivateApt, _update_error
from harness.kernel.apt_sources import (
    AptSource,
    archive_for,
    codename,
    is_security,
    parse_deb822,
    parse_one_line,
    private_stanza,
    read_sources,
)
from harness.kernel.commands import Finished

DEB822 = """\
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://src.example/debian
Suites: bookworm
Components: main
"""

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib # trailing
deb [ arch=amd64 signed-by=/k/debian-archive-keyring.gpg ] http://mirror.example/debian-security bookworm-security main
deb [trusted=yes] http://lab.example/debian/ bookworm-updates main
deb-src http://mirror.example/debian bookworm main
deb cdrom:[Debian]/ bookworm main
"""


def test_deb822_sources() -> None:
    found = parse_deb822(DEB822)
    assert [source.uri for source in found] == ["http://mirror.example/debian", "http://mirror.example/debian-security"]
    assert found[0].suites == ("bookworm", "bookworm-updates")
    assert found[0].components == ("main", "contrib")
    assert found[0].signed_by == "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert found[1].signed_by == ""


def test_deb822_with_several_uris_and_an_inline_key() -> None:
    key = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n AAAA\n -----END PGP PUBLIC KEY BLOCK-----\n"
    found = parse_deb822(
        f"Types: deb\nURIs: http://a.example/d http://b.example/d\nSuites: sid\nComponents: main\n{key}"
    )
    assert [source.uri for source in found] == ["http://a.example/d", "http://b.example/d"]
    stanza = private_stanza(found[0], "sid")
    assert parse_deb822(stanza) == [found[0]]


def test_one_line_sources() -> None:
    found = parse_one_line(ONE_LINE)
    assert [(s.uri, s.suites, s.trusted) for s in found] == [
        ("http://mirror.example/debian", ("bookworm",), False),
        ("http://mirror.example/debian-security", ("bookworm-security",), False),
        ("http://lab.example/debian/", ("bookworm-updates",), True),
        ("cdrom:[Debian]/", ("bookworm",), False),
    ]
    assert found[0].components == ("main", "contrib")
    assert found[1].signed_by == "/k/debian-archive-keyring.gpg"


@pytest.fixture(params=["deb822", "one-line"])
def etc(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An /etc/apt in either format."""
    parts = tmp_path / "etc" / "sources.list.d"
    parts.mkdir(parents=True)
    if request.param == "deb822":
        (parts / "debian.sources").write_text(DEB822)
    else:
        (tmp_path / "etc" / "sources.list").write_text(ONE_LINE)
    (parts / "other.list.disabled").write_text("deb http://disabled.example/debian bookworm main\n")
    (parts / "foreign.list").write_text("deb [signed-by=/k/foreign.gpg] http://foreign.example bookworm main\n")
    return tmp_path / "etc"


@pytest.mark.parametrize(
    ("suite", "uri"),
    [
        ("trixie-backports", "http://mirror.example/debian"),
        ("sid", "http://mirror.example/debian"),
        ("bookworm-security", "http://mirror.example/debian-security"),
        ("trixie-security", "http://mirror.example/debian-security"),
    ],
)
def test_other_suites_are_looked_for_on_the_mirror_of_the_machine(etc: Path, suite: str, uri: str) -> None:
    assert archive_for(suite, read_sources(etc), "bookworm").uri.rstrip("/") == uri


def test_a_source_on_debians_own_key_comes_first(etc: Path) -> None:
    foreign = AptSource("http://foreign.example", ("bookworm",), ("main",), "/k/foreign.gpg", False)
    own = AptSource("http://own.example", ("bookworm",), ("main",), "/k/debian-archive-keyring.gpg", False)
    assert archive_for("sid", (foreign, own), "bookworm") is own
    assert archive_for("sid", (foreign,), "bookworm") is foreign


def test_a_machine_without_debian_sources_is_said_as_such() -> None:
    docker = AptSource("http://d.example", ("bookworm",), ("stable",), "", False)
    vendor = AptSource("http://v.example", ("nodistro",), ("main",), "", False)
    with pytest.raises(InfraError, match="name no Debian archive to look for suite sid in: give --kernel"):
        archive_for("sid", (docker, vendor), "bookworm")
    main = AptSource("http://m.example", ("bookworm",), ("main",), "", False)
    with pytest.raises(InfraError, match="no Debian security archive"):
        archive_for("trixie-security", (main,), "bookworm")


def test_the_configuration_is_private(etc: Path, tmp_path: Path) -> None:
    apt = PrivateApt(tmp_path / "apt", etc=etc, codename="bookworm")
    config = apt.configure("trixie-backports")
    home = str(tmp_path / "apt" / "trixie-backports")
    settings = dict(line.rstrip(";").split(" ", 1) for line in config.read_text().splitlines())
    for name, value in settings.items():
        if name.startswith("Dir::"):
            assert value.strip('"').startswith(home) or value == '"/dev/null"', name
    written = (tmp_path / "apt" / "trixie-backports" / "sources" / "debian.sources").read_text()
    source = parse_deb822(written)[0]
    assert (source.uri, source.suites) == ("http://mirror.example/debian", ("trixie-backports",))
    assert not {"Post-Invoke", "Pre-Invoke"} & set(config.read_text().split())


def test_release_stands_for_the_release_of_the_machine(tmp_path: Path) -> None:
    apt = PrivateApt(tmp_path, codename="trixie")
    assert apt.suites(("RELEASE-security", "RELEASE", "trixie", "sid")) == ("trixie-security", "trixie", "sid")
    assert PrivateApt(tmp_path, codename="").suites(("RELEASE", "sid")) == ("sid",)
    release = tmp_path / "os-release"
    release.write_text('ID=debian\nVERSION_CODENAME="forky"\n')
    assert codename(release) == "forky"
    assert codename(tmp_path / "none") == ""


def test_security_suites() -> None:
    assert is_security("trixie-security")
    assert not is_security("trixie-backports")


@pytest.mark.parametrize(
    ("output", "error", "sentence"),
    [
        (
            "Err:1 x\n  Temporary failure resolving 'm.example'",
            InfraError,
            "could not be reached .*resolving 'm.example'",
        ),
        ("E: Failed\n  Could not connect to m.example:80 (1.2.3.4)", InfraError, "could not be reached"),
        ("E: The repository 'x nosuch Release' does not have a Release file.", NotOffered, "has no suite nosuch"),
        ("The following signatures couldn't be verified NO_PUBKEY 123", InfraError, "debian-archive-keyring"),
        ("E: something else", InfraError, "could not be fetched: something else"),
    ],
)
def test_what_apt_says_becomes_one_sentence(output: str, error: type[InfraError], sentence: str) -> None:
    made = _update_error("nosuch", Finished(100, tuple(output.splitlines()), 1.0))
    assert type(made) is error
    with pytest.raises(InfraError, match=sentence):
        raise made


def test_a_mirror_that_cannot_be_reached_is_said_as_such(tmp_path: Path) -> None:
    """The real apt against a port on which nobody listens."""
    parts = tmp_path / "etc" / "sources.list.d"
    parts.mkdir(parents=True)
    (parts / "x.list").write_text("deb [trusted=yes] http://127.0.0.1:9/debian bookworm main\n")
    apt = PrivateApt(tmp_path / "apt", etc=tmp_path / "etc", codename="bookworm")
    with pytest.raises(InfraError, match=r"could not be reached for suite sid \(Could not connect to 127.0.0.1:9"):
        apt.offer("linux-source-7.3", "sid")


def test_the_real_apt_reads_an_archive_of_files(tmp_path: Path) -> None:
    """A Debian archive made of files: found, downloaded, and not found, by the real apt, without any network."""
    archive = tmp_path / "debian"
    index = archive / "dists" / "sid" / "main" / "binary-amd64"
    index.mkdir(parents=True)
    deb = _tiny_deb(archive / "pool", "linux-source-9.9", "9.9.1-1")
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    packages = (
        "Package: linux-source-9.9\nVersion: 9.9.1-1\nArchitecture: all\n"
        f"Filename: pool/{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n"
    )
    (index / "Packages").write_text(packages)
    listed = hashlib.sha256(packages.encode()).hexdigest()
    (archive / "dists" / "sid" / "Release").write_text(
        "Suite: sid\nCodename: sid\nComponents: main\nArchitectures: amd64 all\n"
        f"Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {listed} {len(packages)} main/binary-amd64/Packages\n"
    )
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "sources.list").write_text(f"deb [trusted=yes] file:{archive} bookworm main\n")
    apt = PrivateApt(tmp_path / "apt", etc=etc, codename="bookworm")
    offer = apt.offer("linux-source-9.9", "sid")
    assert offer == Offer("linux-source-9.9", "9.9.1-1", "sid", deb.name, deb.stat().st_size)
    (tmp_path / "into").mkdir()
    fetched, sha256 = apt.download(offer, tmp_path / "into")
    assert fetched.read_bytes() == deb.read_bytes()
    assert sha256 == digest
    with pytest.raises(NotOffered, match=r"suite sid does not offer linux-source-8.8 \(it has linux-source-9.9\)"):
        apt.offer("linux-source-8.8", "sid")
    with pytest.raises(NotOffered, match="has no suite trixie-backports"):
        apt.offer("linux-source-9.9", "trixie-backports")


def _tiny_deb(folder: Path, package: str, version: str) -> Path:
    control = folder / "build" / "DEBIAN"
    control.mkdir(parents=True)
    (control / "control").write_text(
        f"Package: {package}\nVersion: {version}\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    path = folder / f"{package}_{version}_all.deb"
    subprocess.run(["dpkg-deb", "--build", folder / "build", path], check=True, capture_output=True, timeout=30)
    return path
