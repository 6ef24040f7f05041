# SPDX-License-Identifier: GPL-2.0-only
"""pytest fixtures and options for suites on guest_memfd kernels.

A case is a test function that takes the fixture ``gmem`` and gives it steps; its docstring is the claim::

    @pytest.mark.gmem(designs=["order0"])
    def test_convert_back(gmem):
        \"\"\"Converting touched private pages to shared gives every one of them back to the host.\"\"\"
        gmem.run(Convert(G0[0:512], PRIVATE), Populate(G0[0:512]), Convert(G0[0:512], SHARED))

``claim="C2"`` in the marker puts the case into the table of claims (``harness/report/claims.py``), and
``gmem.run(..., tells=[Tell(step=2, counter="nr_file_pages")])`` says with which numbers.

A function that also takes ``gmem_seed`` becomes ``--gmem-cases`` cases, with the seeds from ``--gmem-seed`` on.  A YAML
scenario named on the command line is a case too.  The plugin does nothing in a run without such cases.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from harness.errors import GmemError, InfraError, UsageError
from harness.interruption import INTERRUPTION
from harness.pytest_marks import DECLARED, mark_of, not_brief
from harness.report.series import Numbers, series
from harness.report.store import OutDir
from harness.run.options import RunOptions, check_options
from harness.run.outcome import verdict_of_error
from harness.run.result import CaseResult
from harness.run.runner import CaseName
from harness.run.session import Session
from harness.run.tell import Tell
from harness.run.verdict import Verdict, worst
from harness.run.walk import STEP_SECONDS
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Step

LISTENER = "gmem-listener"
"""Name of a plugin that wants to know how the run goes; see :class:`Listener`."""


RANDOM_CASES = 500
"""Cases that a function with ``gmem_seed`` becomes: enough that each rule of the model is met some fifty times."""


class Listener(Protocol):
    """What ``gmem run`` registers to show progress."""

    def begin(self, case: str) -> None:
        """A case begins."""

    def end(self, case: CaseResult) -> None:
        """A case has its verdict."""

    def note(self, line: str) -> None:
        """Something the user should know."""

    def building(self, phase: str, done: int, total: int | None) -> None:
        """A kernel is being fetched or built."""


class CaseFailed(Exception):
    """A case that did not pass; the text is its sentence."""

    def __init__(self, result: CaseResult) -> None:
        super().__init__(f"{result.verdict.value}: {result.sentence}")
        self.result = result


@dataclass
class GmemRun:
    """The run of this pytest process; made when the first case asks for it."""

    config: pytest.Config
    out: OutDir | None = None
    session: Session | None = None
    ended_by: tuple[Verdict, str] | None = None
    early: list[CaseResult] = field(default_factory=list)
    """Trouble of cases before there was a session."""
    pytest_session: pytest.Session | None = None

    def option(self, name: str) -> Any:
        """The value of ``--gmem-NAME``."""
        return self.config.getoption(f"gmem_{name}")

    @property
    def listener(self) -> Listener | None:
        """Whoever wants to know how the run goes."""
        found: Listener | None = self.config.pluginmanager.get_plugin(LISTENER)
        return found

    def note(self, line: str) -> None:
        """Show a line to the user."""
        if self.listener:
            self.listener.note(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def begin(self) -> Session:
        """The session, with its output directory."""
        if self.session is None:
            options = RunOptions(
                kernel=self.option("kernel"),
                patches=tuple(Path(path) for path in self.option("patch") or ()),
                host=self.option("host"),
                design=self.option("design"),
                guest=self.option("guest"),
                command_line=self.option("cmdline"),
                seed=self.option("seed"),
                deadline=self.option("deadline"),
                keep=self.option("keep"),
                require=self.option("require"),
            )
            check_options(options)  # before there is an output directory with nothing to put in
            out_option = self.option("out")
            self.out = out = OutDir.create(Path(out_option) if out_option else None)
            self.session = Session(options, evidence=out.evidence, relative=out.relative, notice=self.note)
            if self.listener:
                self.session.progress = self.listener.building
            early, self.early = self.early, []
            for result in early:
                self.add_outside(result)
        return self.session

    def add(self, result: CaseResult) -> None:
        """A case is done: on disk first, then on the screen.  A result that cannot be kept ends the run."""
        assert self.out is not None
        try:
            self.out.append(result)
        except GmemError as error:
            self.ended_by = self.ended_by or (verdict_of_error(error), str(error))
            if self.pytest_session is not None:
                self.pytest_session.shouldstop = str(error)
        if self.listener:
            self.listener.end(result)

    def add_outside(self, result: CaseResult) -> None:
        """A case that came to nothing by itself; it waits for the first case that needs a session."""
        if self.session is None:
            self.early.append(result)
        else:
            self.session.cases.append(result)
            self.add(result)

    def finish(self, exitstatus: int) -> int | None:
        """Write the reports; returns the exit code, None for a run without cases."""
        if self.session is None or self.out is None:
            if self.early and self.ended_by is None:
                kind = worst(result.verdict for result in self.early)
                self.ended_by = kind, next(result.sentence for result in self.early if result.verdict is kind)
            return self.ended_by[0].exit_code if self.ended_by else None
        done = f"after {len(self.session.cases)} cases"
        interrupted = exitstatus == pytest.ExitCode.INTERRUPTED or INTERRUPTION.asked
        if interrupted and self.ended_by is None:
            self.ended_by = (Verdict.INTERRUPTED, f"interrupted {done}")
        elif exitstatus == pytest.ExitCode.INTERNAL_ERROR and self.ended_by is None:
            self.ended_by = (Verdict.INFRA, f"pytest failed {done}; its traceback is on standard error")
        try:
            self.session.close()
        except GmemError as error:  # beside what the cases say, not in its place
            self.add_outside(self.session.not_given_back(error))
        info = self.session.info(tuple(sys.argv), ended_by=self.ended_by)
        try:
            self.out.finish(info)
        except GmemError as error:
            self.ended_by = (verdict_of_error(error), str(error))
            return error.exit_code
        return info.exit_code


_RUN: pytest.StashKey[GmemRun] = pytest.StashKey()


@dataclass
class Case:
    """What the fixture ``gmem`` gives to a test: one case."""

    gmem: GmemRun
    name: CaseName
    designs: tuple[str, ...]
    guests: tuple[str, ...] = ()
    """Launches that it is about; empty: all that a QEMU runs, and ``bare`` as far as it can do the steps."""
    called: bool = False
    done: CaseResult | None = None

    def run(
        self,
        *steps: Step,
        guests: int = 1,
        chunks: int = 8,
        frames: bool = False,
        pcp_room: bool = False,
        backing: str = "anon-4k",
        tells: Sequence[Tell] = (),
    ) -> CaseResult:
        """Run the steps as one scenario on a fresh testbed; raises :class:`CaseFailed` unless they pass.

        ``frames``: watch page identity too (counters ``frames/*``), at a tenth of a second per step and GiB of host.
        ``pcp_room``: per-CPU page lists keep what a CPU frees.
        ``backing``: what the shared side is made of (``anon-4k``, ``anon-thp``, ``memfd-4k``, ``shmem-thp``,
        ``hugetlb``).
        ``tells``: the numbers that the table of claims shows; without, it shows the case's own sentence.
        """
        self.name = replace(self.name, tells=tuple(tells))
        made = Scenario(
            self.name.case,
            tuple(steps),
            guests=guests,
            chunks=chunks,
            frames=frames,
            pcp_room=pcp_room,
            backing=backing,
        )
        return self.run_scenario(made)

    def run_scenario(self, scenario: Scenario) -> CaseResult:
        """Run a scenario as this case."""
        if self.called:
            raise UsageError(f"{self.name.suite}/{self.name.case}: a case is one scenario; give it all steps at once")
        self.called = True
        INTERRUPTION.check()
        session = self.gmem.begin()
        if self.gmem.listener:
            self.gmem.listener.begin(f"{self.name.suite}/{self.name.case}")
        if self.guests and session.launch.name not in self.guests:
            why = f"the claim concerns guests started as {', '.join(self.guests)}, these are {session.launch.name}"
            result = self._skip(session, f"{why}; --guest {self.guests[0]} has such")
        elif self.designs and not self._concerned(session, scenario):
            result = self._skip(session, self._other_design(session))
        else:
            result = session.run(scenario, self.name)
        self.done = result
        self.gmem.add(result)
        if result.verdict is Verdict.SKIP:
            pytest.skip(result.sentence)
        if result.verdict is not Verdict.PASS:
            raise CaseFailed(result)
        return result

    def record_series(
        self, name: str, x: Sequence[float], y: Sequence[float], predicted: Numbers | None = None, *, axis: str = ""
    ) -> None:
        """Keep a curve for the table of claims: ``y`` at each ``x``, beside ``predicted`` at each (a number or a pair).

        After :meth:`run`.  ``axis`` says what ``x`` counts.  Raises ``UsageError`` for curves of different lengths.
        """
        if self.done is None or self.gmem.out is None:
            raise UsageError(f"{self.name.suite}/{self.name.case}: record_series() comes after run()")
        self.gmem.out.append_series(series(self.done, name, axis, x, y, predicted))

    def _concerned(self, session: Session, scenario: Scenario) -> bool:
        """Whether the claim is about the design of the kernel under test; a broken testbed is not decided here.

        Any testbed tells the design, so that one that this kernel cannot have is not asked for.
        """
        if not session.design:
            try:
                session.ready(session.spec(guests=scenario.guests, chunks=scenario.chunks))
            except GmemError:
                return True
        return session.design in self.designs

    def _other_design(self, session: Session) -> str:
        return (
            f"the claim concerns design {', '.join(self.designs)}, the kernel under test is {session.design}; "
            f"--design {self.designs[0]} judges it all the same"
        )

    def _skip(self, session: Session, why: str) -> CaseResult:
        result = CaseResult(
            suite=self.name.suite, case=self.name.case, claim=self.name.claim, verdict=Verdict.SKIP, sentence=why,
            seconds=0.0, steps=(), evidence="", repeat=self.name.repeat,
        )  # fmt: skip
        result = session.named(result, self.name)
        session.cases.append(result)
        return result


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of a run; ``gmem run`` sets the same ones."""
    group = parser.getgroup("gmem", "guest_memfd suites")
    text = {
        "kernel": "kernel under test: a name of kernels.yaml, a source tree, or a bzImage",
        "out": "output directory (default: gmem-out/DATE-TIME-xxxx)",
    }
    for name, said in text.items():
        group.addoption(f"--gmem-{name}", default=None, help=said)
    group.addoption("--gmem-patch", action="append", default=[], help="patch on top of a named kernel (repeatable)")
    group.addoption("--gmem-host", default="emulated", help="host under test")
    group.addoption("--gmem-design", default="auto", help="gmem design to judge by; auto reads the kernel")
    group.addoption("--gmem-guest", default="snp-stand-in", help="how guests are started")
    group.addoption("--gmem-cmdline", default="", help="added to the command line of the kernel under test")
    group.addoption("--gmem-repeat", type=int, default=1, help="run every case that many times")
    group.addoption("--gmem-seed", type=int, default=0, help="seed of the first random case, recorded in run.json")
    group.addoption("--gmem-cases", type=int, default=RANDOM_CASES, help="cases that are made of a random one")
    group.addoption("--gmem-deadline", type=float, default=STEP_SECONDS, help="seconds that one request may take")
    group.addoption("--gmem-brief", action="store_true", help="a few telling cases of each claim only")
    group.addoption("--gmem-require", action="store_true", help="skips for what the host lacks are failures (infra)")
    group.addoption("--gmem-keep", action="store_true", help="save the testbed of a case that does not pass")


def pytest_configure(config: pytest.Config) -> None:
    """Make the run known; nothing happens before a case asks for it."""
    config.addinivalue_line("markers", DECLARED)
    config.stash[_RUN] = GmemRun(config)


@pytest.hookimpl(trylast=True)  # so that these stand behind the case's own parameters
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``gmem_seed``: cases called ``random-SEED``, one for each seed.  ``--gmem-repeat``: each case several times."""
    option = metafunc.config.getoption
    if "gmem_seed" in metafunc.fixturenames:
        seeds = range(option("gmem_seed"), option("gmem_seed") + option("gmem_cases"))
        metafunc.parametrize("gmem_seed", seeds, ids="random-{}".format)
    times = option("gmem_repeat")
    if "gmem" in metafunc.fixturenames and times > 1:
        metafunc.fixturenames.append("gmem_repeat")
        metafunc.parametrize("gmem_repeat", range(1, times + 1), ids=_REPEAT.format)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``--gmem-brief``: some cases stay, see ``not_brief``."""
    if not config.getoption("gmem_brief"):
        return
    left_out = not_brief(items)
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def gmem(request: pytest.FixtureRequest) -> Case:
    """One case of a suite on the kernel under test."""
    mark = mark_of(request.node)
    name = replace(case_name(request.node), claim_id=mark.claim_id)
    return Case(request.config.stash[_RUN], name, mark.designs, mark.guests)


_REPEAT = "repeat{}"
"""How a repetition is called in the name of pytest's item."""


def case_name(item: pytest.Item) -> CaseName:
    """Suite (the folder below ``suites``), case (the function and its parameters) and claim (the docstring)."""
    if isinstance(item, ScenarioItem):
        return CaseName("scenario", item.scenario.name, f"scenario of {item.path.name}", item.repeat)
    params = getattr(item, "callspec", None)
    repeat = params.params.get("gmem_repeat", 0) if params else 0
    case = item.name.removeprefix("test_")
    if repeat:
        number = _REPEAT.format(repeat)
        alone = case.endswith(f"[{number}]")
        case = case.removesuffix(f"[{number}]") if alone else case.removesuffix(f"-{number}]") + "]"
    doc = inspect.getdoc(getattr(item, "function", None)) or ""
    return CaseName(item.path.parent.name, case, " ".join(doc.split("\n\n")[0].split()), repeat or 1)


class ScenarioFile(pytest.File):
    """A YAML scenario named on the command line."""

    def collect(self) -> Iterator[pytest.Item]:
        try:
            scenario = Scenario.from_yaml(self.path.read_text(encoding="utf-8"), str(self.path))
        except UsageError as error:
            raise self.CollectError(str(error)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise self.CollectError(f"{self.path}: cannot be read as text: {error}") from None
        times = self.config.getoption("gmem_repeat")
        for number in range(1, times + 1):
            name = f"{self.path.stem}[{_REPEAT.format(number)}]" if times > 1 else self.path.stem
            yield ScenarioItem.from_parent(self, name=name, scenario=scenario, repeat=number)


class ScenarioItem(pytest.Item):
    """The one case of a YAML scenario."""

    def __init__(self, *, scenario: Scenario, repeat: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scenario = scenario
        self.repeat = repeat

    def runtest(self) -> None:
        Case(self.config.stash[_RUN], case_name(self), ()).run_scenario(self.scenario)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"scenario {self.name}"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """YAML files are scenarios when they are named themselves, never because they lie in a folder."""
    named = {Path(str(word).split("::")[0]).resolve() for word in parent.config.args}
    if file_path.suffix in (".yaml", ".yml") and file_path.resolve() in named:
        return ScenarioFile.from_parent(parent, path=file_path)
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A case that did not pass is one sentence, not a traceback; trouble outside a case is recorded too."""
    report = yield
    if not _is_case(item):
        return report
    error = call.excinfo.value if call.excinfo else None
    case = getattr(item, "funcargs", {}).get("gmem")
    if call.when == "call" and error is None and isinstance(case, Case) and not case.called:
        error = UsageError(f"{case.name.suite}/{case.name.case} never called gmem.run(): it checks nothing")
        report.outcome = "failed"
    if isinstance(error, (CaseFailed, GmemError)):
        report.longrepr = str(error)
    if error is not None and not isinstance(error, (CaseFailed, pytest.skip.Exception, pytest.xfail.Exception)):
        _record_outside(item, error, call.duration)
    return report


def _is_case(item: pytest.Item) -> bool:
    return "gmem" in getattr(item, "fixturenames", ()) or isinstance(item, ScenarioItem)


def _record_outside(item: pytest.Item, error: BaseException, seconds: float) -> None:
    """A suite's own mistake, or trouble before the case could run."""
    if isinstance(error, pytest.FixtureLookupError):
        error = InfraError(f"fixture {error.argname!r} of the suite is not found")
    known = error if isinstance(error, GmemError) else InfraError(f"{type(error).__name__} in the suite: {error}")
    name = case_name(item)
    case = getattr(item, "funcargs", {}).get("gmem")
    result = CaseResult(
        suite=name.suite, case=name.case, claim=name.claim, verdict=verdict_of_error(known), sentence=str(known),
        seconds=seconds, steps=(), evidence="", repeat=name.repeat,
        claim_id=case.name.claim_id if isinstance(case, Case) else "",
    )  # fmt: skip
    item.config.stash[_RUN].add_outside(result)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember whom to stop."""
    session.config.stash[_RUN].pytest_session = session


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the reports; the exit status of a run with cases is that of its verdict."""
    code = session.config.stash[_RUN].finish(exitstatus)
    if code is not None:
        session.exitstatus = code


def run_of(config: pytest.Config) -> GmemRun:
    """The run of a pytest configuration, for ``gmem run``."""
    return config.stash[_RUN]


def selected(items: Sequence[pytest.Item]) -> list[str]:
    """Names of the cases among collected items, as ``suite/case``, each once."""
    names = [case_name(item) for item in items if _is_case(item)]
    return list(dict.fromkeys(f"{name.suite}/{name.case}" for name in names))
