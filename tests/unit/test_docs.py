# SPDX-License-Identifier: GPL-2.0-only
"""The documents say what is true: links lead somewhere, commands and options exist, tables equal the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from harness.cli.main import gmem
from harness.host.emulated.machine import MachineSpec
from harness.model.designs import DESIGNS
from harness.run.verdict import Verdict
from harness.scenario.scenario import Scenario
from harness.scenario.steps import STEP_TYPES, Step

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

CASE_ONLY = (Verdict.SKIP, Verdict.XFAIL)
"""Words that a case may have and a run has not."""

everywhere = pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def anchors(document: Path) -> set[str]:
    """The anchors that a renderer makes of the headings: lower case, punctuation gone, spaces to dashes."""
    headings = re.findall(r"^#+ +(.+)$", text_of(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table(document: Path, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, its head and rule left out."""
    section = text_of(document).split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def command_lines(document: Path) -> list[str]:
    """Every ``gmem ...`` in a code span or an indented or fenced line of code, up to a comment."""
    text = text_of(document)
    spans = re.findall(r"`(gmem [^`]+)`", text)
    lines = re.findall(r"^(?: {4}|)(?:\$ |time )?(gmem .*)$", text, re.M)
    return [re.split(r"\s#|  | [|>]", line)[0].strip() for line in [*spans, *lines]]


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words name, and the rest of them."""
    command: click.Command = gmem
    context = click.Context(gmem, info_name="gmem")
    while words and isinstance(command, click.Group) and not words[0].startswith(("-", "[")):
        found = command.get_command(context, words[0])
        assert found is not None, f"gmem has no command {words[0]}"
        command, words = found, words[1:]
    return command, words


@everywhere
def test_links_resolve(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text_of(document)):
        assert "://" not in target, f"{target}: documents refer to the project only"
        path, _, anchor = target.partition("#")
        place = (document.parent / path).resolve() if path else document
        assert place.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(place), f"{target}: {place.name} has no such heading"


@everywhere
def test_commands_exist(document: Path) -> None:
    for line in command_lines(document):
        words = [word for word in line.split()[1:] if word != "COMMAND"]
        command, rest = resolve(words)
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        before = rest[: rest.index("--")] if "--" in rest else rest
        for word in before:
            if word.startswith("-") and word != "-":
                assert word.partition("=")[0] in known, f"{line}: {command.name} has no option {word}"


def parse(line: str) -> str:
    """What the parser says against a line of a document, '' when it would be run; files need not exist here."""
    words = [word.rstrip(";") for word in shlex.split(line)][1:]
    context = click.Context(gmem, info_name="gmem")
    command: click.Command = gmem
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, line
        command, context, words = found, click.Context(found, info_name=words[0], parent=context), words[1:]
    try:
        command.make_context(command.name, list(words), parent=context.parent)
    except click.exceptions.Exit:
        return ""  # --help and --version end here
    except click.UsageError as error:
        said = error.format_message()
        return "" if "does not exist" in said else said
    return ""


def whole_lines(document: Path) -> list[str]:
    """The command lines in blocks of code that stand there to be typed: no synopsis, no group by itself."""
    lines = re.findall(r"^(?: {4}|)(?:\$ |time )?(gmem .*)$", text_of(document), re.M)
    typed = [re.split(r"\s#|  | [|>]|; ", line)[0].strip() for line in lines]
    return [line for line in typed if "[" not in line and not line.endswith("...") and not line.endswith("COMMAND")]


@everywhere
def test_command_lines_are_accepted(document: Path) -> None:
    """By the parser itself, with every value; nothing is run."""
    if document.parent.name == "reference":
        return  # written from the parser
    refused = {line: said for line in whole_lines(document) if (said := parse(line))}
    assert not refused


def test_a_wrong_command_line_would_be_refused() -> None:
    assert "is not in the range" in parse("gmem run --repeat 0 smoke")
    assert "No such option" in parse("gmem run --no-such-thing")
    assert "Missing argument" in parse("gmem history compare one")


RUNNABLE = re.compile(r"gmem (?:--version|model .+|kernel list|host (?:list|schema|check [\w./-]+\.yaml)|\w+ --help)")
"""Command lines that need no testbed, no network and no file of the reader's."""


def runnable() -> list[str]:
    lines = {line for document in DOCUMENTS for line in (*whole_lines(document), *command_lines(document))}
    return sorted(line for line in lines if RUNNABLE.fullmatch(line) and "[" not in line)


@pytest.mark.parametrize("line", runnable())
def test_examples_that_need_no_testbed_run(line: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "harness.cli.main", *shlex.split(line)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_some_examples_are_run() -> None:
    assert any(line.startswith("gmem model --compare") for line in runnable())
    assert len(runnable()) >= 5


def test_readme_names_commands() -> None:
    """The check above would hold for documents without any command."""
    assert any(line.startswith("gmem run --kernel") for line in command_lines(ROOT / "README.md"))


@everywhere
def test_scripts_exist(document: Path) -> None:
    for name in re.findall(r"(?<![\w/.])((?:ci|\.ci|benchmarks)/[a-z_]+(?:\.py)?)", text_of(document)):
        assert (ROOT / name).exists(), f"{name} does not exist"


@everywhere
def test_paths_exist(document: Path) -> None:
    """Files of the project that a document names, by a path from the root or from the package."""
    pattern = r"`((?:harness|guest-images|host-configs|suites|tests|interposer)/[\w./-]+)`"
    for name in re.findall(pattern, text_of(document)):
        places = (ROOT / name, ROOT / "harness/native" / name)
        assert any(place.exists() for place in places), f"{name} does not exist"


@pytest.mark.parametrize(
    ("document", "heading"), [("README.md", "Exit codes"), ("docs/design.md", "Verdicts and exit codes")]
)
def test_exit_codes(document: str, heading: str) -> None:
    rows = [(int(code), verdict) for code, verdict, _ in table(ROOT / document, heading)]
    assert rows == sorted((verdict.exit_code, verdict.value) for verdict in Verdict if verdict not in CASE_ONLY)


def test_exit_codes_in_help() -> None:
    """``gmem run --help`` lists them too."""
    command, _ = resolve(["run"])
    said = dict(re.findall(r"\b(\d) ([a-z]+(?: (?:ran|boot))?)", command.help or ""))
    words = {str(v.exit_code): v.value.replace("-", " ") for v in Verdict if v not in CASE_ONLY}
    assert said == words


def test_steps() -> None:
    rows = [(step.strip("`"), word.strip("`"), keys) for step, word, keys, _ in table(HOWTO, "Steps")]
    assert rows == [(kind.__name__, tag(kind), keys_of(kind)) for kind in STEP_TYPES]


HOWTO = ROOT / "docs" / "howto-suite.md"


def tag(kind: type[Step]) -> str:
    return str(kind.__struct_config__.tag)


def keys_of(kind: type[Step]) -> str:
    return ", ".join(f"`{name}`" for name in kind.__struct_fields__)


def test_yaml_example_is_a_scenario() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", text_of(HOWTO), re.S)
    assert len(Scenario.from_yaml(example, "docs/howto-suite.md").steps) == 4


def test_python_example_is_a_suite(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", text_of(HOWTO), re.S)
    (tmp_path / "test_example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli.main", "run", "--dry-run", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_numbers_of_the_emulated_host() -> None:
    """What the stack's picture says of the machine."""
    machine = MachineSpec()
    said = text_of(ROOT / "docs" / "emulated-host.md")
    assert f"{machine.cpus} CPUs, {machine.memory_mib // 1024} GiB" in said
    for port in MachineSpec(guests=1).ports():
        assert f"`{port.name.replace('.g0.', '.gN.')}`" in said


def test_designs() -> None:
    said = text_of(ROOT / "README.md")
    assert all(f"`{name}`" in said for name in DESIGNS)


FOREIGN = re.compile(
    r"/root/\.(?!ssh)|/home/\w|/tmp/[a-z]/"
    r"|\bpypi\.|\bdebian\.org|\bproxy\b.*://|://(?!127\.)[\w.-]+:\d+|index-url|\bmirror\.(?!example)",
    re.I,
)
"""Paths of one machine, package registries and their mirrors: they belong to the machine's own configuration.

``/root`` by itself is fine: it is the home in the machines that the harness makes.  So are reserved names (.example).
"""


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    return [ROOT / name for name in listing.decode().split("\0") if name]


def test_no_machine_in_tracked_files() -> None:
    found = []
    for path in tracked():
        if path == Path(__file__) or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if FOREIGN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_every_file_names_its_license() -> None:
    without = {"LICENSE", ".gitignore", "README.md"}
    bare = []
    for path in tracked():
        exempt = path.name in without or path.suffix in (".md", ".txt", ".log", ".png") or not path.is_file()
        if not exempt and path.stat().st_size:
            head = path.read_text(encoding="utf-8", errors="replace").splitlines()[:3]
            if not any("SPDX-License-Identifier: GPL-2.0-only" in line for line in head):
                bare.append(str(path.relative_to(ROOT)))
    assert not bare, f"without an SPDX line: {', '.join(bare)}"
