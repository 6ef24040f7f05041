# SPDX-License-Identifier: GPL-2.0-only
"""From a name to a kernel, with the real apt, dpkg, tar, patch, make and compiler on a kernel of a few lines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cache import ContentCache, file_sha256
from harness.errors import InfraError, UsageError
from harness.kernel.apt import PrivateApt
from harness.kernel.catalog import Catalog
from harness.kernel.image import read_image
from harness.kernel.store import KernelStore
from harness.locks import FileLock, LockTimeout
from tests.fake.kernel_archive import CHANGE, TWO, make_archive, make_configs, make_tree


class Watch:
    """Remembers the phases and the last count of each."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[int, int | None]] = {}

    def __call__(self, phase: str, done: int, total: int | None, /) -> None:
        self.seen[phase] = (done, total)


class Bench:
    """A machine of its own: archive, cache, configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.etc = make_archive(folder)
        self.catalog = make_configs(folder / "host-configs")
        self.notices: list[str] = []
        self.watch = Watch()

    def store(self) -> KernelStore:
        """As a new process sees it."""
        self.watch = Watch()
        cache = ContentCache(self.folder / "cache", notify=self.notices.append, lock_timeout=30)
        apt = PrivateApt(cache.root / "apt", etc=self.etc, codename="bookworm")
        return KernelStore(cache, catalog=Catalog.load(self.catalog), apt=apt, progress=self.watch)

    def log(self, store: KernelStore, key: str) -> str:
        return (store.cache.root / "kernel" / key / "build.log").read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_name_becomes_a_kernel_once(bench: Bench) -> None:
    store = bench.store()
    kernel = store.resolve()
    assert (kernel.name, kernel.release, kernel.patches) == ("stock", "9.9.1", ())
    assert kernel.origin == "Debian package linux-source-9.9 9.9.1-1 (sid)"
    assert kernel.version == "#1 Thu Jan  1 00:00:00 UTC 1970"
    assert read_image(kernel.image).builder == f"gmem@{kernel.key[:16]}"
    assert kernel.config is not None
    assert kernel.config.read_text() == "CONFIG_A=y\n"
    assert kernel.config_hash == file_sha256(kernel.config)
    assert {"fetch", "extract", "build"} <= set(bench.watch.seen)
    shutil.rmtree(bench.folder / "archive")  # from here on there is no network
    again = bench.store()
    assert again.built("stock") == again.resolve("stock") == kernel
    assert bench.watch.seen == {}
    assert bench.notices == []


def test_the_tree_holds_what_is_needed(bench: Bench) -> None:
    source = bench.store().resolve().source
    assert source is not None
    assert not (source / "arch/arm/head.c").exists()
    assert not (source / "drivers/gpu/gpu.c").exists()
    assert not (source / "sound/core.c").exists()
    assert (source / "drivers/gpu/Kconfig").exists()
    assert (source / "include/sound/core.h").exists()


def test_a_patched_kernel_compiles_one_file_and_leaves_the_stock_kernel(bench: Bench) -> None:
    store = bench.store()
    stock = store.resolve("stock")
    before = file_sha256(stock.image)
    changed = store.resolve("changed")
    assert changed.patches == ("change.patch",)
    assert (changed.image.parent / "patches" / "0001-change.patch").read_text() == CHANGE
    log = bench.log(store, changed.key)
    assert "  CC      mm/one.o" in log
    assert "mm/two.o" not in log
    assert file_sha256(changed.image) != before
    assert file_sha256(bench.store().resolve("stock").image) == before


def test_going_back_makes_the_same_image_again(bench: Bench) -> None:
    store = bench.store()
    stock = store.resolve("stock")
    before = file_sha256(stock.image)
    store.resolve("changed")
    store.cache.remove("kernel", stock.key)
    assert file_sha256(bench.store().resolve("stock").image) == before
    assert "mm/two.o" not in bench.log(store, stock.key)


def test_a_patch_that_two_kernels_share_is_compiled_once(bench: Bench) -> None:
    header = bench.folder / "header.patch"
    header.write_text("--- a/include/x.h\n+++ b/include/x.h\n@@ -1 +1 @@\n-#define ONE 1\n+#define ONE 10\n")
    store = bench.store()
    log = bench.log(store, store.resolve("stock", patches=[header]).key)
    assert "mm/two.o" in log
    log = bench.log(store, store.resolve("changed", patches=[header]).key)
    assert "mm/one.o" in log
    assert "mm/two.o" not in log


def test_patches_of_the_caller_come_after_those_of_the_name(bench: Bench) -> None:
    more = bench.folder / "more.patch"
    more.write_text(
        CHANGE.replace("+\treturn ONE + 1;", "+\treturn ONE + 2;").replace("-\treturn ONE;", "-\treturn ONE + 1;")
    )
    kernel = bench.store().resolve("changed", patches=[more])
    assert kernel.patches == ("change.patch", "more.patch")
    assert kernel.source is not None
    assert "ONE + 2" in (kernel.source / "mm/one.c").read_text()


def test_a_patch_that_fails_changes_nothing(bench: Bench) -> None:
    store = bench.store()
    stock = store.resolve("stock")
    bad = bench.folder / "bad.patch"
    bad.write_text(CHANGE.replace("return ONE;", "return OTHER;"))
    with pytest.raises(UsageError, match=r"bad.patch does not apply: hunk 1 for mm/one.c"):
        store.resolve("stock", patches=[bad])
    assert stock.source is not None
    assert "return ONE;" in (stock.source / "mm/one.c").read_text()
    with pytest.raises(UsageError, match=r"the patch .*none.patch does not exist"):
        store.resolve("stock", patches=[bench.folder / "none.patch"])


def test_a_compile_error_names_the_line_and_the_log(bench: Bench) -> None:
    bad = bench.folder / "bad.patch"
    bad.write_text(CHANGE.replace("ONE + 1", "NOTHING_OF_THE_KIND"))
    store = bench.store()
    with pytest.raises(
        InfraError, match=r"building kernel stock failed: mm/one.c:4:\d+: error: .*\(log: (.*)\)"
    ) as caught:
        store.resolve("stock", patches=[bad])
    assert Path(str(caught.value).rsplit("log: ")[1].rstrip(")")).read_text().startswith("$ make")
    assert "\n" not in str(caught.value)
    assert store.resolve("stock").release == "9.9.1", "a failed build does not spoil the next"


def test_a_configuration_that_does_not_hold_is_refused(bench: Bench) -> None:
    (bench.catalog.parent / "fragments" / "base.config").write_text("CONFIG_A=y\nCONFIG_MISSING=y\n")
    with pytest.raises(InfraError, match=r"CONFIG_MISSING=y \(base.config:2; this kernel has no such option\)"):
        bench.store().resolve()


def test_every_input_is_part_of_the_key(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = bench.store().resolve()
    fragment = bench.catalog.parent / "fragments" / "base.config"
    fragment.write_text("CONFIG_A=y\nCONFIG_B=y\n")
    configured = bench.store().resolve()
    assert configured.key != stock.key
    assert configured.build_dir == stock.build_dir, "make knows what a configuration changes"
    (fragment.parent / "more.config").write_text("CONFIG_B=n\n")
    bench.catalog.write_text(
        bench.catalog.read_text().replace("config: [base.config]", "config: [base.config, more.config]")
    )
    assert bench.store().resolve().build_dir != stock.build_dir, "kernels of other fragments do not disturb each other"
    patch = bench.catalog.parent / "patches" / "9.9" / "change.patch"
    changed = bench.store().resolve("changed")
    patch.write_text(CHANGE.replace("ONE + 1", "ONE + 3"))
    assert bench.store().resolve("changed").key != changed.key


def test_a_tree_changed_from_outside_is_unpacked_again(bench: Bench) -> None:
    store = bench.store()
    source = store.resolve("stock").source
    assert source is not None
    (source / "mm" / "two.c").write_text(TWO.replace("2", "3"))
    changed = bench.store().resolve("changed")
    assert "was changed from outside (mm/two.c)" in bench.notices[-1]
    assert (source / "mm" / "two.c").read_text() == TWO
    assert "mm/two.o" in bench.log(store, changed.key), "objects of the foreign file must not survive"


def test_a_killed_build_is_taken_up_again(bench: Bench) -> None:
    store = bench.store()
    store.resolve("stock")
    work = next((store.cache.root / "work").iterdir())
    shutil.rmtree(work / "linux" / "mm")  # as a kill in the middle of unpacking leaves it, without the rename
    (work / "linux").rename(work / "unpacking")
    assert bench.store().resolve("changed").release == "9.9.1"


def test_fetch_moves_to_the_newer_version_and_nothing_else_does(bench: Bench) -> None:
    first = bench.store().resolve()
    make_archive(bench.folder, "9.9.2-1")
    assert bench.store().resolve() == first
    assert bench.store().fetch("stock").version == "9.9.2-1"
    second = bench.store().resolve()
    assert second.origin.endswith("9.9.2-1 (sid)")
    assert second.key != first.key


def test_a_lost_package_is_fetched_again_or_the_newer_version_is_named(bench: Bench) -> None:
    store = bench.store()
    store.resolve()
    for folder in ("package", "work", "kernel"):
        shutil.rmtree(store.cache.root / folder)
    assert bench.store().resolve().release == "9.9.1"
    for folder in ("package", "work", "kernel"):
        shutil.rmtree(store.cache.root / folder)
    make_archive(bench.folder, "9.9.2-1")
    with pytest.raises(
        InfraError, match=r"9.9.1-1 is no longer in the cache and suite sid has moved to 9.9.2-1: run 'gm"
    ):
        bench.store().resolve()


def test_a_package_that_is_offered_nowhere(bench: Bench) -> None:
    bench.catalog.write_text(bench.catalog.read_text().replace('"9.9"', "8.8").replace("[change.patch]", "[]"))
    with pytest.raises(InfraError) as caught:
        bench.store().resolve()
    assert (
        "no configured suite offers linux-source-8.8: this machine's Debian archive has no suite trixie-backports; "
        in (str(caught.value))
    )
    assert "suite sid does not offer linux-source-8.8 (it has linux-source-9.9)" in str(caught.value)


def test_an_exact_version_is_insisted_on(bench: Bench) -> None:
    text = bench.catalog.read_text()
    bench.catalog.write_text(text.replace('series: "9.9"', 'series: "9.9"\n    version: 9.9.0-1'))
    with pytest.raises(InfraError, match=r"suite sid has version 9.9.1-1, not 9.9.0-1"):
        bench.store().resolve()


def test_a_module_for_a_kernel(bench: Bench) -> None:
    module = bench.folder / "module"
    module.mkdir()
    (module / "Makefile").write_text("obj-m := m.o\n")
    (module / "m.c").write_text("#include <x.h>\nint m = ONE;\n")
    store = bench.store()
    kernel = store.resolve("changed")
    store.resolve("stock")  # leaves the tree without the patch
    built = store.build_module(kernel, module, bench.folder / "out")
    assert built == [bench.folder / "out" / "m.ko"]
    assert kernel.source is not None
    assert "ONE + 1" in (kernel.source / "mm/one.c").read_text(), "built against the patched source"
    assert sorted(path.name for path in module.iterdir()) == ["Makefile", "m.c"]
    (module / "m.c").write_text("#error no\n")
    with pytest.raises(
        InfraError, match=r"building the module module for kernel changed failed: .*m.c:1:2: error: #error"
    ):
        store.build_module(kernel, module, bench.folder / "out")
    with pytest.raises(InfraError, match="is not a kernel module: it has neither Makefile nor Kbuild"):
        store.build_module(kernel, bench.folder / "etc", bench.folder / "out")
    image = store.resolve(str(kernel.image))
    with pytest.raises(InfraError, match="a module cannot be built for the image"):
        store.build_module(image, module, bench.folder / "out")


def test_an_image_is_used_as_it_is(bench: Bench) -> None:
    store = bench.store()
    kernel = store.resolve("stock")
    copy = bench.folder / "boot" / "vmlinuz-9.9.1"
    copy.parent.mkdir()
    shutil.copy(kernel.image, copy)
    (copy.parent / "config-9.9.1").write_text("CONFIG_A=y\n")
    image = store.resolve(str(copy))
    assert (image.release, image.source, image.build_dir) == ("9.9.1", None, None)
    copy.write_bytes(b"another kernel")
    assert image.image.read_bytes() == kernel.image.read_bytes(), "a rebuild during a run must not change the kernel"
    assert image.config is not None
    assert image.config_hash == file_sha256(image.config)
    with pytest.raises(UsageError, match="patches are applied to named kernels only"):
        store.resolve(str(kernel.image), patches=[copy])


def test_neither_name_nor_path(bench: Bench) -> None:
    with pytest.raises(
        UsageError, match=r"no kernel stokc \(did you mean stock\?\): it is neither a path nor one of stoc"
    ):
        bench.store().resolve("stokc")


def _git(tree: Path, *words: str) -> None:
    identity = {"GIT_AUTHOR_NAME": "x", "GIT_AUTHOR_EMAIL": "x@example.org"}
    identity |= {"GIT_COMMITTER_NAME": "x", "GIT_COMMITTER_EMAIL": "x@example.org"}
    subprocess.run(
        ["git", "-C", tree, *words], check=True, env={**os.environ, **identity}, capture_output=True, timeout=60
    )


def _state(tree: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in tree.rglob("*") if p.is_file()}


@pytest.mark.parametrize("git", [True, False])
def test_a_tree_of_the_user_is_built_and_never_written(bench: Bench, git: bool) -> None:
    tree = make_tree(bench.folder / "linux")
    if git:
        _git(tree, "init", "-q")
        _git(tree, "add", ".")
        _git(tree, "commit", "-q", "-m", "x")
        _git(tree, "checkout", "-q", "-b", "topic")
    before = _state(tree)
    store = bench.store()
    first = store.resolve(str(tree))
    assert first.origin.startswith(f"source tree {tree} 9.9.1 (")
    assert first.source == tree
    assert (len(first.commit), first.branch) == ((40, "topic") if git else (0, ""))
    assert store.resolve(str(tree)) == first
    assert _state(tree) == before
    (tree / "mm" / "two.c").write_text(TWO.replace("2", "7"))
    second = bench.store().resolve(str(tree))
    assert second.key != first.key
    assert ("with local changes" in second.origin) is git
    log = bench.log(store, second.key)
    assert "mm/two.o" in log
    assert "mm/one.o" not in log
    (tree / "mm" / "new.c").write_text("int x;\n")
    assert bench.store().resolve(str(tree)).key != second.key, "untracked files count"


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda tree: (tree / ".config").write_text(""), "was built in place, .*run 'make mrproper' there"),
        (lambda tree: (tree / "include" / "config").mkdir(), "was built in place"),
        (lambda tree: (tree / "Kbuild").unlink(), "is not a kernel source tree: it has no Kbuild"),
        (lambda tree: (tree / "Makefile").write_text("all:\n"), "its Makefile names no VERSION"),
        (
            lambda tree: (tree / ".git").write_text("gitdir: /nowhere\n"),
            "git cannot read .*: fatal: not a git repository",
        ),
    ],
)
def test_a_tree_that_cannot_be_built(bench: Bench, harm: object, sentence: str) -> None:
    tree = make_tree(bench.folder / "linux")
    assert callable(harm)
    harm(tree)
    with pytest.raises(UsageError, match=sentence):
        bench.store().resolve(str(tree))


def test_a_tree_whose_path_make_refuses(bench: Bench) -> None:
    with pytest.raises(UsageError, match="refuses paths with spaces or colons"):
        bench.store().resolve(str(make_tree(bench.folder / "my linux")))


def test_missing_tools_are_named_with_their_packages(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH with everything but two programs."""
    tools = bench.folder / "bin"
    tools.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for program in Path(folder).iterdir():
            if program.name not in ("flex", "bc") and not (tools / program.name).exists():
                (tools / program.name).symlink_to(program)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(
        InfraError, match=r"building a kernel needs flex, bc, not installed here: apt-get install bc flex"
    ):
        bench.store().resolve()


def test_a_make_that_outlives_its_parent_keeps_the_lock(bench: Bench) -> None:
    """Otherwise the next run would start a second make in the same folder."""
    tree = make_tree(bench.folder / "linux")
    makefile = tree / "Makefile"
    makefile.write_text(makefile.read_text().replace('"  LD      vmlinux"\n', '"  LD      vmlinux"; sleep 2\n'))
    script = (
        "import pathlib, sys; from harness.kernel.catalog import Catalog\n"
        "from harness.kernel.store import KernelStore\n"
        "KernelStore(catalog=Catalog.load(pathlib.Path(sys.argv[2]))).resolve(sys.argv[1])"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(bench.folder / "home")}
    builder = subprocess.Popen([sys.executable, "-c", script, str(tree), str(bench.catalog)], env=env)
    root = bench.folder / "home" / "gmem-harness"
    deadline = time.monotonic() + 30
    while not any("LD  " in log.read_text() for log in root.glob("logs/*.log")):
        assert time.monotonic() < deadline, "the build did not begin"
        time.sleep(0.05)
    builder.kill()
    builder.wait(10)
    path = next(root.glob("locks/work-tree-*.lock"))
    with pytest.raises(LockTimeout), FileLock(path, what="next", timeout=0.2, waiting=lambda _: None):
        pytest.fail("a second make could have started")
    with FileLock(path, what="next", timeout=20, waiting=lambda _: None):
        pass
