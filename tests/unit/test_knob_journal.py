# SPDX-License-Identifier: GPL-2.0-only
"""The journal of a borrowed host: torn, damaged, on one machine or on both."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InfraError
from harness.host.knobs.giving_back import is_ours, is_ours_now
from harness.host.knobs.journal import Begin, Change, ControllerJournal, First, Intent, Outcome, line, tell, union

POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
BEGIN = Begin(run="r1", boot="b1", user="u", machine="m", pid=1, at=5, purpose="a test")
WHOLE = b"".join(
    map(
        line,
        [BEGIN, First(values={"/sys/a": "1"}), Intent(path="/sys/a", value="2"), Outcome(path="/sys/a", value="2")],
    )
)


def test_every_prefix_is_a_journal() -> None:
    """However the last write was torn, what stands before it is used, and nothing is invented."""
    for cut in range(len(WHOLE)):
        story = tell(WHOLE[:cut])
        if story is None:
            assert WHOLE[:cut].count(b"\n") == 0
            continue
        assert story.begin == BEGIN
        assert story.first in ({}, {"/sys/a": "1"})
        assert story.changes in ({}, {"/sys/a": Change("2")}, {"/sys/a": Change("2", "2")})


def test_a_damaged_line_is_left_out() -> None:
    lines = WHOLE.split(b"\n")
    lines[2] = lines[2].replace(b'"2"', b'"9"')
    story = tell(b"\n".join(lines))
    assert story is not None
    assert (story.damaged, story.changes) == ([3], {})


def test_both_copies_complete_each_other() -> None:
    lines = WHOLE.splitlines(keepends=True)
    (story,) = union([b"".join(lines[:3]), b"".join(lines[:1] + lines[3:] + lines[1:3])])
    assert story.changes["/sys/a"].value == "2"
    (story,) = union([b"".join(lines[:2]), WHOLE])
    assert story.changes == {"/sys/a": Change("2", "2")}
    other = line(Begin(run="r2", boot="b1", user="u", machine="m", pid=1, at=5, purpose="another"))
    assert [story.begin.run for story in union([WHOLE, other])] == ["r1", "r2"]
    assert union([b"", b"rubbish\n"]) == []


def test_controller_journal(tmp_path: Path) -> None:
    journal = ControllerJournal(tmp_path / "hosts" / "x")
    assert journal.read() == b""
    journal.append([BEGIN])
    journal.append([Intent(path="/sys/a", value="2")])
    assert journal.read().count(b"\n") == 2
    journal.close()
    assert journal.read() == b""
    (tmp_path / "file").write_text("")
    with pytest.raises(InfraError, match="nothing was set"):
        ControllerJournal(tmp_path / "file").append([BEGIN])


def test_what_the_run_left() -> None:
    assert is_ours_now("/sys/a", "1", Change("2", "2"), "2")
    assert not is_ours_now("/sys/a", "1", Change("2", "2"), "3")
    assert is_ours_now("/sys/a", "1", Change("2", "5"), "5")  # the kernel made 5 of it
    assert is_ours_now("/sys/a", "1", Change("2"), "3")  # killed before it was read back
    assert is_ours_now(POOL, "0", Change("8", "8"), "3")  # killed while it was given back
    assert not is_ours_now(POOL, "0", Change("8", "8"), "9")


@pytest.mark.parametrize("path", ["/run/gmem-x", "/tmp/gmem.y/deep", "/dev/hugepages/gmem-1", "/var/lib/gmem-harness"])
def test_places_for_files_of_ours(path: str) -> None:
    assert is_ours(path)


@pytest.mark.parametrize(
    "path", ["/", "/run", "/etc/gmem", "/run/gmem/../x", "/run/gmem/./x", "/run/x/gmem", "/run/gmem *"]
)
def test_no_places_for_files_of_ours(path: str) -> None:
    assert not is_ours(path)
