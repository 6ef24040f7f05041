# SPDX-License-Identifier: GPL-2.0-only
"""Names, ages, sentences and command lines of ``gmem lab``."""

from __future__ import annotations

import time
from pathlib import Path

import click
import pytest

from harness.cli.lab import guest_command, shell_command, up
from harness.errors import CrashError, InfraError, NoBootError, UsageError
from harness.host.emulated import state
from harness.host.lab.find import Found, everything, option
from harness.host.lab.place import Place
from harness.host.lab.record import LabRecord, Life, Plan, error_of
from harness.host.lab.service import make_empty

PLAN = Plan(
    root="/cache",
    name="default",
    image="/k/bzImage",
    initrd="/k/host.cpio",
    spec=state.TestbedSpec.of(guests=2, chunks=3),
    saved="/s",
    kernel="7.3",
    origin="restored from /s",
    guest_kind="sw-protected (SNP stand-in)",
)


def record(*, seconds_ago: float = 0, life: Life = Life.UP, reason: str = "") -> LabRecord:
    return LabRecord(plan=PLAN, holder=7, began=time.time() - seconds_ago, life=life, reason=reason, qemu=8, run="/t/x")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "a b", "x" * 41, "ä", "a\n"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="a testbed cannot be called"):
        Place(tmp_path, name)


@pytest.mark.parametrize("name", ["default", "a", "7.3-rc1_x", "x" * 40])
def test_names_that_can_be(tmp_path: Path, name: str) -> None:
    assert Place(tmp_path, name).folder == tmp_path / "lab" / name


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (119, "119 s"), (121, "2 min"), (7199, "119 min"), (7201, "2 h"), (172801, "2 days"), (-5, "0 s")],
)
def test_ages(tmp_path: Path, seconds: float, words: str) -> None:
    assert Found(Place(tmp_path, "default"), record(seconds_ago=seconds)).age == words


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record(life=Life.ENDED, reason="QEMU was killed").save(path)
    loaded = LabRecord.load(path)
    assert loaded.plan == PLAN
    assert (loaded.life, loaded.reason, loaded.holder, loaded.qemu) == (Life.ENDED, "QEMU was killed", 7, 8)
    assert not list(tmp_path.glob("*.new"))
    assert path.stat().st_mode & 0o077 == 0


def test_a_made_of_record_names_what_is_gone(tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "bzImage", tmp_path / "host.cpio"
    for file in (kernel, initrd):
        file.write_text("")
    made_of = state.MachineRecord(kernel=str(kernel), initrd=str(initrd), spec=PLAN.spec)
    made_of.save(tmp_path / "machine.json")
    assert state.MachineRecord.load(tmp_path / "machine.json") == made_of
    initrd.unlink()
    with pytest.raises(InfraError, match=f"made of {initrd}, which is gone"):
        state.MachineRecord.load(tmp_path / "machine.json")
    (tmp_path / "machine.json").write_text("{}")
    with pytest.raises(InfraError, match="does not say what the saved testbed was made of"):
        state.MachineRecord.load(tmp_path / "machine.json")


def test_the_sentence_about_a_dead_one(tmp_path: Path) -> None:
    killed = Found(Place(tmp_path, "default"), record())
    assert not killed.alive  # nobody holds the lock
    assert "its holder, process 7, was killed" in killed.death()
    ended = Found(Place(tmp_path, "other"), record(life=Life.ENDED, reason="QEMU ended with status 1."))
    assert "any more: QEMU ended with status 1; its" in ended.death()
    assert "gmem lab up --name other" in ended.death()
    assert option("default") == ""


def test_folders_that_are_no_testbeds(tmp_path: Path) -> None:
    for name in ("a", "-b"):
        (tmp_path / "lab" / name).mkdir(parents=True)
    assert everything(tmp_path) == []
    record().save(tmp_path / "lab" / "-b" / "record.json")
    assert everything(tmp_path) == []
    record().save(tmp_path / "lab" / "a" / "record.json")
    assert [found.name for found in everything(tmp_path)] == ["a"]


def test_a_new_testbed_keeps_the_evidence_of_one_predecessor(tmp_path: Path) -> None:
    place = Place(tmp_path, "default")
    for generation in ("first", "second"):
        place.make()
        place.evidence.mkdir()
        (place.evidence / "console").write_text(generation)
        (place.folder / "rest").mkdir()
        place.record.write_text("")
        place.sweep()
        assert [path.name for path in place.folder.iterdir()] == ["evidence-before"]
        assert (place.evidence_before / "console").read_text() == generation
    place.remove()
    place.remove()
    assert not place.folder.exists()


@pytest.mark.parametrize("kind", [InfraError, UsageError, NoBootError, CrashError])
def test_errors_keep_their_class_over_a_socket(kind: type[InfraError]) -> None:
    error = error_of(kind.exit_code, "why")
    assert type(error) is kind
    assert str(error) == "why"


def test_an_error_of_an_unknown_class_is_infra() -> None:
    assert type(error_of(99, "why")) is InfraError


def test_a_save_takes_an_empty_folder_or_makes_one(tmp_path: Path) -> None:
    assert make_empty(tmp_path / "a" / "b")
    assert not make_empty(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0
    with pytest.raises(UsageError, match="is not empty"):
        make_empty(tmp_path / "a")


def parsed(command: click.Command, *words: str) -> tuple[dict[str, object], object]:
    """Parameters and command after ``--``."""
    with command.make_context("x", list(words)) as ctx:
        return dict(ctx.params), ctx.meta.get("gmem.command")


def test_the_command_is_what_follows_the_dashes() -> None:
    params, line = parsed(guest_command, "--", "uname", "-a")
    assert (params["guest"], line) == ("g0", ["uname", "-a"])
    params, line = parsed(guest_command, "g1", "--name", "x", "--", "ls", "--", "-l")
    assert (params["guest"], params["name"], line) == ("g1", "x", ["ls", "--", "-l"])
    params, line = parsed(guest_command, "g1")
    assert (params["guest"], line) == ("g1", None)
    assert parsed(shell_command, "--")[1] == []
    with pytest.raises(click.UsageError):
        parsed(shell_command, "g0", "--", "ls")


def test_usage_shows_where_the_command_goes() -> None:
    with guest_command.make_context("guest", [], resilient_parsing=True) as ctx:
        assert ctx.get_usage().endswith("[GUEST] [-- COMMAND...]")


def test_up_says_what_it_can_do() -> None:
    names = {word for parameter in up.params for word in parameter.opts}
    wanted = "--kernel --patch --guests --chunks --guest --name --state --fresh --timings --json"
    assert set(wanted.split()) <= names
