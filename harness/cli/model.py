# SPDX-License-Identifier: GPL-2.0-only
"""``gmem model``: what if?  Scenarios and streams of conversions, under one or more designs, without any kernel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.text import Text

from harness.cli.model_inputs import HostSample, parse_memory, read_sample, read_scenario
from harness.cli.model_show import console, print_curves, print_predictions
from harness.cli.model_steps import explanation, plain, predicted
from harness.errors import InfraError, UsageError
from harness.model.curves.designs import DESIGNS, backing_named, design_named
from harness.model.curves.host import HostMemory
from harness.model.curves.simulate import simulate
from harness.model.curves.streams import Stream
from harness.model.curves.whatif import SCENARIOS, Variant, WhatIf, scenario_named
from harness.report.model_page import ModelPage, model_page
from harness.report.model_terms import Line, Predicted

_DEFAULT = "repeated-partial"


@dataclass(frozen=True)
class Asked:
    """The command line, checked."""

    what: WhatIf
    designs: tuple[str, ...]
    backing: str
    guest_pages: int
    conversions: int
    seed: int
    sample: HostSample | None


@click.command("model")
@click.argument("what", metavar="[SCENARIO|FILE]", required=False)
@click.option("--scenario", "scenario", metavar="NAME", help="A built-in scenario (see --list); as the argument.")
@click.option("--design", "design", metavar="NAME", help="One design, e.g. order0 or thp-discard:4 (folios of 64 KiB).")
@click.option("--compare", "compare", metavar="A,B,C", help="Several designs, one curve each.")
@click.option("--backing", default="anon-4k", show_default=True, metavar="NAME", help="What holds the shared side.")
@click.option("--memory", metavar="SIZE", help="Guest memory, e.g. 64G (the default) or 2T.")
@click.option("--conversions", type=int, default=200_000, show_default=True, help="Length of the stream.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True, help="Draws the stream.")
@click.option("--sample", type=click.Path(path_type=Path), metavar="FILE", help="A real host: a sample that gmem run"
              " kept (samples/start.json), or texts of /proc in a file or a folder.")  # fmt: skip
@click.option("--explain", metavar="COUNTER", help="Print why a counter moves; with --step.")
@click.option("--step", type=int, metavar="N", help="The step that --explain is about, counted from 0.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("gmem-model"), show_default=True,
              help="Folder for the page model.html.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.option("--list", "listing", is_flag=True, help="Show the built-in scenarios and designs.")
def model_command(
    what: str | None,
    scenario: str | None,
    design: str | None,
    compare: str | None,
    backing: str,
    memory: str | None,
    conversions: int,
    seed: int,
    sample: Path | None,
    explain: str | None,
    step: int | None,
    out: Path,
    as_json: bool,
    listing: bool,
) -> None:
    """Ask the model: what would a design do, at any size, and why?

    Without SCENARIO: repeated-partial.
    """
    if listing:
        _list(as_json)
        return
    whatif = _whatif(what, scenario)
    host = read_sample(sample) if sample else None
    asked = Asked(
        whatif, _designs(design, compare, whatif), backing_named(backing).name,
        _guest_pages(memory, host), conversions, seed, host,
    )  # fmt: skip
    found = _predictions(asked)
    if explain is not None or step is not None:
        _explain(found, explain, step, whatif, as_json)
        return
    _answer(asked, found, out, as_json)


def _whatif(what: str | None, scenario: str | None) -> WhatIf:
    if what and scenario:
        raise UsageError(f"both {what!r} and --scenario {scenario} are given: name one scenario")
    name = what or scenario or _DEFAULT
    if what and (Path(what).is_file() or what.endswith((".yaml", ".yml")) or "/" in what):
        return read_scenario(Path(what))
    return scenario_named(name)


def _designs(design: str | None, compare: str | None, whatif: WhatIf) -> tuple[str, ...]:
    if design and compare:
        raise UsageError("--design and --compare exclude each other: --compare A,B names several designs")
    names = tuple(word.strip() for word in (compare or design or "").split(",") if word.strip()) or whatif.designs
    for name in names:
        design_named(name)
    return tuple(dict.fromkeys(names))


def _guest_pages(memory: str | None, sample: HostSample | None) -> int:
    if memory is None and sample is not None:
        free = sample.values.get("F", sample.values.get("nr_free_pages", 0))
        return max(512, free // 2 // 512 * 512)
    return parse_memory(memory or "64G")


def _predictions(asked: Asked) -> list[Predicted]:
    steps = asked.what.scenario
    if steps is None:
        return []
    values = None if asked.sample is None else asked.sample.values
    backings = [name or asked.backing for name in asked.what.backings]
    return [
        predicted(steps, name, backing, values, f"{name}, {backing}" if len(backings) > 1 else name)
        for name in asked.designs
        for backing in backings
    ]


def _explain(found: Sequence[Predicted], counter: str | None, step: int | None, whatif: WhatIf, as_json: bool) -> None:
    if counter is None or step is None:
        raise UsageError("--explain COUNTER and --step N belong together")
    if not found:
        raise UsageError(f"scenario {whatif.name!r} is a stream of conversions: --explain needs one of steps")
    said = {design.label: explanation(design, counter, step) for design in found}
    if as_json:
        print(json.dumps({"counter": counter, "explanations": said, "scenario": whatif.name, "step": step}))
    else:
        print("\n\n".join(said.values()))


def _host(asked: Asked, variant: Variant) -> HostMemory:
    if asked.sample is None:
        return HostMemory.synthetic(asked.guest_pages, fragmented=variant.fragmented)
    sample = asked.sample
    host = HostMemory.from_sample(sample.values, sample.source, asked.guest_pages, pcp_pages=sample.pcp_pages)
    return host.in_pieces(variant.fragmented)


def _lines(asked: Asked, stream: Stream) -> list[Line]:
    """A curve for each variant of each design; variants that make no difference to a design are one line."""
    lines = []
    for name in asked.designs:
        seen = set()
        for variant in asked.what.variants:
            design = (
                design_named(name, variant.order)
                if variant.order is None or design_named(name).order
                else design_named(name)
            )
            backing = backing_named(variant.backing or asked.backing)
            key = (design.order, backing.name, variant.fragmented, variant.same_cpu)
            if key in seen:
                continue
            seen.add(key)
            curves = simulate(stream, design, backing, _host(asked, variant), same_cpu=variant.same_cpu)
            lines.append(Line(f"{name}, {variant.label}" if variant.label else name, curves))
    return lines


def _answer(asked: Asked, found: Sequence[Predicted], out: Path, as_json: bool) -> None:
    what = asked.what
    host = _host(asked, Variant())
    notes = [*(asked.sample.notes if asked.sample else ()), *host.notes]
    lines = []
    if what.stream is not None:
        lines = _lines(asked, what.stream.draw(asked.guest_pages, asked.conversions, asked.seed))
    page = out / "model.html"
    setting = [
        ("scenario", what.name), ("claim", what.claim or "none"), ("designs", ", ".join(asked.designs)),
        ("shared backing", asked.backing), ("guest", size(asked.guest_pages)), ("host", host.says),
    ]  # fmt: skip
    if lines:
        setting += [("conversions", str(asked.conversions)), ("seed", str(asked.seed))]
    _write(page, model_page(ModelPage(what.question, setting, notes, lines, found)))
    if as_json:
        _print_json(asked, lines, found, host, notes, page)
        return
    view = console()
    view.print(Text(what.question, style="bold"))
    view.print(Text("; ".join(f"{name}: {value}" for name, value in setting)))
    for note in notes:
        view.print(Text(f"note: {note}", style="yellow"))
    if lines:
        print_curves(view, lines)
    if found:
        print_predictions(view, found)
    view.print(Text(f"\npage: {page}"), soft_wrap=True)


def size(pages: int) -> str:
    """Pages as people say them.

    >>> size(1 << 29), size(512 * 3)
    ('2 TiB', '6 MiB')
    """
    for bits, unit in ((28, "TiB"), (18, "GiB")):
        if pages % (1 << bits) == 0:
            return f"{pages >> bits} {unit}"
    return f"{pages >> 8} MiB"


def _write(page: Path, text: str) -> None:
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InfraError(f"{page} cannot be written: {error.strerror}; choose another folder with --out") from None


def _print_json(
    asked: Asked, lines: Sequence[Line], found: Sequence[Predicted], host: HostMemory, notes: Sequence[str], page: Path
) -> None:
    curves = [
        {
            "backing": line.curves.backing.name,
            "columns": {name: values.tolist() for name, values in line.curves.columns.items()},
            "design": line.curves.design.name,
            "ended": line.curves.ended,
            "label": line.label,
            "order": line.curves.design.order,
        }
        for line in lines
    ]
    whole = {
        "claim": asked.what.claim,
        "conversions": asked.conversions,
        "curves": curves,
        "guest_pages": asked.guest_pages,
        "host": {"blocks": host.blocks, "free": host.free, "pcp_pages": host.pcp_pages, "says": host.says},
        "notes": list(notes),
        "page": str(page),
        "predictions": [plain(design) for design in found],
        "question": asked.what.question,
        "scenario": asked.what.name,
        "seed": asked.seed,
    }
    print(json.dumps(whole, sort_keys=True, allow_nan=False))


def _list(as_json: bool) -> None:
    if as_json:
        rows = [
            {"claim": s.claim, "designs": list(s.designs), "name": s.name, "question": s.question,
             "steps": len(s.steps), "stream": s.stream is not None}
            for s in SCENARIOS.values()
        ]  # fmt: skip
        print(json.dumps({"designs": {d.name: d.says for d in DESIGNS.values()}, "scenarios": rows}, sort_keys=True))
        return
    view = console()
    for scenario in SCENARIOS.values():
        view.print(Text(f"{scenario.name:18} {scenario.claim:8} {scenario.question}"))
    view.print(Text("\n" + "\n".join(f"{design.name:20} {design.says}" for design in DESIGNS.values())))
