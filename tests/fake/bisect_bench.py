# SPDX-License-Identifier: GPL-2.0-only
"""Bisections without machines: real git, a real build of a kernel of a few lines, and runs on paper.

What a kernel of paper does is written in its code: the runner finds the words in the image.  As a program it runs
``gmem`` with that runner, so that it can be interrupted and killed:

    python -m tests.fake.bisect_bench FOLDER PLAN.json bisect --tree ...
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import harness.cli.bisect as command
import harness.cli.bisect_step as step_command
from harness.bisect.runner import Ended, Wanted
from harness.cache import ContentCache
from harness.cli.main import main
from harness.errors import UsageError
from harness.kernel.apt import PrivateApt
from harness.kernel.catalog import Catalog
from harness.kernel.store import KernelStore
from harness.report.store import OutDir
from harness.run.result import CaseResult, Finding, StepResult
from harness.run.verdict import Verdict
from tests.fake.kernel_archive import make_configs, make_tree

REASON = "touch (order0): 1 page of g0.r0[0:1] enters the page cache"
CASES = ("one_page", "there_and_back[odd]")
"""The first one has more steps."""


@dataclass
class Paper:
    """How the runs on paper go."""

    seconds: float = 0.0
    infra_at: tuple[int, ...] = ()
    """Numbers of the runs, from 0, that the testbed fails."""
    killed_at: tuple[int, ...] = ()
    """The same, of runs that die without leaving anything."""
    hide: int = 0
    """The fault hides in every so many-th attempt."""


class PaperRunner:
    """Runs on paper; what it was asked is in ``folder/asked``, a line for each run."""

    def __init__(self, folder: Path, paper: Paper) -> None:
        self.folder = folder
        self.paper = paper

    def __call__(self, kernel: Path, wanted: Wanted, out: Path) -> Ended:
        asked = self.folder / "asked"
        number = len(asked.read_text().splitlines()) if asked.exists() else 0
        with asked.open("a") as log:
            log.write(f"{wanted.expression or 'all'} {wanted.repeat} {kernel}\n")
        if wanted.expression == "nonsense and":
            raise UsageError("-k is no expression")
        place = OutDir.create(out)
        time.sleep(self.paper.seconds)
        if number in self.paper.killed_at:
            return Ended(-9, (), "it said nothing", 0.1)
        image = kernel.read_bytes()
        results = []
        for repeat in range(1, wanted.repeat + 1):
            for case in CASES:
                if not wanted.expression or case.startswith(wanted.expression):
                    results.append(self._result(case, repeat, image, infra=number in self.paper.infra_at))
                    place.append(results[-1])
        code = 5 if not results else max(result.verdict.exit_code for result in results)
        return Ended(code, tuple(results), "the last line", 0.1)

    def _result(self, case: str, repeat: int, image: bytes, *, infra: bool) -> CaseResult:
        leak = 1 + image.count(b"LEAK-HERE")
        if self.paper.hide and repeat % self.paper.hide == 0:
            leak = 1
        other = b"OTHER-HERE" in image
        verdict, sentence = Verdict.PASS, "all predictions hold"
        if infra:
            verdict, sentence = Verdict.INFRA, "QEMU died"
        elif b"BOOT-NOT" in image:
            verdict, sentence = Verdict.NO_BOOT, "the kernel panicked"
        elif other or leak > 1:
            verdict, sentence = Verdict.DEVIATES, f"unaccounted {'moved' if leak > 1 else 'of the other kind'}"
        steps = []
        count = 3 if case == "one_page" else 2
        for index in range(count):
            last = index == count - 1
            counter = "F" if other else "unaccounted"
            finding = Finding(
                counter=counter, low=1, high=1, observed=(5 if other else leak) if last else 1, noise=0,
                verdict=Verdict.DEVIATES if last and (other or leak > 1) else Verdict.PASS, reasons=(REASON,),
            )  # fmt: skip
            seconds = 0.01 * (3 if b"SLOW-HERE" in image else 1)
            steps.append(
                StepResult(index=index, text=f"touch step {index}", seconds=seconds, findings=(finding,), recorded={})
            )
        shown = () if verdict in (Verdict.INFRA, Verdict.NO_BOOT) else tuple(steps)
        return CaseResult(
            suite="smoke", case=case, claim="", verdict=verdict, sentence=sentence, seconds=0.1, steps=shown,
            evidence="", repeat=repeat,
        )  # fmt: skip


def git(tree: Path, *words: str) -> str:
    """git in a tree of the test."""
    who = {f"GIT_{role}_{what}": f"x{'@example.org' if what == 'EMAIL' else ''}" for role in ("AUTHOR", "COMMITTER")
           for what in ("NAME", "EMAIL")}  # fmt: skip
    done = subprocess.run(
        ["git", "-C", str(tree), "-c", "init.defaultBranch=main", *words],
        env={**os.environ, **who}, check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout.strip()


def text(number: int, *words: str) -> str:
    """A file of the kernel that says words, and a number so that each commit has code of its own."""
    return f'int two(void)\n{{\n\treturn {number};\n}}\nconst char said[] = "{" ".join(words)}";\n'


def commit(tree: Path, number: int, *words: str, subject: str = "", content: str = "") -> str:
    """One commit; returns its name."""
    (tree / "mm" / "two.c").write_text(content or text(number, *words))
    git(tree, "commit", "-q", "--allow-empty", "-a", "-m", subject or f"two: change {number}")
    return git(tree, "rev-parse", "HEAD")


def make_repository(tree: Path, names: str = "sha1") -> str:
    """The kernel of a few lines as a repository with one commit; returns its name."""
    make_tree(tree)
    git(tree.parent, "init", "-q", f"--object-format={names}", str(tree))
    git(tree, "add", "-f", ".")
    return commit(tree, 0, subject="Import")


def install(folder: Path, paper: Paper) -> None:
    """Puts the runs on paper and the kernels of a few lines in the place of the real ones."""
    configs = folder / "host-configs"
    catalog = configs / "kernels.yaml" if configs.exists() else make_configs(configs)

    def store(cache: ContentCache, progress: object) -> KernelStore:
        return KernelStore(cache, catalog=Catalog.load(catalog), apt=PrivateApt(cache.root / "apt", etc=folder))

    runner = PaperRunner(folder, paper)
    for module in (command, step_command):
        module.KernelStore = store  # type: ignore[attr-defined]
        module.run_gmem = runner  # type: ignore[attr-defined]


def start(folder: Path, paper: Paper, *words: str) -> subprocess.Popen[str]:
    """``gmem WORDS`` on paper, as a process."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps(asdict(paper)))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fake.bisect_bench", str(folder), str(plan), *words],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


if __name__ == "__main__":
    install(Path(sys.argv[1]), Paper(**json.loads(Path(sys.argv[2]).read_text())))
    sys.exit(main(sys.argv[3:]))
