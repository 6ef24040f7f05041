# SPDX-License-Identifier: GPL-2.0-only
"""What the testbed costs: ``python benchmarks/testbed.py [--json] [--repeat N]``.

Prints medians and ranges of wall times on this machine, conversions per second, and the kernel's own conversion test in
the same emulated host beside them.  Nothing is asserted: a figure says something only beside another of the same run.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
import measure
import selftest
from sequence import Sequence
from series import Others, Series, number, surroundings

from harness.cache import ContentCache
from harness.errors import GmemError
from harness.host.emulated.prepare import Clock
from harness.kernel.store import KernelStore
from harness.report.store import OutDir
from harness.run.account import qemu_version
from harness.run.session import Ready, RunOptions, Session

Sections = dict[str, list[Series]]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--repeat", type=click.IntRange(1, 1000), default=10, show_default=True, help="Values of each quantity.")
@click.option("--cold", type=click.IntRange(1, 100), default=3, show_default=True, help="Cold starts.")
@click.option("--kernel", help="Kernel under test, as in gmem run.")
def main(as_json: bool, repeat: int, cold: int, kernel: str | None) -> None:
    """Measure what the testbed costs, and the rate of conversions beside the kernel's own selftest."""
    try:
        with tempfile.TemporaryDirectory(prefix="gmem-benchmark-") as scratch:
            report = _measure(Path(scratch), repeat, cold, kernel)
    except GmemError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(json.dumps(report["plain"], indent=1, sort_keys=True) if as_json else report["text"])


def _measure(scratch: Path, repeat: int, cold: int, kernel: str | None) -> dict[str, object]:
    out = OutDir.create(scratch / "out")
    session = Session(
        RunOptions(kernel=kernel), evidence=out.evidence, relative=out.relative,
        notice=lambda line: print(f"# {line}", file=sys.stderr),
    )  # fmt: skip
    ready = session.ready(session.spec(guests=1, chunks=8))
    program = _program(session)
    selftest.settle_down()
    others = Others()
    sections: Sections = {
        "cold start": measure.cold_start(session, ready, scratch, cold),
        "restore from the saved state": measure.restore(session, ready, scratch, repeat),
        f"case ({measure.CASE.name})": measure.case(session, repeat),
    }
    with session.lab.restored(ready.spec, ready.saved, scratch / "sample", Clock()) as testbed:
        sections["observation"] = measure.sample(testbed, repeat)
    rates = _rates(session, ready, scratch, repeat, program, sections)
    return _report(session, ready, sections, rates, others.share())


def _program(session: Session) -> Path:
    cache = ContentCache(notify=session.notice)
    assert session.kernel is not None  # a session that is ready has its kernel
    return selftest.build(KernelStore(cache), session.kernel)


def _rates(
    session: Session, ready: Ready, scratch: Path, repeat: int, program: Path, sections: Sections
) -> dict[str, float]:
    """Conversions by the guest and by the kernel's selftest, taken in turns on one testbed; fills two sections."""
    with session.lab.restored(ready.spec, ready.saved, scratch / "rates", Clock()) as testbed:
        conversions = measure.Conversions(testbed.channels.agents["g0"], ready.spec.chunks)
        test = selftest.Selftest(testbed.channels.control, program)
        made, punched = test.count()
        sequence = Sequence(testbed, "g0")
        ours = Series("the same sequence by the harness's guest", "s")
        for _ in range(repeat):
            conversions.measure()
            test.measure()
            with ours.timed():
                sequence.run()
            sequence.reset()
    sections["conversions per second, by hypercall through KVM and QEMU"] = [
        *conversions.series.values(),
        conversions.request,
    ]
    sections[f"the kernel's own {selftest.TEST} in the same host, in turns"] = [test.whole, test.start, ours]
    same = (sequence.conversions, sequence.punches) == (made, punched)
    theirs, rate = made / test.seconds, sequence.conversions / ours.median
    return {
        "ranges converted per run of the selftest": made,
        "ranges punched per run of the selftest, besides": punched,
        f"of the harness's sequence, {'the same' if same else 'NOT the same'}": sequence.conversions,
        "conversions per second of the selftest, its start taken off": theirs,
        "conversions per second of the harness's sequence": rate,
        "requests that the harness's sequence takes": sequence.requests,
        "ratio, harness's sequence : selftest": rate / theirs,
        "ratio, 4 KiB to private : selftest": conversions.series["4 KiB", True, False].median / theirs,
        "ratio, 4 KiB to private and written : selftest": conversions.series["4 KiB", True, True].median / theirs,
    }


def _report(
    session: Session, ready: Ready, sections: Sections, rates: dict[str, float], others: float
) -> dict[str, object]:
    facts: dict[str, object] = {
        "kernel under test": f"{ready.state.release} {ready.state.version}",
        "guest": session.launch.kind_text,
        "QEMU": qemu_version().removeprefix("QEMU emulator version "),
        **surroundings(),
        "share of the CPUs that other programs took meanwhile": f"{others:.0%}",
    }
    plain = {
        "rates": rates,
        "series": {title: {entry.name.strip(): entry.plain() for entry in rows} for title, rows in sections.items()},
        "where": facts,
    }
    lines = [f"{name}: {value}" for name, value in facts.items()]
    for title, rows in sections.items():
        lines += ["", title, *(entry.line() for entry in rows)]
    lines += ["", "rates", *(f"  {name:<64} {number(value):>9}" for name, value in rates.items())]
    return {"plain": plain, "text": "\n".join(lines)}


if __name__ == "__main__":
    main()
