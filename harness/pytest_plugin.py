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
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GmemError, InfraError, UsageError
from harness.pytest_case import Case, CaseFailed
from harness.pytest_marks import DECLARED, REPEAT, mark_of, not_brief
from harness.pytest_run import GmemRun
from harness.run.outcome import verdict_of_error
from harness.run.result import CaseResult
from harness.run.runner import CaseName
from harness.run.walk import STEP_SECONDS
from harness.scenario.scenario import Scenario

__all__ = ["RANDOM_CASES", "Case", "CaseFailed", "case_name", "run_of", "selected"]

RANDOM_CASES = 500
"""Cases that a function with ``gmem_seed`` becomes: enough that each rule of the model is met some fifty times."""

_RUN: pytest.StashKey[GmemRun] = pytest.StashKey()


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
        metafunc.fixturenames.append(REPEAT)
        metafunc.parametrize(REPEAT, range(1, times + 1), ids=_REPEAT.format)


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
    repeat = params.params.get(REPEAT, 0) if params else 0
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
