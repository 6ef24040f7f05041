# SPDX-License-Identifier: GPL-2.0-only
"""``gmem bisect`` with real git, real builds of a small kernel, and runs on paper."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.bisect.decide import Mark
from harness.cli.main import main
from harness.report.store import load
from harness.run.verdict import Verdict
from tests.fake.bisect_bench import Paper, commit, git, install, make_repository, start, text
from tests.fake.bisect_cli_bench import LEAK, Bench, bench

__all__ = ["bench"]


def snapshot(tree: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in tree.rglob("*") if p.is_file()}


def test_the_commit_is_named_with_what_changed_and_the_user_tree_is_not_touched(bench: Bench) -> None:
    bench.line(16, 11)
    before = snapshot(bench.tree)
    code, out, err = bench.bisect()
    assert code == 0, err
    assert f"commit {bench.names[10]}" in out
    assert "author x, 20" in out
    assert "shows:  deviates: unaccounted too high, rule touch, in smoke/there_and_back[odd]" in out
    assert "before: unaccounted predicted +1, observed +1" in out
    assert "after:  unaccounted predicted +1, observed +2: touch (order0): 1 page" in out
    assert "again:  gmem run " in out
    assert "bzImage -k 'there_and_back[odd'" in out
    assert snapshot(bench.tree) == before
    builds = [step for step in bench.state.steps if step.name not in (bench.base, bench.names[-1])]
    assert len(builds) <= 4
    info, cases = load(bench.folder / "out")
    assert info is not None
    assert info.verdict is Verdict.PASS
    assert info.sentence == f"the first bad one is {bench.names[10][:12]} two: change 11"
    assert {case.suite for case in cases} == {f"{step.title.split()[0]}:smoke" for step in bench.state.steps}
    log = (bench.folder / "out" / "bisect.log").read_text()
    assert "s build" in log
    assert all(step.title in log for step in bench.state.steps)


def test_only_the_shortest_case_is_run_in_each_step_as_often_as_it_takes(bench: Bench) -> None:
    bench.line(8, 3)
    bench.json()
    first, rate, *steps = [line.split()[:2] for line in bench.asked()]
    assert (first, rate) == (["all", "1"], ["there_and_back[odd", "5"])
    assert {tuple(step) for step in steps} == {("there_and_back[odd", "3")} or {"2", "3"} >= {s[1] for s in steps}


def test_a_commit_that_does_not_build_and_one_that_does_not_boot_are_skipped(bench: Bench) -> None:
    bench.line(16, 11, n8=("#error",), n12=("BOOT-NOT",))
    told = bench.json()
    assert told["found"] == bench.names[10]
    assert bench.marks()[8] is Mark.SKIP
    why = {step.name: step.why for step in bench.state.steps}
    assert why[bench.names[7]] == "it does not build"
    error = next(step.not_built for step in bench.state.steps if step.name == bench.names[7])
    assert "#error planted" in error


def test_a_kernel_that_does_not_boot_is_skipped(bench: Bench) -> None:
    bench.line(8, 6, n4=("BOOT-NOT",))
    assert bench.json()["found"] == bench.names[5]
    assert bench.marks()[4] is Mark.SKIP


def test_when_only_skipped_ones_are_left_the_suspects_are_told(bench: Bench) -> None:
    bench.line(8, 5, n4=("#error",), n5=("#error",))
    code, out, _ = bench.bisect()
    assert code == Verdict.INCONCLUSIVE.exit_code
    assert "the first bad one is among these 3" in out
    for number in (4, 5, 6):
        assert bench.names[number - 1][:12] in out


def test_another_deviation_is_not_the_fault(bench: Bench) -> None:
    bench.line(8, 6, n4=("OTHER-HERE",))
    code, out, _ = bench.bisect()
    assert code == 0
    assert f"commit {bench.names[5]}" in out
    assert bench.marks()[4] is Mark.SKIP
    assert f"beside: {bench.names[3][:12]} two: change 4: unaccounted of the other kind" in out


def test_commits_that_change_no_code_are_not_booted_again(bench: Bench) -> None:
    bench.base = make_repository(bench.tree)
    for number in range(1, 9):
        words = (LEAK,) if number >= 6 else ()
        bench.names.append(commit(bench.tree, 0, content=text(0, *words) + f"/* {number} */\n"))
    code, _, err = bench.bisect()
    assert code == 0, err
    assert f"the same binary as {bench.names[3][:12]} two: change 0, not booted" in err
    assert len(bench.asked()) == 3, "the bad end and the first good one were run, and nothing else"
    assert bench.base not in [step.name for step in bench.state.steps], "a good one stands for the good end"
    assert bench.state.conclusion.startswith(f"the first bad one is {bench.names[5][:12]}")


def test_a_merge_is_looked_into(bench: Bench) -> None:
    """The leak is on the side branch; the main line has commits of its own."""
    bench.base = make_repository(bench.tree)
    git(bench.tree, "checkout", "-q", "-b", "side")
    for number in range(1, 6):
        bench.names.append(commit(bench.tree, number, *((LEAK,) if number >= 4 else ())))
    git(bench.tree, "checkout", "-q", "-b", "trunk", bench.base)
    for number in range(5):
        (bench.tree / "mm" / "one.c").write_text(f"int one(void)\n{{\n\treturn {number + 20};\n}}\n")
        git(bench.tree, "commit", "-q", "-a", "-m", f"one: change {number}")
    git(bench.tree, "merge", "-q", "--no-ff", "-m", "Merge side", "side")
    leak = bench.names[3]
    bench.names.append(git(bench.tree, "rev-parse", "HEAD"))
    assert bench.json()["found"] == leak


def test_a_repository_with_longer_names(bench: Bench) -> None:
    bench.base = make_repository(bench.tree, "sha256")
    bench.names = [commit(bench.tree, number, *((LEAK,) if number >= 2 else ())) for number in (1, 2, 3)]
    assert bench.json()["found"] == bench.names[1]


def test_trouble_of_the_testbed_is_repeated_and_never_a_verdict(bench: Bench) -> None:
    bench.line(16, 7)
    told = bench.json(paper=Paper(infra_at=(0, 1, 4, 7), killed_at=(2, 6, 8)))
    assert told["found"] == bench.names[6]
    assert {mark for mark in bench.marks().values()} <= {Mark.GOOD, Mark.BAD}


def test_a_fault_that_hides_takes_more_passes(bench: Bench) -> None:
    bench.line(8, 5)
    told = bench.json(paper=Paper(hide=2))
    assert told["found"] == bench.names[4]
    state = bench.state
    assert (state.shown, state.trials) == (11, 20) or state.shown < state.trials
    assert state.passes > 5
    assert told["confidence"] >= 0.95


# -- interruption


def wait_for(met: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not met():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come that far"
        time.sleep(0.01)


def runs(bench: Bench) -> int:
    return len(bench.asked()) if (bench.folder / "asked").exists() else 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupted_bisection_goes_on_where_it_stood(bench: Bench, number: signal.Signals, after: int) -> None:
    bench.line(16, 11)
    process = start(bench.folder, Paper(seconds=0.3), *bench.words("--json"))
    wait_for(lambda: runs(bench) >= after, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (-9 if number is signal.SIGKILL else 2), err
    done = {step.name: len(step.attempts) for step in bench.state.steps}
    if number is not signal.SIGKILL:
        assert f"gmem bisect --resume {bench.folder / 'out'} goes on" in err
        info, _ = load(bench.folder / "out")
        assert info is not None
        assert info.verdict is Verdict.INTERRUPTED
    before = runs(bench)
    install(bench.folder, Paper())
    assert main(["bisect", "--json", "--resume", str(bench.folder / "out")]) == 0
    told = json.loads(bench.capsys.readouterr().out)
    assert told["found"] == bench.names[10]
    again = {step.name: len(step.attempts) for step in bench.state.steps}
    assert all(again[name] >= count for name, count in done.items())
    assert runs(bench) - before <= 7 - sum(done.values()) + 1, "what was seen is not run again"


def test_killed_again_and_again_it_comes_to_the_same_end(bench: Bench) -> None:
    bench.line(16, 4)
    words = bench.words("--json")
    for _ in range(30):
        before = runs(bench)
        process = start(bench.folder, Paper(seconds=0.2), *words)
        while process.poll() is None and runs(bench) < before + 2:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.kill()
        process.communicate(timeout=60)
        words = ["bisect", "--json", "--resume", str(bench.folder / "out")]
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["found"] == bench.names[3]
    assert load(bench.folder / "out")[0] is not None


# -- several at once


@pytest.mark.parametrize("first", [2, 9, 16])
def test_side_by_side_the_same_commit_is_found(bench: Bench, first: int) -> None:
    bench.line(16, first, n12=("#error",))
    told = bench.json("--jobs", "3", paper=Paper(infra_at=(1, 4, 7)))
    assert told["found"] == bench.names[first - 1]
    assert len(bench.marks()) <= 9


def test_side_by_side_it_is_interrupted_and_goes_on(bench: Bench) -> None:
    bench.line(16, 5)
    process = start(bench.folder, Paper(seconds=0.3), *bench.words("--json", "--jobs", "3"))
    wait_for(lambda: runs(bench) >= 4, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    install(bench.folder, Paper())
    assert main(["bisect", "--json", "--jobs", "2", "--resume", str(bench.folder / "out")]) == 0
    assert json.loads(bench.capsys.readouterr().out)["found"] == bench.names[4]


# -- a list of kernels


def kernels_of(bench: Bench, count: int, first: int) -> str:
    bench.line(count, first)
    paths = []
    for name in (bench.base, *bench.names):
        place = bench.folder / f"k-{name[:8]}"
        git(bench.tree, "worktree", "add", "-q", "--detach", str(place), name)
        paths.append(str(place))
    return ",".join(paths)


def test_a_list_of_kernels(bench: Bench) -> None:
    names = kernels_of(bench, 5, 3)
    install(bench.folder, Paper())
    assert main(["bisect", "smoke", "--kernels", names, "--state", "out", "--json"]) == 0
    told = json.loads(bench.capsys.readouterr().out)
    assert told["found"] == names.split(",")[3]
    assert told["builds"] <= 5


# -- quantities


def test_a_counter_beyond_its_bound(bench: Bench) -> None:
    """A leak of one page was known; the one that makes it two is looked for."""
    bench.base = make_repository(bench.tree)
    bench.base = commit(bench.tree, 1, LEAK)
    for number in range(2, 10):
        bench.names.append(commit(bench.tree, number, LEAK, *((LEAK,) if number >= 6 else ())))
    told = bench.json("--counter", "unaccounted", "--above", "2", "--step", "1")
    assert told["found"] == bench.names[4]
    assert any(line.startswith("after:  unaccounted predicted +1, observed +3") for line in told["lines"])


def test_a_cost(bench: Bench) -> None:
    bench.base = make_repository(bench.tree)
    for number in range(1, 9):
        bench.names.append(commit(bench.tree, number, *(("SLOW-HERE",) if number >= 4 else ())))
    told = bench.json("--cost", "touch", "--ratio-above", "2", paper=Paper(infra_at=(0, 3), killed_at=(1,)))
    assert told["found"] == bench.names[3]


def test_a_cost_of_steps_that_are_not_there(bench: Bench) -> None:
    bench.line(2, 2)
    code, _, err = bench.bisect("--cost", "punch", "--ratio-above", "2")
    assert code == 4
    assert "no such steps in these cases, only touch" in err


# -- what cannot be


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--tree", "/nowhere"], "--tree /nowhere is not a directory"),
        (["--tree", "."], "is not a git tree: not a git repository"),
        (["--tree", "linux", "--good", "v9.9"], "--good v9.9 is no commit of"),
        (["--tree", "linux", "--good", "--help"], "--good --help is no commit of"),
        (["--tree", "linux", "--good", "HEAD", "--bad", "HEAD~1"], "--good HEAD comes after --bad HEAD~1"),
        (["--tree", "linux", "--good", "HEAD", "--bad", "HEAD"], "are the same commit"),
        (["--tree", "linux", "--good", "lone"], "--good lone is not an ancestor of --bad HEAD"),
        (["--tree", "linux", "--good", "HEAD~1", "nosuch"], "there is no suite nosuch"),
        (["--tree", "linux", "--good", "HEAD~1", "--design", "x"], "design"),
        (["--tree", "linux", "--good", "HEAD~1", "--counter", "F"], "--counter needs one bound"),
        (["--tree", "linux", "--good", "HEAD~1", "--above", "1"], "belong to --counter"),
        (["--tree", "linux", "--good", "HEAD~1", "--cost", "x"], "--cost needs --ratio-above"),
        (["--tree", "linux", "--good", "HEAD~1", "--state", "linux/mm/two.c"], "is a file"),
        (["--kernels", ""], "names no kernel at one place"),
        (["--kernels", "a,,b"], "names no kernel at one place"),
        (["--kernels", "a"], "a bisection needs two ends"),
        (["--kernels", "a,b,a"], "--kernels has a twice"),
        (["--kernels", "a,b", "--good", "c"], "--good c is none of --kernels a,b"),
        (["--kernels", "a,b", "--good", "b"], "--good b does not come before --bad b"),
        (["--kernels", "a,b", "--tree", "linux"], "name what is to be bisected"),
        ([], "name what is to be bisected"),
        (["--resume", "linux"], "holds no bisection to resume"),
        (["--resume", "linux", "--tree", "linux"], "give the directory alone"),
    ],
)
def test_what_cannot_be_is_one_sentence(bench: Bench, words: list[str], sentence: str) -> None:
    bench.line(2, 2)
    git(bench.tree, "checkout", "-q", "--orphan", "lone")
    git(bench.tree, "commit", "-q", "-m", "lone")
    git(bench.tree, "checkout", "-q", "main")
    install(bench.folder, Paper())
    bad = [] if "--bad" in words or "--tree" not in words or "--resume" in words else ["--bad", "HEAD"]
    good = [] if "--good" in words or not bad else ["--good", "HEAD~1"]
    assert main(["bisect", *words, *bad, *good]) == 4
    err = bench.capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err
    assert not (bench.folder / "gmem-out").exists(), "nothing was made"


def test_ends_that_are_not_what_they_should_be(bench: Bench) -> None:
    bench.line(4, 9)
    code, _, err = bench.bisect()
    assert code == 4
    assert "does not show a deviation or a crash (all 2 cases pass): nothing to bisect" in err


def test_a_good_end_that_shows_it_too(bench: Bench) -> None:
    bench.line(4, 1)
    bench.base, bench.names = bench.names[0], bench.names[1:]
    code, _, err = bench.bisect()
    assert code == 4
    assert "shows it too" in err


def test_a_place_that_is_taken(bench: Bench) -> None:
    bench.line(2, 2)
    assert bench.bisect()[0] == 0
    code, _, err = bench.bisect()
    assert code == 4
    assert "there already is a run in it" in err


def test_local_changes_are_not_looked_at_and_that_is_said(bench: Bench) -> None:
    bench.line(4, 3)
    (bench.tree / "mm" / "two.c").write_text("#error mine\n")
    code, _, err = bench.bisect()
    assert code == 0
    assert "uncommitted changes in" in err
    assert (bench.tree / "mm" / "two.c").read_text() == "#error mine\n"
