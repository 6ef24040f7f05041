# SPDX-License-Identifier: GPL-2.0-only
"""The demonstrator kernels behave like their design, and a design that is not theirs is told from them.

Each is recognised from what its module kvm shows, and judged on one story: a private chunk, a page taken out and
given back, a part, all of it, and the chunk once more.  Kernels of another series (6.12) and those that convert in
place are judged by ``ci/accept --all``: building them here would double the time that a change waits for its verdict.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.emulated.conftest import Gmem

STORY = """\
name: story
steps:
- {do: convert, range: 'g0.r0[0:512]', to: private}
- {do: populate, range: 'g0.r0[0:512]'}
- {do: convert, range: 'g0.r0[100:101]', to: shared}
- {do: convert, range: 'g0.r0[100:101]', to: private}
- {do: populate, range: 'g0.r0[100:101]'}
- {do: check, range: 'g0.r0[0:512]', expect: pattern}
- {do: convert, range: 'g0.r0[3:4]', to: shared}
- {do: convert, range: 'g0.r0[256:512]', to: shared}
- {do: convert, range: 'g0.r0[0:512]', to: shared}
- {do: convert, range: 'g0.r0[0:512]', to: private}
- {do: populate, range: 'g0.r0[0:512]'}
- {do: close, guest: g0}
"""

DEMONSTRATORS = (
    ("7.3-thp-discard", "thp-discard"),
    ("7.3-thp-2m-truncate", "thp-2m-truncate-noop"),
)

# Kernel, a design that it does not have, and the counters of which one at least must be named.
STRANGERS = (
    ("7.3", "thp-discard", r"nr_file_hugepages|kvm/g0/pages_2m"),
    ("7.3-thp-discard", "order0", r"nr_file_hugepages|kvm/g0/pages_2m"),
    ("7.3-thp-discard", "thp-2m-truncate-noop", r"nr_file_pages|thp_split_page"),
    ("7.3-thp-2m-truncate", "thp-discard", r"nr_file_pages|thp_split_page"),
)


@pytest.fixture
def story(tmp_path: Path) -> str:
    path = tmp_path / "story.yaml"
    path.write_text(STORY)
    return str(path)


@pytest.mark.parametrize(("kernel", "design"), DEMONSTRATORS, ids=[kernel for kernel, _ in DEMONSTRATORS])
def test_a_demonstrator_has_its_design(gmem_cli: Gmem, story: str, kernel: str, design: str) -> None:
    ended = gmem_cli.run(story, "--kernel", kernel)
    assert ended.code == 0, ended.stdout + ended.stderr
    assert f"design:  {design}" in ended.stdout
    assert not gmem_cli.left_behind()


@pytest.mark.parametrize(
    ("kernel", "design", "counters"), STRANGERS, ids=[f"{row[0]}-as-{row[1]}" for row in STRANGERS]
)
def test_a_kernel_is_told_from_another_design(
    gmem_cli: Gmem, story: str, kernel: str, design: str, counters: str
) -> None:
    ended = gmem_cli.run(story, "--kernel", kernel, "--design", design)
    assert ended.code == 1, ended.stdout + ended.stderr
    named = [finding for finding in ended.findings() if re.fullmatch(counters, finding["counter"])]
    assert named, ended.said()
    assert all(finding["reasons"] for finding in named)


def test_the_switch_turns_a_demonstrator_off(gmem_cli: Gmem, story: str) -> None:
    ended = gmem_cli.run(story, "--kernel", "7.3-thp-discard", "--cmdline", "kvm.gmem_2m_enabled=0")
    assert ended.code == 0, ended.stdout + ended.stderr
    assert "design:  order0" in ended.stdout
