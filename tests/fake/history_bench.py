# SPDX-License-Identifier: GPL-2.0-only
"""Output directories of runs without their reports, and a private PostgreSQL server, for the tests of the history."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg

from harness.report.text import storable
from harness.run.result import CaseResult, Finding, RunInfo, StepResult
from harness.run.verdict import Verdict, worst

SECONDS = 60.0
PR_SET_PDEATHSIG = 1


def a_case(
    name: str, verdict: Verdict = Verdict.PASS, *, counter: str = "unaccounted", seconds: float = 1.0
) -> CaseResult:
    """A case; one that deviates does so with ``counter``."""
    reasons = ("untouched (order0): nothing moves it",)
    wrong = Finding(counter=counter, low=0, high=0, observed=1, noise=0, verdict=verdict, reasons=reasons)
    step = StepResult(index=0, text="convert g0.r0[0:1] to shared", seconds=0.1, findings=(wrong,), recorded={})
    return CaseResult(
        suite="smoke",
        case=name,
        claim="It holds.",
        verdict=verdict,
        sentence=f"{verdict.value}: what {name} did",
        seconds=seconds,
        steps=(step,) if verdict is Verdict.DEVIATES else (),
        evidence=f"evidence/smoke-{name}",
    )


def an_info(number: int, cases: list[CaseResult], **more: object) -> RunInfo:
    """Run ``number``: the day of January 2026 on which it began, and the number of its build and commit."""
    verdict = worst(case.verdict for case in cases)
    usual = RunInfo(
        started=f"2026-01-{number:02d}T03:04:05+00:00",
        finished=f"2026-01-{number:02d}T03:05:05+00:00",
        verdict=verdict,
        exit_code=verdict.exit_code,
        sentence="sentence of the run",
        kernel={
            "name": "7.3",
            "release": "7.3.4",
            "key": f"{number:032x}",
            "commit": f"{number:040x}",
            "branch": "next",
        },
        design="order0",
        design_evidence=(),
        host={"name": "emulated", "machine": "QEMU TCG"},
        guest_kind="sw-protected (SNP stand-in)",
        qemu={},
        seed=2**64 - 1,
        versions={},
        command=("gmem", "run"),
        counts={},
    )
    return msgspec.structs.replace(usual, **more)


def a_folder(folder: Path, number: int, cases: list[CaseResult], **more: object) -> Path:
    """An output directory with what the history reads of it."""
    folder.mkdir(parents=True)
    (folder / "started").write_text("2026-01-01T00:00:00+00:00 process 1\n")
    lines = [json.dumps(storable(msgspec.to_builtins(case))) for case in cases]
    (folder / "results.jsonl").write_text("".join(line + "\n" for line in lines))
    (folder / "run.json").write_text(json.dumps(storable(msgspec.to_builtins(an_info(number, cases, **more)))))
    return folder


def _servers_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # Debian has them beside each other, not in PATH
    assert found, "PostgreSQL is missing: apt-get install postgresql (ci/setup does)"
    return found[-1].parent


def _end_with_us() -> None:
    """In the server before it begins: a worker that is killed must not leave it behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def emptied(url: str) -> None:
    """Takes everything out of a database."""
    with psycopg.connect(url) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


@contextmanager
def postgres() -> Iterator[str]:
    """A server of our own, on a socket in a folder of our own; gives the URL of its database.

    It refuses to run as root, so root runs it as ``nobody``.
    """
    programs = _servers_programs()
    folder = Path(tempfile.mkdtemp(prefix="gpg-", dir="/tmp"))  # short, for its socket, and open to nobody
    nobody = pwd.getpwnam("nobody")
    user: Mapping[str, object] = {}
    if os.geteuid() == 0:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    usual = {**user, "cwd": folder, "env": {"LC_ALL": "C", "PATH": os.environ["PATH"]}}
    data = folder / "data"
    server = None
    try:
        made = subprocess.run(
            [programs / "initdb", "-D", data, "-U", "gmem", "-A", "trust", "-E", "UTF8", "--no-sync"],
            capture_output=True, text=True, timeout=SECONDS, check=False, **usual,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
                stdout=log, stderr=log, preexec_fn=_end_with_us, **usual,
            )  # fmt: skip
        end = time.monotonic() + SECONDS
        url = f"postgresql://gmem@/postgres?host={folder}"
        while not _answers(url):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.05)
        yield url
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # at once, whoever is connected: nothing has to be kept
            server.wait(timeout=SECONDS)
        shutil.rmtree(folder)
