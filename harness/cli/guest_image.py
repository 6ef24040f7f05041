# SPDX-License-Identifier: GPL-2.0-only
"""``gmem guest-image``: guests that are larger than the one that the harness carries."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.lab_plan import note
from harness.images.debian import FORMS, DebianGuest, build_debian


@click.group("guest-image")
def guest_image_group() -> None:
    """Larger guests, for machines of a laboratory."""


@guest_image_group.command("debian")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the image.")
@click.option("--suite", default=DebianGuest.suite, show_default=True, help="Debian's release.")
@click.option("--form", type=click.Choice(FORMS), default=FORMS[0], show_default=True, help="Disk or initramfs.")
@click.option("--size", type=click.IntRange(512), default=DebianGuest.size_mib, show_default=True, help="MiB of disk.")
@click.option("--keys", type=click.Path(path_type=Path), help="Public keys that may log in as root by SSH.")
@click.option("--package", multiple=True, metavar="NAME", help="A further package; may be repeated.")
@click.option("--no-module", is_flag=True, help="Leave the conversion module out.")
def debian_command(
    out: Path, suite: str, form: str, size: int, keys: Path | None, package: tuple[str, ...], no_module: bool
) -> int:
    """Install a Debian with mmdebstrap, with everything that a guest of the harness needs; as root."""
    guest = DebianGuest(suite, form, size, keys, not no_module, package)
    built = build_debian(guest, out.absolute(), note)
    click.echo(f"kernel  {built.kernel}  ({built.release})")
    click.echo(f"initrd  {built.initrd}")
    if built.disk is not None:
        click.echo(f"disk    {built.disk}")
    click.echo(f"append  {built.append}")
    click.echo(f"module  {'gmem_conv' if built.module else 'left out'}")
    click.echo(f"made in {built.seconds:.0f} s")
    return 0
