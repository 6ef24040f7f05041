# SPDX-License-Identifier: GPL-2.0-only
"""``python -m tests.planted``: plants each fault in its kernel, runs what should catch it, and prints who did.

Builds every kernel (one changed file each), runs the few cases named in the fault's record, or all default suites with
--whole, and with --selftests the kernel's own KVM selftests beside it.  Every kernel without a fault has to pass the
same cases.  Each result is written to OUT/results.jsonl at once; --resume takes from there what neither patch nor
harness has changed.  The exit code is 0 when every fault was caught and named, else 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import click

from harness.errors import UsageError
from harness.images.recipes import SOURCE_ROOT
from tests.planted.board import Line, cut, markdown, put_into, text
from tests.planted.faults import FAULTS, Fault, load_all
from tests.planted.looking import Command, Look, gmem, known, look_at, look_at_healthy, result_of
from tests.planted.results import CASES, SELFTESTS, WHOLE, Book, Result

PAGE = SOURCE_ROOT / "docs" / "planted.md"


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--kernel", default="", help="Only faults that are planted in this kernel.")
@click.option("--selftests", is_flag=True, help="Ask the kernel's own selftests too.")
@click.option("--selftests-alone", is_flag=True, help="Ask nobody else; what is in OUT of the harness's is shown.")
@click.option("--whole", is_flag=True, help="All default suites instead of the cases of each record.")
@click.option("--resume", is_flag=True, help="Run nothing again that is in OUT and unchanged.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("gmem-out/planted"), show_default=True
)
@click.option("--show", is_flag=True, help="Run nothing: print what is in OUT, also if it is of an earlier state.")
@click.option("--docs", is_flag=True, help="Put the board into docs/planted.md.")
@click.option(
    "--faults", type=click.Path(file_okay=False, path_type=Path), default=FAULTS, help="Folder of the faults."
)
def main(
    names: tuple[str, ...],
    kernel: str,
    selftests: bool,
    selftests_alone: bool,
    whole: bool,
    resume: bool,
    out: Path,
    show: bool,
    docs: bool,
    faults: Path,
) -> None:
    try:
        chosen = [fault for fault in load_all(names, faults) if kernel in ("", fault.kernel)]
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    if not chosen:
        raise click.UsageError(f"no fault is planted in {kernel or faults}")
    way = WHOLE if whole else CASES
    lines: list[Line] = []
    code = 0
    try:
        if selftests_alone and not show:
            ask_selftests(chosen, resume, out, gmem)
        made = (
            known_lines(chosen, way, out)
            if show or selftests_alone
            else board_lines(chosen, way, selftests, resume, out, gmem)
        )
        for line in made:
            lines.append(line)
    except KeyboardInterrupt:
        click.echo("interrupted; --resume continues", err=True)
        code = 2
    click.echo("\n" + text(lines))
    told = markdown(lines, _command(names, kernel, selftests, whole))
    (out / "board.md").write_text(told + "\n", encoding="utf-8")
    if docs and not code:
        PAGE.write_text(put_into(PAGE.read_text(encoding="utf-8"), told), encoding="utf-8")
    sys.exit(code or int(not all(line.holds for line in lines)))


def board_lines(
    faults: Sequence[Fault], way: str, selftests: bool, resume: bool, out: Path, command: Command = gmem
) -> Iterator[Line]:
    """The lines of the board as they become known: of each kernel last the one without a fault."""
    book = Book(out)

    def result(look: Look) -> Result:
        return _told(look, book, out, resume, command)

    for kernel, group in groupby(faults, key=lambda fault: fault.kernel):
        planted = list(group)
        for fault in planted:
            seen = result(look_at(fault, way))
            yield Line(kernel, fault, seen, result(look_at(fault, SELFTESTS)) if selftests else None)
        own = result(look_at_healthy(kernel, SELFTESTS, planted)) if selftests else None
        yield Line(kernel, None, result(look_at_healthy(kernel, way, planted)), own)


def ask_selftests(faults: Sequence[Fault], resume: bool, out: Path, command: Command = gmem) -> None:
    """What the kernel's own selftests say of each fault, and of the kernels without one, into the book."""
    book = Book(out)
    for kernel, group in groupby(faults, key=lambda fault: fault.kernel):
        planted = list(group)
        for look in (*(look_at(fault, SELFTESTS) for fault in planted), look_at_healthy(kernel, SELFTESTS, planted)):
            _told(look, book, out, resume, command)


def _told(look: Look, book: Book, out: Path, resume: bool, command: Command) -> Result:
    """The result of a look, which is said on the way."""
    found, before = result_of(look, book, out, resume, command)
    what = "known: " if before else ""
    said = cut(found.missed) or (f"caught by {found.case}" if look.fault and look.way != SELFTESTS else "done")
    click.echo(f"{what}{look.name}, {look.way}: {found.verdict.value}, {found.seconds:.0f} s, {said}", err=True)
    return found


def known_lines(faults: Sequence[Fault], way: str, out: Path) -> Iterator[Line]:
    """The same lines from what is in the book already."""
    book = Book(out)
    for kernel, group in groupby(faults, key=lambda fault: fault.kernel):
        planted = list(group)
        for fault in planted:
            found, earlier = known(look_at(fault, way), book)
            yield Line(kernel, fault, found, known(look_at(fault, SELFTESTS), book)[0], earlier)
        found, earlier = known(look_at_healthy(kernel, way, planted), book)
        own, _ = known(look_at_healthy(kernel, SELFTESTS, planted), book)
        yield Line(kernel, None, found, own, earlier)


def _command(names: Sequence[str], kernel: str, selftests: bool, whole: bool) -> str:
    words = ["python -m tests.planted", *names]
    words += ["--kernel", kernel] if kernel else []
    words += ["--whole"] if whole else []
    words += ["--selftests"] if selftests else []
    return " ".join(words)


if __name__ == "__main__":
    main()
