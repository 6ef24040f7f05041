# SPDX-License-Identifier: GPL-2.0-only
"""``gmem lab``: a testbed to play in, which stays up until it is told to end."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource

from harness.cache import ContentCache, cache_root
from harness.cli.lab_plan import evidence_named, make_room, note, plan_from_state, plan_to_make
from harness.cli.lab_show import described, print_json, print_status, say_up
from harness.cli.options import kernel_option, patch_option
from harness.errors import InfraError, UsageError
from harness.guest.backing import ANON_4K, backing_record
from harness.guest.launch import launch_record
from harness.host.emulated.prepare import Clock
from harness.host.emulated.reach import HOST
from harness.host.emulated.state import TestbedSpec
from harness.host.lab import client, ending, terminal
from harness.host.lab.find import Found, NoTestbed, everything, find, find_alive, look, option
from harness.host.lab.handover import write_initrd
from harness.host.lab.launch import launch
from harness.host.lab.place import DEFAULT_NAME, Place

MAX_GUESTS: Final = 7
"""A virtio-serial bus has 31 ports; the host takes two of them and every guest four."""
DOWN_WAITS: Final = 120.0
"""Seconds that ``lab down`` waits for another command on the same testbed."""
_COMMAND: Final = "gmem.command"
_name = click.option("--name", metavar="NAME", help="Which testbed, when there are several.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


@click.group("lab")
def lab_group() -> None:
    """A testbed to play in: it stays up until it is told to end."""


# -- up


@lab_group.command("up")
@kernel_option
@patch_option
@click.option("--guests", type=click.IntRange(0, MAX_GUESTS), default=1, show_default=True, help="How many guests.")
@click.option("--chunks", type=click.IntRange(1), default=8, show_default=True, help="2 MiB chunks per guest's region.")
@click.option("--guest", default="snp-stand-in", show_default=True, help="How guests are started.")
@click.option("--backing", default=ANON_4K.name, show_default=True, help="What the guests' shared memory is made of.")
@click.option("--nodes", type=click.IntRange(1, 2), default=1, show_default=True, help="NUMA nodes of the host.")
@click.option("--name", metavar="NAME", default=DEFAULT_NAME, show_default=True, help="What to call the testbed.")
@click.option("--state", type=click.Path(file_okay=False), help="Restore what lab save or gmem run --keep wrote here.")
@click.option("--fresh", is_flag=True, help="Boot, instead of restoring a saved testbed.")
@click.option("--timings", is_flag=True, help="Say how long each phase took.")
@_json
@click.pass_context
def up(
    ctx: click.Context,
    kernel: str | None,
    patch: tuple[str, ...],
    guests: int,
    chunks: int,
    guest: str,
    backing: str,
    nodes: int,
    name: str,
    state: str | None,
    fresh: bool,
    timings: bool,
    as_json: bool,
) -> int:
    """Bring a testbed up and leave it running.

    It is restored from a saved one of the same kernel and shape, which is made first if there is none.
    """
    began = time.monotonic()
    clocks: dict[str, Clock] = {"prepare": Clock(), "boot and save": Clock()}
    launch_record(guest)
    record = backing_record(backing)
    place = Place(cache_root(), name)
    with ContentCache(place.root, notify=note).lock(f"lab-{name}", what=f"gmem lab up{option(name)}"):
        _refuse_if_up(place)
        if state is not None:
            _state_alone(ctx)
            plan = plan_from_state(place, Path(state).absolute())
            make_room(place)
        else:
            shape = TestbedSpec.of(
                guests=guests, chunks=chunks, launch=launch_record(guest), backing=record, nodes=nodes
            )
            plan = plan_to_make(place, shape, kernel, [Path(path) for path in patch], clocks, fresh=fresh)
        if fresh:
            note(f"booting an emulated host with {guests} guest(s)")
        with evidence_named(place):
            phases = launch(plan)
        found = find(place.root, name)
    parts = {part: clock.phases for part, clock in clocks.items() if clock.phases}
    parts["restore" if plan.saved else "boot"] = phases
    say_up(found, parts, time.monotonic() - began, timings=timings, as_json=as_json)
    return 0


def _state_alone(ctx: click.Context) -> None:
    """A saved testbed has its kernel and its shape."""
    for other in ("kernel", "patch", "guests", "chunks", "guest", "backing", "nodes", "fresh"):
        if ctx.get_parameter_source(other) is not ParameterSource.DEFAULT:
            raise UsageError(f"--{other} makes no sense with --state: a saved testbed has its kernel and its shape")


def _refuse_if_up(place: Place) -> None:
    found = look(place)
    if found is not None and found.alive:
        words = option(place.name)
        raise UsageError(f"testbed {place.name} is up already, for {found.age}: gmem lab down{words} ends it")


# -- commands in it


class _WithCommand(click.Command):
    """A command whose line may end with ``-- COMMAND...``; click alone would not tell the two sides apart."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            ctx.meta[_COMMAND] = args[cut + 1 :]
            args = args[:cut]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


_timeout = click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds that the command may take (default: any)."
)


@lab_group.command("guest", cls=_WithCommand)
@click.argument("guest", default="g0", metavar="[GUEST]")
@_name
@_timeout
@click.pass_context
def guest_command(ctx: click.Context, guest: str, name: str | None, timeout: float | None) -> int:
    """Run a command in a nested guest (default g0) over SSH, or a shell when there is none.

    The exit status is that of the command (255 when a signal killed it), an exception among the commands of gmem; 3
    and a sentence on standard error also mean that the testbed failed.  A single word is a line for the guest's shell
    ('ls /proc | head'); several words arrive there as they are.
    """
    found = find_alive(cache_root(), name)
    known = [spec.name for spec in found.record.plan.spec.guests]
    if guest not in known:
        raise UsageError(
            f"testbed {found.name} has no guest {guest}: it has {', '.join(known)}; a command comes after --, "
            f"as in: gmem lab guest{option(found.name)} -- {guest}"
        )
    return _run(found, guest, ctx.meta.get(_COMMAND), timeout)


@lab_group.command("shell", cls=_WithCommand)
@_name
@_timeout
@click.pass_context
def shell_command(ctx: click.Context, name: str | None, timeout: float | None) -> int:
    """Run a command in the emulated host over SSH, or a shell when there is none.

    Exit status and words are treated as by gmem lab guest.
    """
    return _run(find_alive(cache_root(), name), HOST, ctx.meta.get(_COMMAND), timeout)


def _run(found: Found, machine: str, command: list[str] | None, timeout: float | None) -> int:
    if command is not None and not command:
        raise UsageError("no command follows --; leave -- away for a shell")
    line = None if command is None else command[0] if len(command) == 1 else shlex.join(command)
    with client.ssh(found, machine) as session:
        return terminal.run_there(session, line, alive=lambda: client.ask(found, "pulse"), timeout=timeout)


@lab_group.command("ssh-config")
@_name
@click.option("--initrd", is_flag=True, help="Also write what the host needs to come back after gmem host boot.")
def ssh_config_command(name: str | None, initrd: bool) -> int:
    """Write a configuration for OpenSSH with which "ssh -F FILE gmem-lab-NAME" reaches the emulated host.

    Its path is printed; it ends with the testbed.
    """
    found = find_alive(cache_root(), name)
    print(client.ssh_config(found))
    if initrd:
        print(write_initrd(found))
    return 0


# -- save, down, status


@lab_group.command("save")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@_name
def save_command(folder: Path, name: str | None) -> int:
    """Save the testbed into DIR, which is empty or new; the testbed goes on.  gmem lab up --state DIR restores it."""
    done = client.save(find_alive(cache_root(), name), folder)
    print(f"saved into {folder} in {done['seconds']:.1f} s, {done['bytes'] / 2**20:.0f} MiB")
    return 0


@lab_group.command("down")
@_name
def down_command(name: str | None) -> int:
    """End the testbed and remove it with its evidence; returns when its processes and files are gone."""
    root = cache_root()
    try:
        found = find(root, name)
    except NoTestbed as error:
        place = Place(root, DEFAULT_NAME if name is None else name)
        if not place.held():
            place.remove()  # the evidence of one that did not come up
        print(str(error).split(";")[0])
        return 0
    cache = ContentCache(root, notify=note, lock_timeout=DOWN_WAITS)
    with cache.lock(f"lab-{found.name}", what=f"gmem lab down{option(found.name)}"):
        found = look(found.place) or found
        was = f"it was up for {found.age}" if found.alive else "it was dead already"
        ending.end(found)
    print(f"testbed {found.name} is gone; {was}")
    return 0


@lab_group.command("status")
@_name
@_json
def status_command(name: str | None, as_json: bool) -> int:
    """Say what is up, and whether it is well; exit code 0 means that something is up and nothing is wrong."""
    root = cache_root()
    known = [find(root, name)] if name is not None else everything(root)
    told = [described(found, health=True) for found in known]
    if as_json:
        print_json({"testbeds": told})
    if not known:
        raise NoTestbed("no testbed is up; gmem lab up brings one up")
    wrong: list[str] = []
    for found, words in zip(known, told, strict=True):
        if not words["up"]:
            wrong.append(words["death"])
            continue
        if not as_json:
            print_status(found, words)
        if words["health"]["host"] != "running":
            down = f"gmem lab down{option(found.name)}"
            wrong.append(f"testbed {found.name} is not well: {words['health']['host']}; {down} ends it")
    if wrong:
        raise InfraError("; ".join(wrong))
    return 0
