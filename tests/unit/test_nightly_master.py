# SPDX-License-Identifier: GPL-2.0-only
"""The configuration of the master: Buildbot's own check takes it, and it holds what the matrix asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from buildbot.config.master import FileLoader, MasterConfig

from harness.errors import UsageError
from harness.nightly.check import check
from harness.nightly.files import write_master, write_worker
from harness.nightly.master import BISECT, configuration, database_url
from harness.nightly.matrix import load_matrix
from harness.nightly.place import Place

MATRIX = """\
schema: 1
kernels:
  "7.3":
  next: {git: "https://git.example.org/linux.git", branch: next}
hosts:
  a: {host: ./a.yaml}
  b: {host: ./b.yaml}
suites:
  smoke:
  quick: {run: [smoke], cases: one_page}
skip: [{host: b, suite: quick, reason: slow}]
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    for name in ("a", "b"):
        text = f"schema: 1\nname: {name}\ntransport: emulated\ntee: [sw-protected]\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    return made(tmp_path, MATRIX)


def made(folder: Path, text: str, *, timers: bool = True) -> Place:
    (folder / "m.yaml").write_text(text)
    place = Place(folder / "state")
    place.choose(folder / "m.yaml", timers=timers)
    return place


def loaded(place: Place) -> MasterConfig:
    """As ``buildbot checkconfig`` does it."""
    write_master(place)
    return FileLoader(str(place.master), "master.cfg").loadConfig()


def test_buildbot_takes_it(place: Place) -> None:
    config = loaded(place)
    check(place)
    assert [builder.name for builder in config.builders if not builder.name.startswith("__")] == [
        "a snp-stand-in smoke",
        "a snp-stand-in quick",
        "b snp-stand-in smoke",
        BISECT,
    ]
    assert sorted(worker.name for worker in config.workers if not worker.name.startswith("__")) == ["a", "b"]
    assert sum(1 for line in (place.master / "master.cfg").read_text().splitlines() if line.strip()) <= 6


def test_one_job_at_a_time_on_each_host(place: Place) -> None:
    locks = [{access.lockid for access in builder.locks} for builder in mine(loaded(place))]
    shared = set.intersection(*locks)
    assert len(shared) == 1, "the lock of the worker is the same for all builders, bisections too"
    assert all(access.mode == "exclusive" for builder in mine(loaded(place)) for access in builder.locks)


def mine(config: MasterConfig) -> list[Any]:
    return [builder for builder in config.builders if not builder.name.startswith("__")]


def test_what_starts_jobs(place: Place, tmp_path: Path) -> None:
    config = loaded(place)
    names = {name for name in config.schedulers if "anitor" not in name}
    assert names == {
        "7.3: changes", "7.3: nightly", "by-hand-7-3", "next: changes", "next: nightly", "by-hand-next", BISECT,
    }  # fmt: skip
    assert sorted(type(source).__name__ for source in config.change_sources) == ["GitPoller", "PBChangeSource"]
    quiet = loaded(made(tmp_path, MATRIX, timers=False))
    assert {name for name in quiet.schedulers if "anitor" not in name} == {"7.3: changes", "next: changes", BISECT}
    assert [type(source).__name__ for source in quiet.change_sources] == ["PBChangeSource"]


def test_no_bisection_where_no_host_is_emulated_or_nobody_wants_it(tmp_path: Path, place: Place) -> None:
    assert BISECT in loaded(place).schedulers
    assert BISECT not in loaded(made(tmp_path, MATRIX + "bisect: false\n")).schedulers
    lone = MATRIX.replace('  next: {git: "https://git.example.org/linux.git", branch: next}\n', "")
    assert BISECT not in loaded(made(tmp_path, lone)).schedulers


def test_everything_listens_on_the_loopback(place: Place) -> None:
    config = configuration(place.path)
    assert config["www"]["port"].endswith(":interface=127.0.0.1")
    assert config["protocols"]["pb"]["port"].endswith(":interface=127.0.0.1")
    assert "auth" not in config["www"]


def test_elsewhere_a_login_is_asked_for(tmp_path: Path, place: Place) -> None:
    (tmp_path / "users").write_text("someone:long enough a word\n")
    (tmp_path / "users").chmod(0o600)
    more = MATRIX + "web: {interface: 0.0.0.0, port: 8123, login: {users: ./users}}\n"
    config = configuration(made(tmp_path, more).path)
    assert config["www"]["port"] == "tcp:8123:interface=0.0.0.0"
    assert {"auth", "authz"} <= config["www"].keys()
    assert config["protocols"]["pb"]["port"].endswith(":interface=127.0.0.1"), "workers are on this machine"
    (tmp_path / "users").chmod(0o644)
    with pytest.raises(UsageError, match="others may read it"):
        check(made(tmp_path, more))


def test_a_host_that_is_not_there_is_named(tmp_path: Path, place: Place) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml cannot be read"):
        check(made(tmp_path, MATRIX.replace("./b.yaml", "./none.yaml")))


def test_the_database(tmp_path: Path, place: Place) -> None:
    assert loaded(place).db.db_url == "sqlite:///state.sqlite"
    text = MATRIX + "database: postgresql://ci@db.example.org/nightly\n"
    matrix = load_matrix(Path(made(tmp_path, text).settings().matrix))
    assert database_url(matrix) == "postgresql+psycopg://ci@db.example.org/nightly"
    assert place.history(matrix) == "postgresql://ci@db.example.org/nightly"


def test_a_worker_knows_its_master(place: Place) -> None:
    folder = write_worker(place, "a")
    namespace: dict[str, Any] = {}
    exec((folder / "buildbot.tac").read_text(), namespace)  # what twistd does
    assert namespace["settings"] == place.settings()
    assert place.settings().password not in (folder / "buildbot.tac").read_text()
