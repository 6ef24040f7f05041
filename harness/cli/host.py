# SPDX-License-Identifier: GPL-2.0-only
"""``gmem host``: the files that describe hosts under test, and what is done to those hosts."""

from __future__ import annotations

import json

import click

from harness.cli.host_boot import boot_command
from harness.cli.host_restore import restore_command, status_command
from harness.host.config.knobs import before_each, module_params, wanted
from harness.host.config.load import load_host, names
from harness.host.config.schema import json_schema


@click.group("host")
def host_group() -> None:
    """Hosts under test that are real machines: their files, their settings."""


host_group.add_command(boot_command)
host_group.add_command(restore_command)
host_group.add_command(status_command)


@host_group.command("schema")
def schema_command() -> None:
    """Print the JSON schema of a host's file, for an editor."""
    click.echo(json.dumps(json_schema(), indent=1, sort_keys=True))


@host_group.command("list")
def list_command() -> None:
    """The hosts that have a name: those of host-configs."""
    rows = [(name, load_host(name)) for name in names()]
    width = max((len(name) for name, _ in rows), default=0)
    for name, config in rows:
        click.echo(f"{name:<{width}}  {', '.join(config.tee)}: {config.description}")


@host_group.command("check")
@click.argument("host")
def check_command(host: str) -> None:
    """Read a host's file (or name) and say what it would set; nothing is reached."""
    config = load_host(host)
    for path, value in wanted(config).items():
        click.echo(f"set          {path} = {value}")
    for name, value in module_params(config).items():
        click.echo(f"required     {name} = {value}")
    for path, value in before_each(config):
        click.echo(f"before each  {path} = {value}")
    click.echo(f"{config.name}: the file is right")
