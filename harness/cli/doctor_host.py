# SPDX-License-Identifier: GPL-2.0-only
"""``gmem doctor --host X``: what a real machine can do as a host under test, as text to paste or as JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from harness.errors import UsageError
from harness.host.capabilities.decide import decide
from harness.host.capabilities.identity import identity
from harness.host.capabilities.record import Capability, HostProbe
from harness.host.capabilities.recording import to_text
from harness.host.capabilities.require import TEE_NEEDS, Missing, differing, missing, missing_for
from harness.host.capabilities.visit import visit
from harness.host.config.host import HostConfig
from harness.host.config.load import load_host
from harness.host.config.reaching import reach_host
from harness.report.text import one_line
from harness.run.verdict import Verdict

OF_THE_FILE: Final = "host"
"""What ``--require`` means without a word: everything that the host's file asks for."""


@dataclass(frozen=True)
class HostReport:
    """All that is said of one host."""

    config: HostConfig
    probe: HostProbe
    capabilities: tuple[Capability, ...]
    missing: tuple[Missing, ...]


def examine_host(config: HostConfig, kinds: Sequence[str] = ()) -> HostReport:
    """Visit the host; ``kinds`` are looked at beside those of its file.

    Raises ``ReachError`` when it cannot be reached.
    """
    with contextlib.closing(reach_host(config)) as reach:
        probe = visit(reach, config)
    return report_of(config, probe, kinds)


def report_of(config: HostConfig, probe: HostProbe, kinds: Sequence[str] = ()) -> HostReport:
    """The report on texts that are already there."""
    capabilities = decide(probe)
    lacking = [item for kind in dict.fromkeys((*config.tee, *kinds)) for item in missing_for(kind, capabilities)]
    return HostReport(config, probe, capabilities, (*lacking, *missing(config, probe)))


def as_json(report: HostReport) -> dict[str, Any]:
    """One object; ``ready`` says whether nothing that the host's file asks for is missing."""
    return {
        "host": report.config.name,
        "reached": report.probe.host,
        "identity": identity(report.probe),
        "capabilities": [
            {
                "name": item.name,
                "state": item.state.value,
                "primary": item.primary,
                "supporting": list(item.supporting),
                "causes": [{"reason": cause.reason, "fix": cause.fix} for cause in item.causes],
                "unverified_on_hardware": item.unverified,
            }
            for item in report.capabilities
        ],
        "firmware": dict(report.probe.firmware),
        "missing": [{"what": item.what, "reason": item.reason, "fix": item.fix} for item in report.missing],
        "settings": [
            {"path": path, "is": now, "wanted": then} for path, now, then in differing(report.config, report.probe)
        ],
        "recorded_by_hand": dict(sorted(report.config.probes.items())),
        "ready": not report.missing,
    }


def as_text(report: HostReport) -> Iterator[str]:
    """Lines to paste into a mail."""
    yield f"host {report.config.name}, reached as {report.probe.host}"
    yield from (f"  {name:<13} {one_line(text, 600)}" for name, text in identity(report.probe).items())
    yield from (f"  {name:<13} {one_line(text, 600)} (written by hand)" for name, text in report.config.probes.items())
    width = max(len(item.name) for item in report.capabilities)
    for item in report.capabilities:
        mark = "  [unverified on hardware]" if item.unverified else ""
        yield f"{item.state.value:<8} {item.name:<{width}}  {one_line(item.primary, 300)}{mark}"
        indent = " " * (width + 11)
        yield from (f"{indent}also: {one_line(text, 300)}" for text in item.supporting)
        for cause in item.causes:
            yield f"{indent}why: {one_line(cause.reason, 400)}"
            yield from (f"{indent}fix: {one_line(text, 400)}" for text in (cause.fix,) if text)
    yield from (f"firmware {kind}: {path} (not looked into)" for kind, path in sorted(report.probe.firmware.items()))
    for path, now, then in differing(report.config, report.probe):
        yield f"a run would set {path} from {one_line(now, 100)} to {then}"
    for lack in report.missing:
        yield f"missing  {lack.what}: {one_line(lack.reason, 600)}"
        yield from (f"         fix: {one_line(text, 600)}" for text in (lack.fix,) if text)
    kinds = ", ".join(report.config.tee) or "no kind of guest"
    yield f"not ready: {len(report.missing)} missing" if report.missing else f"ready: {kinds}"


def doctor_host(place: str, *, as_object: bool, required: Sequence[str], save: str | None = None) -> int:
    """The command; returns its exit code: 3 when something that ``--require`` names is missing."""
    config = load_host(place)
    for kind in required:
        if kind != OF_THE_FILE and kind not in TEE_NEEDS:
            raise UsageError(f"--require takes {', '.join(TEE_NEEDS)} or nothing, not {kind}")
    report = examine_host(config, [kind for kind in required if kind != OF_THE_FILE])
    if save is not None:
        _keep(report.probe, Path(save))
    if as_object:
        click.echo(json.dumps(as_json(report), indent=1, sort_keys=True))
    else:
        click.echo("\n".join(as_text(report)))
    return Verdict.INFRA.exit_code if lacks(report, required) else Verdict.PASS.exit_code


def _keep(probe: HostProbe, path: Path) -> None:
    try:
        path.write_text(to_text(probe), encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def lacks(report: HostReport, required: Sequence[str]) -> bool:
    """Whether something required is missing; a kind that is named counts alone, the file as a whole."""
    if OF_THE_FILE in required:
        return bool(report.missing)
    return any(missing_for(kind, report.capabilities) for kind in required)
