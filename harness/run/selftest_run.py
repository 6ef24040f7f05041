# SPDX-License-Identifier: GPL-2.0-only
"""Builds and runs selftests on the kernel under test: a testbed without guests, restored for each of them.

The order of blame is that of every case: a console that shows a crash makes it a crash, whatever the program said; a
program that does not end, or a testbed that does not answer, is ``infra``.
"""

from __future__ import annotations

import functools
import gzip
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.cache import ContentCache
from harness.errors import CrashError, GmemError, InfraError
from harness.host.emulated.control import Control
from harness.host.emulated.prepare import Clock
from harness.host.emulated.state import TestbedSpec
from harness.host.emulated.testbed import Testbed
from harness.kernel.record import Kernel
from harness.kernel.selftests import build_selftest
from harness.kernel.store import KernelStore
from harness.run.outcome import verdict_of_error
from harness.run.result import CaseResult
from harness.run.runner import CaseName
from harness.run.selftest_list import SelftestList
from harness.run.selftests import Decided, decide
from harness.run.session import Session
from harness.run.verdict import Verdict

SUITE = "selftests"
DEADLINE = 900.0
"""Seconds that a selftest may take.  The longest, set_memory_region_test, adds 32,764 slots: on two cores it took 31 s
with little else running, 65 s to 193 s beside a dozen programs, and more than 300 s beside two dozen.  A kernel that
hangs says so on its console much earlier."""
GUEST_KIND = "those that each selftest makes for itself"
OUTPUT = "output.txt"
"""In the evidence: what the program printed on both streams."""
HUNG = "hung.txt"
"""In the evidence of one that did not end: what its threads wait for, and how much time they have taken."""

_PROGRAM, _OUTPUT = "/tmp/selftest", "/tmp/selftest.out"
_OUTPUT_LIMIT = 256 << 10
"""Bytes of output that are kept; the rest is read and dropped, so that no program fills the host's memory with it."""
_PIECE = 512 << 10
"""Bytes in one request: a frame holds 1 MiB."""
_POLL = 0.05
_WHERE = """
ps -o pid,stat,time,args
for task in $(pidof "$0" | sed 's,[0-9]*,/proc/&/task/*,g'); do
    echo "$task: $(cat $task/wchan) $(cut -d' ' -f3,14,15 $task/stat)"
    cat $task/stack
done 2>&1
"""
"""Of each thread: where it sleeps in the kernel, state, ticks in user space and in the kernel, and its stack."""
_LAST_WORDS_SECONDS = 0.5
"""How long a console may take to show why nobody answers."""


def bounded(program: str, output: str, limit: int = _OUTPUT_LIMIT) -> list[str]:
    """The command that runs ``program`` with the first ``limit`` bytes of both its streams going to ``output``.

    Its exit status is that of the program, 128 + signal when that was killed.
    """
    script = f'set -o pipefail; "$0" 2>&1 < /dev/null | {{ head -c {limit} > "$1"; cat > /dev/null; }}'
    return ["sh", "-c", script, program, output]


def deliver(control: Control, program: Path, path: str) -> None:
    """Put a program into the emulated host; in pieces, and compressed, since a static one is larger than a frame."""
    data = gzip.compress(program.read_bytes(), 6)
    pieces = [f"{path}.{number:03d}" for number in range(-(-len(data) // _PIECE))]
    for number, piece in enumerate(pieces):
        control.put(piece, data[number * _PIECE : (number + 1) * _PIECE])
    script = 'to=$1; shift; cat "$@" | gunzip > "$to" && chmod 0755 "$to" && rm "$@"'
    control.check(["sh", "-ec", script, "deliver", path, *pieces], timeout=30.0)


class DidNotEnd(InfraError):
    """A program was still running at its deadline."""


def run_program(testbed: Testbed, program: Path, deadline: float) -> tuple[int, str]:
    """Run a program in the emulated host; its exit status (128 + signal when it was killed), and what it printed.

    Raises ``CrashError`` as soon as a console shows a crash, :class:`DidNotEnd` at the deadline (the output up to then
    is in the evidence), ``InfraError`` when the host does not answer.  What it printed is written to the evidence.
    """
    control = testbed.channels.control
    deliver(control, program, _PROGRAM)
    pid = control.spawn(bounded(_PROGRAM, _OUTPUT), {}, "/dev/null")
    end = time.monotonic() + deadline
    while (state := control.status(pid)) == "running":
        testbed.check_consoles()
        if time.monotonic() > end:
            _read(testbed)
            hung = control.run(["sh", "-c", _WHERE, Path(_PROGRAM).name])
            (testbed.evidence / HUNG).write_text(hung.output)
            raise DidNotEnd(f"it did not end within {deadline:g} s, its deadline")
        time.sleep(_POLL)
    text = _read(testbed)
    testbed.check_consoles()
    if not state.startswith("exited"):
        raise InfraError(f"the shell around it was {state}")
    return int(state.rpartition(" ")[2]), text


def _read(testbed: Testbed) -> str:
    data = testbed.channels.control.get(_OUTPUT, _OUTPUT_LIMIT)
    (testbed.evidence / OUTPUT).write_bytes(data)
    return data.decode("utf-8", "replace")


@dataclass
class SelftestRun:
    """The selftests of one session; ``begin`` is called with the name of a case as it starts."""

    session: Session
    known: SelftestList
    begin: Callable[[str], None]
    deadline: float = DEADLINE
    _trouble: str = field(default="", init=False)
    """The case that says why there is no testbed."""

    def run(self, tests: Sequence[str]) -> Iterator[CaseResult]:
        """Run them in this order; results come as they are known, and are kept in the session too."""
        for test in tests:
            self.begin(f"{SUITE}/{test}")
            for result in self._one(test):
                self.session.cases.append(result)
                yield result

    def _one(self, test: str) -> list[CaseResult]:
        """The program's case, and one for each result that it printed."""
        began = time.monotonic()
        folder: Path | None = None
        if self._trouble:
            return [self._case(test, Verdict.SKIP, f"no testbed: see {self._trouble}", began, folder)]
        try:
            kernel = self._kernel(test)
            program = build_selftest(self.store, kernel, test)
            if program is None:
                return [self._case(test, Verdict.SKIP, f"absent: {kernel.name} has no such test", began, folder)]
            spec, saved = self._saved(test)
            folder = self.session.evidence(f"{SUITE}-{test}")
            began = time.monotonic()
            with self.session.lab.restored(spec, saved, folder, Clock()) as testbed:
                code, text = self._run(testbed, program)
        except GmemError as error:
            return [self._case(test, verdict_of_error(error), str(error), began, folder)]
        decided = decide(self.known, self.session.design, test, code, text)
        return [self._told(test, each, began, folder) for each in decided]

    def _kernel(self, test: str) -> Kernel:
        """The kernel under test; made on first use."""
        with self._for_all(test):
            self.session.lab  # noqa: B018 - makes it
        assert self.session.kernel is not None, "a session that has its lab has its kernel"
        return self.session.kernel

    def _saved(self, test: str) -> tuple[TestbedSpec, Path]:
        """The testbed without guests, and the folder of its saved state; made on first use."""
        spec = self.session.spec(guests=0, chunks=1)
        with self._for_all(test):
            return spec, self.session.ready(spec).saved

    @contextmanager
    def _for_all(self, test: str) -> Iterator[None]:
        """What fails here fails for every test: this one has the reason, the others name it."""
        try:
            yield
        except GmemError:
            self._trouble = f"{SUITE}/{test}"
            raise

    @functools.cached_property
    def store(self) -> KernelStore:
        """Where kernels and selftests are built."""
        return KernelStore(ContentCache(notify=self.session.notice), progress=self.session.progress)

    def _run(self, testbed: Testbed, program: Path) -> tuple[int, str]:
        """Run it; a crash explains every other trouble, otherwise it is said what became of the machine."""
        try:
            return run_program(testbed, program, self.deadline)
        except CrashError:
            raise
        except InfraError as error:
            end = time.monotonic() + _LAST_WORDS_SECONDS
            while time.monotonic() < end:
                testbed.check_consoles()
                if not testbed.machine.running:
                    raise InfraError(f"{error}; {testbed.machine.last_words()}") from error
                time.sleep(0.02)
            raise

    def _told(self, test: str, decided: Decided, began: float, folder: Path | None) -> CaseResult:
        if not decided.result:
            return self._case(test, decided.verdict, decided.sentence, began, folder)
        return self._case(f"{test}:{decided.result}", decided.verdict, decided.sentence, began, folder, of=test)

    def _case(
        self, name: str, verdict: Verdict, sentence: str, began: float, folder: Path | None, *, of: str = ""
    ) -> CaseResult:
        claim = f"one result of {of}" if of else self.known.tests[name]
        result = CaseResult(
            suite=SUITE, case=name, claim=claim, verdict=verdict, sentence=sentence,
            seconds=0.0 if of else time.monotonic() - began, steps=(),
            evidence="" if folder is None else self.session.relative(folder),
        )  # fmt: skip
        return self.session.named(result, CaseName(SUITE, name, claim))
