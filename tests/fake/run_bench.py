# SPDX-License-Identifier: GPL-2.0-only
"""``gmem run`` without machines: a session that reads its verdicts from the names of the cases.

A case called ``test_WORD`` or ``test_WORD__more`` ends with the verdict WORD (``no_boot`` is ``no-boot``), any other
passes; ``test_slow`` writes ``slow-began`` into the current directory and waits to be interrupted.
``GMEM_TEST_READY=WORD`` makes every testbed fail to come up with that class of error, ``GMEM_TEST_DESIGN`` is the
design that the kernel shows.

Importing pytest and the harness takes most of a run's time, so one process imports them and forks for every run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

SECONDS = 60.0

FAKE = """
import os, time
from pathlib import Path
import harness.cli.main, harness.cli.run, pytest
import harness.pytest_run as pytest_run
import harness.run.account as account
import harness.run.session as session
from harness.errors import CrashError, InfraError, NoBootError, UsageError
from harness.run.result import CaseResult
from harness.run.verdict import Verdict

ERRORS = {"infra": InfraError, "no-boot": NoBootError, "crash": CrashError, "usage": UsageError}

class FakeSession(session.Session):
    def ready(self, spec):
        word = os.environ.get("GMEM_TEST_READY")
        if word and not self._broken:
            self._broken[""] = ERRORS[word]("the testbed did not come up")
        if word:
            raise self._broken[""]
        self.design = os.environ.get("GMEM_TEST_DESIGN", "order0")
        self.design_evidence = ("the test says so",)
        return None

    def _measured(self, ready, scenario, name, *, chained=False):
        folder = self.evidence(f"{name.suite}-{name.case}")
        (folder / "scenario.yaml").write_text(scenario.to_yaml())
        word = name.case.partition("[")[0].partition("__")[0].replace("_", "-")
        if word == "slow":
            Path("slow-began").touch()
            time.sleep(60)
        known = {verdict.value: verdict for verdict in Verdict}
        verdict = known.get(word, Verdict.PASS)
        return CaseResult(
            suite=name.suite, case=name.case, claim=name.claim, verdict=verdict, sentence=f"sentence of {name.case}",
            seconds=0.1, steps=(), evidence=self.relative(folder), repeat=name.repeat,
        )

pytest_run.Session = FakeSession
account.qemu_version = lambda: "QEMU of paper"
"""

SERVER = """
import gc, json, sys
gc.freeze()  # pytest collects garbage at its end, in every child
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if not pid:
        os.chdir(order["cwd"])
        os.environ.update(order["environment"])
        for number, name in ((1, "stdout"), (2, "stderr")):
            fd = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(fd, number)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        sys.argv = ["gmem", *order["words"]] if order["program"] == "gmem" else ["pytest", *order["words"]]
        code = 99
        try:
            code = harness.cli.main.main() if order["program"] == "gmem" else int(pytest.main())
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

ALONE = FAKE + "import sys\nsys.exit(harness.cli.main.main())\n"


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def sentence(self) -> str:
        """Standard error, which must be one line."""
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stderr + self.stdout
        return lines[0]


@dataclass(frozen=True)
class Runs:
    """Starts runs in ``folder``."""

    server: subprocess.Popen[str]
    folder: Path

    def suite(self, text: str, name: str = "mine/test_cases.py") -> Path:
        """A suite file; the names that a case needs are imported."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "import pytest\nfrom harness.errors import *\nfrom harness.scenario.region import G0\n"
            "from harness.scenario.steps import *\n" + text
        )
        return path

    def cases(self, *names: str) -> Path:
        """A suite of cases that only differ in their names."""
        return self.suite(
            "".join(f'def test_{name}(gmem):\n    """Claim."""\n    gmem.run(Empty())\n' for name in names)
        )

    def run(self, *words: object, **environment: str) -> Ended:
        """``gmem run WORDS``."""
        return self._order("gmem", ["run", *map(str, words)], environment)

    def pytest(self, *words: object, **environment: str) -> Ended:
        """``pytest WORDS``, with nothing of this repository's configuration."""
        usual = ["-p", "gmem", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(self.folder)]
        return self._order("pytest", [*usual, *map(str, words)], environment)

    def _order(self, program: str, words: list[str], environment: Mapping[str, str]) -> Ended:
        streams = {name: str(self.folder / f".{name}") for name in ("stdout", "stderr")}
        order = {"program": program, "words": words, "environment": environment, "cwd": str(self.folder), **streams}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        return Ended(code, *(Path(path).read_text() for path in streams.values()))

    def start(self, *words: object) -> subprocess.Popen[str]:
        """``gmem run WORDS`` as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", ALONE, "run", *map(str, words)],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def results(self, out: str = "out") -> list[dict[str, Any]]:
        """The lines of results.jsonl."""
        return [json.loads(line) for line in (self.folder / out / "results.jsonl").read_text().splitlines()]

    def info(self, out: str = "out") -> dict[str, Any]:
        """run.json."""
        return cast(dict[str, Any], json.loads((self.folder / out / "run.json").read_text()))


@contextmanager
def serving(fake: str = FAKE) -> Iterator[subprocess.Popen[str]]:
    """The process that forks, with ``fake`` in the place of machines; one for a whole file of tests."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # what else is installed only costs time
    with subprocess.Popen(
        [sys.executable, "-c", fake + SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield server
        assert server.stdin is not None
        server.stdin.close()
        server.wait(SECONDS)
