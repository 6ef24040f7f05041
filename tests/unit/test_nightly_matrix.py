# SPDX-License-Identifier: GPL-2.0-only
"""The file of a nightly matrix: what it means, and that every mistake is one sentence with the place and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.nightly.matrix import Cell, parse_matrix
from harness.nightly.verdicts import Result, result_of, verdict_of
from harness.run.verdict import Verdict

SOURCE = Path("/etc/gmem/nightly.yaml")
WHOLE = """\
schema: 1
kernels:
  "7.10":
  next: {git: ./linux, branch: topic/next, design: order0}
  far: {git: "https://git.example.org/linux.git", branch: main}
  image: {kernel: images/bzImage}
hosts:
  emulated:
  snp1: {host: hosts/snp1.yaml}
guests: [snp-stand-in, bare]
suites:
  smoke:
  mine: {run: [./suites, smoke], cases: one_page, brief: true}
skip:
  - {host: snp1, guest: bare, reason: it has no room}
nightly: "01:30"
"""


def test_what_a_file_means() -> None:
    matrix = parse_matrix(WHOLE, SOURCE)
    assert list(matrix.kernels) == ["7.10", "next", "far", "image"], "a version stays text"
    assert matrix.kernels["next"].git == "/etc/gmem/linux"
    assert matrix.kernels["far"].git == "https://git.example.org/linux.git"
    assert matrix.kernels["image"].kernel == "/etc/gmem/images/bzImage"
    assert {name: host.host for name, host in matrix.hosts.items()} == {
        "emulated": "emulated",
        "snp1": "/etc/gmem/hosts/snp1.yaml",
    }
    assert matrix.suites["smoke"].run == ("smoke",)
    assert matrix.suites["mine"].run == ("/etc/gmem/suites", "smoke")
    assert matrix.at == (1, 30)


def test_cells_are_the_product_without_what_is_skipped() -> None:
    cells = parse_matrix(WHOLE, SOURCE).cells()
    assert len(cells) == 4 * 2 * 2 * 2 - 4 * 2
    assert not [cell for cell in cells if (cell.host, cell.guest) == ("snp1", "bare")]
    assert cells[0] == Cell("7.10", "emulated", "snp-stand-in", "smoke")
    assert len({cell.key for cell in cells}) == len(cells)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("nightly:", "nigthly:", "unknown key nigthly (did you mean nightly?); known are schema, kernels"),
        ("brief:", "breif:", "unknown key breif in suites[...] (did you mean brief?); known are run, cases, brief"),
        ("branch: main", "brunch: main", "unknown key brunch in kernels[...] (did you mean branch?)"),
        ("{host: hosts/snp1.yaml}", "{hots: x}", "unknown key hots in hosts[...] (did you mean host?)"),
        ("reason: it", "raison: it", "unknown key raison in skip[0] (did you mean reason?)"),
        ("schema: 1", "schema: 2", "schema is 2, this harness reads 1"),
        ("hosts:\n", "hsots:\n", "unknown key hsots (did you mean hosts?)"),
        ("guests: [snp-stand-in, bare]", "guests: []", "guests is empty: there is nothing to run"),
        ("guests: [snp-stand-in, bare]", "guests: [snp-standin]", "snp-standin"),
        ('"01:30"', '"25:30"', "nightly is 25:30: it is a time like 02:30, or never"),
        ("host: snp1, guest", "host: snp2, guest", "skip: there is no host snp2 (did you mean snp1?)"),
        ("  emulated:\n", "  'emu lated':\n", "hosts: 'emu lated' is no name: letters, digits"),
        (", branch: main", "", "kernels.far: git and branch belong together"),
        ("{kernel: images/bzImage}", "{kernel: a, git: b, branch: c}", "kernels.image has kernel and git"),
        ("nightly:", "nightly: never\nnightly:", "line 17: the key nightly is given twice"),
        ("nightly:", "retries: -1\nnightly:", "retries is -1: it lies between 0 and 100"),
        ("nightly:", "hours: long\nnightly:", "Expected `float`, got `str` - at `.hours`"),
        ("nightly:", "database: mysql://a/b\nnightly:", "database is mysql: it is postgresql://USER@HOST/NAME"),
        ("nightly:", "web: {port: 99999}\nnightly:", "web.port is 99999: it lies between 0 and 65535"),
        ("nightly:", "web: {prot: 1}\nnightly:", "unknown key prot in web (did you mean port?)"),
        (
            "nightly:",
            "web: {interface: 0.0.0.0}\nnightly:",
            "the web server would listen on 0.0.0.0 without a login: name the users with web.login",
        ),
        ("schema: 1", "- schema", "not a mapping"),
    ],
)
def test_a_mistake_is_one_sentence(old: str, new: str, sentence: str) -> None:
    assert old in WHOLE
    with pytest.raises(UsageError) as caught:
        parse_matrix(WHOLE.replace(old, new, 1), SOURCE)
    told = str(caught.value)
    if sentence != "not a mapping":  # that text is no YAML at all
        assert sentence in told
    assert "\n" not in told


def test_nothing_that_would_ever_run() -> None:
    text = 'schema: 1\nkernels: {"7.3": }\nhosts: {emulated: }\nsuites: {smoke: }\n'
    assert parse_matrix(text, SOURCE).cells()
    with pytest.raises(UsageError, match="nothing would ever run"):
        parse_matrix(text + "nightly: never\n", SOURCE)
    with pytest.raises(UsageError, match="every cell is skipped"):
        parse_matrix(text + "skip: [{reason: none}]\n", SOURCE)


@pytest.mark.parametrize(
    ("code", "first", "last"),
    [
        (0, Result.SUCCESS, Result.SUCCESS),
        (1, Result.FAILURE, Result.FAILURE),
        (2, Result.RETRY, Result.EXCEPTION),
        (3, Result.RETRY, Result.EXCEPTION),
        (4, Result.EXCEPTION, Result.EXCEPTION),
        (5, Result.SKIPPED, Result.SKIPPED),
        (6, Result.WARNINGS, Result.WARNINGS),
        (7, Result.FAILURE, Result.FAILURE),
        (8, Result.FAILURE, Result.FAILURE),
        (-9, Result.RETRY, Result.EXCEPTION),
        (127, Result.RETRY, Result.EXCEPTION),
    ],
)
def test_what_an_exit_code_means_to_buildbot(code: int, first: Result, last: Result) -> None:
    """With two retries: at the first, the third and any later attempt."""
    assert result_of(verdict_of(code), 1, 2) is first
    assert result_of(verdict_of(code), 2, 2) is first
    assert result_of(verdict_of(code), 3, 2) is last
    assert result_of(verdict_of(code), 4, 2) is last


def test_every_code_of_a_run_has_its_own_verdict() -> None:
    for verdict in Verdict:
        if verdict not in (Verdict.XFAIL, Verdict.SKIP):  # of cases only
            assert verdict_of(verdict.exit_code) is verdict


def test_the_numbers_are_those_of_buildbot() -> None:
    from buildbot.process import results

    assert {result: getattr(results, result.name) for result in Result} == {result: int(result) for result in Result}
