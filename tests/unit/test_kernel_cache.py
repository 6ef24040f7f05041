# SPDX-License-Identifier: GPL-2.0-only
"""The cache: whole entries or none, built once, never believed when damaged; and the lock under it."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cache import MANIFEST, ContentCache, cache_root, content_key, require_space
from harness.errors import InfraError
from harness.locks import FileLock, LockTimeout


class Builder:
    """Fills an entry and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "sub").mkdir()
        (folder / "sub" / "data").write_bytes(b"content")
        (folder / "link").symlink_to("sub/data")


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, notices: list[str]) -> ContentCache:
    return ContentCache(tmp_path / "cache", notify=notices.append, lock_timeout=5)


def again(cache: ContentCache, notices: list[str] | None = None) -> ContentCache:
    """The same cache as another process sees it: nothing is verified yet."""
    return ContentCache(cache.root, notify=(notices if notices is not None else []).append, lock_timeout=5)


def test_an_entry_is_built_once_and_then_found(cache: ContentCache, notices: list[str]) -> None:
    build = Builder()
    place = cache.entry("kind", "key", build, what="thing")
    assert (place / "link").read_bytes() == b"content"
    assert cache.entry("kind", "key", build, what="thing") == place
    assert again(cache, notices).entry("kind", "key", build, what="thing") == place
    assert build.calls == 1
    assert notices == []


def test_a_build_that_fails_leaves_nothing(cache: ContentCache) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise InfraError("no")

    with pytest.raises(InfraError, match="no"):
        cache.entry("kind", "key", fail, what="thing")
    assert cache.get("kind", "key", what="thing") is None
    assert list((cache.root / "kind").iterdir()) == []


def test_an_interrupted_build_leaves_nothing_that_looks_whole(cache: ContentCache) -> None:
    script = (
        "import os, sys, pathlib; from harness.cache import ContentCache\n"
        "def build(folder):\n"
        "    (folder / 'data').write_text('half'); os.kill(os.getpid(), 9)\n"
        "ContentCache(pathlib.Path(sys.argv[1])).entry('kind', 'key', build, what='thing')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(cache.root)], check=False, timeout=30)
    assert ended.returncode == -9
    assert list((cache.root / "kind").iterdir()), "the test killed the build before it began"
    build = Builder()
    place = cache.entry("kind", "key", build, what="thing")
    assert build.calls == 1
    assert [path.name for path in (cache.root / "kind").iterdir()] == ["key"]
    assert (place / "sub" / "data").exists()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda place: (place / "sub" / "data").write_bytes(b"Content"), "sub/data has changed"),
        (lambda place: (place / "sub" / "data").write_bytes(b"conten"), "sub/data has changed"),
        (lambda place: (place / "sub" / "data").unlink(), "sub/data is missing"),
        (lambda place: (place / MANIFEST).unlink(), "its manifest is missing"),
        (lambda place: (place / MANIFEST).write_text('{"files": {'), "its manifest is not readable as JSON"),
        (lambda place: (place / MANIFEST).write_text("{}"), "its manifest is not readable as JSON"),
        (lambda place: ((place / "link").unlink(), (place / "link").symlink_to("x")), "the link link has changed"),
    ],
)
def test_a_damaged_entry_is_built_again_with_a_notice(
    cache: ContentCache, notices: list[str], harm: object, reason: str
) -> None:
    build = Builder()
    place = cache.entry("kind", "key", build, what="thing")
    assert callable(harm)
    harm(place)
    assert again(cache, notices).entry("kind", "key", build, what="thing") == place
    assert notices == [f"the cached thing is damaged ({reason}) and is made again"]
    assert build.calls == 2
    assert (place / "sub" / "data").read_bytes() == b"content"


def test_a_file_in_place_of_an_entry_is_damage_too(cache: ContentCache, notices: list[str]) -> None:
    (cache.root / "kind").mkdir(parents=True)
    (cache.root / "kind" / "key").write_text("not a folder")
    assert cache.entry("kind", "key", Builder(), what="thing").is_dir()
    assert "it is not a folder" in notices[0]


def test_an_unreadable_entry_is_an_error_and_is_not_built_again(cache: ContentCache) -> None:
    build = Builder()
    place = cache.entry("kind", "key", build, what="thing")
    (place / MANIFEST).unlink()
    (place / MANIFEST).symlink_to(MANIFEST)  # a loop: cannot be opened, not even by root
    with pytest.raises(InfraError, match=r"cannot be read \(Too many levels of symbolic links\): repair"):
        again(cache).entry("kind", "key", build, what="thing")
    assert build.calls == 1


def _race(root: str, log: str) -> None:
    def build(folder: Path) -> None:
        with Path(log).open("a") as stream:
            stream.write("built\n")
        time.sleep(0.2)
        (folder / "data").write_text("x")

    ContentCache(Path(root), notify=lambda _: None).entry("kind", "key", build, what="thing")


def test_processes_that_race_for_an_entry_build_it_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    runs = [spawn.Process(target=_race, args=(str(tmp_path / "cache"), str(tmp_path / "log"))) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(30)
        assert run.exitcode == 0
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_full_disk_is_said_as_such(cache: ContentCache) -> None:
    def fill(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InfraError, match=r"the disk of the cache .* is full"):
        cache.entry("kind", "key", fill, what="thing")


def test_a_cache_that_cannot_be_made_is_said_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InfraError, match="cannot be opened: Not a directory"):
        ContentCache(tmp_path / "file").entry("kind", "key", Builder(), what="thing")


def test_prune_keeps_the_newest_and_the_recently_used(cache: ContentCache) -> None:
    for number in range(4):
        place = cache.entry("kind", f"k{number}", Builder(), what="thing")
        os.utime(place, (time.time() - 1000 * (4 - number),) * 2)
    assert cache.prune("kind", keep=1, unused_for=2500) == ["k1", "k0"]
    assert sorted(path.name for path in (cache.root / "kind").iterdir()) == ["k2", "k3"]
    assert cache.prune("nothing", keep=0) == []


def test_using_an_entry_makes_it_recent(cache: ContentCache) -> None:
    place = cache.entry("kind", "key", Builder(), what="thing")
    os.utime(place, (1, 1))
    cache.entry("kind", "key", Builder(), what="thing")
    assert cache.prune("kind", keep=0) == []


def test_names_cannot_leave_the_cache(cache: ContentCache) -> None:
    for bad in ("..", "a/b", "", ".hidden"):
        with pytest.raises(ValueError, match="not a name"):
            cache.path("kind", bad)


def test_keys_tell_parts_apart(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("ab")
    assert content_key("ab", "c") != content_key("a", "bc")
    assert content_key(file) == content_key("ab") == content_key(b"ab")
    file.write_text("ac")
    assert content_key(file) != content_key("ab")


def test_the_root_follows_the_xdg_rule() -> None:
    assert cache_root({"XDG_CACHE_HOME": "/var/c"}) == Path("/var/c/gmem-harness")
    assert cache_root({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache" / "gmem-harness"


def test_too_little_space_is_said_before_the_work(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet", 1, "a thing")
    with pytest.raises(InfraError, match=r"not enough disk space for a thing: it needs \d+ MiB and .* has \d+ MiB"):
        require_space(tmp_path, 1 << 60, "a thing")


def test_a_lock_that_stays_taken_names_its_holder(tmp_path: Path) -> None:
    told: list[str] = []
    with FileLock(tmp_path / "l", what="building kernel 7.3"):
        started = time.monotonic()
        with (
            pytest.raises(LockTimeout, match=rf"held by process {os.getpid()} \(building kernel 7.3, since"),
            FileLock(tmp_path / "l", what="other", timeout=0.3, waiting=told.append),
        ):
            pytest.fail("two holders")
        assert 0.3 <= time.monotonic() - started < 5
    assert len(told) == 1
    with FileLock(tmp_path / "l", what="other", timeout=0.3):
        pass


def test_a_child_that_was_given_the_lock_keeps_it(tmp_path: Path) -> None:
    with FileLock(tmp_path / "l", what="parent") as lock:
        child = subprocess.Popen(["sleep", "30"], pass_fds=(lock.fd,))
    try:
        with pytest.raises(LockTimeout), FileLock(tmp_path / "l", what="next", timeout=0.2, waiting=lambda _: None):
            pytest.fail("the child was overtaken")
    finally:
        child.kill()
        child.wait(10)
    with FileLock(tmp_path / "l", what="next", timeout=5):
        pass
