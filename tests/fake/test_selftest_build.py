# SPDX-License-Identifier: GPL-2.0-only
"""Selftests from a source tree, with the real make and compiler on a tree of a few lines."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.cache import ContentCache
from harness.errors import InfraError
from harness.kernel import selftests
from harness.kernel.apt import PrivateApt
from harness.kernel.catalog import Catalog
from harness.kernel.selftests import FOLDER, build_selftest, find_source
from harness.kernel.store import KernelStore
from harness.kernel.usertree import read_tree
from harness.kernel.worktree import tree_digest
from tests.fake.kernel_archive import MAKEFILE, make_archive, make_configs, make_tree

# As strict as the real one where the harness relies on it: it makes folders where OUTPUT says, tries compiler options
# where TMPOUT says, and takes the kernel's headers from KHDR_INCLUDES.
SELFTESTS = """\
all:
$(shell mkdir -p $(TMPOUT) $(OUTPUT)/lib $(OUTPUT)/$(ARCH))
CFLAGS = -O2 -MD -Ilib $(KHDR_INCLUDES)
-include $(wildcard $(OUTPUT)/*.d $(OUTPUT)/*/*.d)
$(OUTPUT)/lib/assert.o: lib/assert.c
\t@echo "  CC      lib/assert.o"
\t$(CC) $(CFLAGS) -c $< -o $@
$(OUTPUT)/%: %.c $(OUTPUT)/lib/assert.o
\t$(CC) $(CFLAGS) $< $(OUTPUT)/lib/assert.o $(LDLIBS) -o $@
"""
HEADERS = """
headers:
\t@mkdir -p $(O)/usr/include && cmp -s include/x.h $(O)/usr/include/x.h || cp include/x.h $(O)/usr/include/x.h
"""
PROGRAM = "#include <x.h>\nint answer(void);\nint main(void)\n{\n\treturn answer() + ONE;\n}\n"
FILES = {
    "Makefile": SELFTESTS,
    "lib/assert.c": "int answer(void)\n{\n\treturn 40;\n}\n",
    "guest_memfd_test.c": PROGRAM,
    "x86/private_mem_conversions_test.c": PROGRAM,
    "x86/broken_test.c": "int main(void)\n{\n\treturn nothing;\n}\n",
    "x86/headers_test.c": "#include <sys/capability_of_nobody.h>\n#include <uuid/uuid.h>\n",
    "x86/uuid_test.c": "#include <uuid/uuid.h>\nint main(void)\n{\n\treturn 0;\n}\n",
}


class Bench:
    """A user's tree with selftests, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.tree = make_tree(folder / "linux")
        (self.tree / "Makefile").write_text(MAKEFILE + HEADERS)
        for name, text in FILES.items():
            place = self.tree / FOLDER / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        apt = PrivateApt(folder / "cache" / "apt", etc=make_archive(folder), codename="bookworm")
        self.store = KernelStore(
            ContentCache(folder / "cache", notify=lambda line: None),
            catalog=Catalog.load(make_configs(folder / "host-configs")),
            apt=apt,
        )
        self.kernel = self.store.resolve(str(self.tree))

    def build(self, test: str) -> Path | None:
        return build_selftest(self.store, self.kernel, test)

    def compiled(self) -> int:
        """How often the library was compiled, by the logs of all builds."""
        logs = (self.store.cache.root / "selftest").glob("*/build.log")
        return sum(log.read_text().count("CC      lib/assert.o") for log in logs)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_program_that_runs_anywhere(bench: Bench) -> None:
    before = tree_digest(bench.tree)
    program = bench.build("guest_memfd_test")
    assert program is not None
    assert subprocess.run([program], check=False).returncode == 41
    assert b"/ld-linux" not in program.read_bytes()
    assert tree_digest(bench.tree) == before  # nothing is written into a user's tree
    os.utime(program)
    assert bench.build("guest_memfd_test") == program


def test_it_prints_by_lines(bench: Bench) -> None:
    (bench.tree / FOLDER / "guest_memfd_test.c").write_text(
        '#include <stdio.h>\n#include <stdlib.h>\nint main(void)\n{\n\tputs("this far");\n\tabort();\n}\n'
    )
    bench.kernel = bench.store.resolve(str(bench.tree))
    program = bench.build("guest_memfd_test")
    assert program is not None
    assert subprocess.run([program], check=False, capture_output=True).stdout == b"this far\n"


def test_the_library_is_compiled_once(bench: Bench) -> None:
    assert bench.build("guest_memfd_test")
    assert bench.build("x86/private_mem_conversions_test")
    assert bench.compiled() == 1


def test_a_header_that_changed_is_seen(bench: Bench) -> None:
    assert bench.build("guest_memfd_test")
    (bench.tree / "include/x.h").write_text("#define ONE 2\n")
    bench.kernel = bench.store.resolve(str(bench.tree))
    program = bench.build("guest_memfd_test")
    assert program is not None
    assert subprocess.run([program], check=False).returncode == 42
    assert bench.compiled() == 1


def test_a_test_that_the_tree_does_not_have(bench: Bench) -> None:
    assert bench.build("x86/guest_memfd_conversions_test") is None
    assert bench.build("x86/guest_memfd_conversions_test") is None  # from the cache


def test_the_folder_as_it_was_called_before(tmp_path: Path) -> None:
    old = tmp_path / FOLDER / "x86_64" / "a.c"
    old.parent.mkdir(parents=True)
    old.touch()
    assert find_source(tmp_path, "x86/a") == old
    assert find_source(tmp_path, "a") is None


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("x86/broken_test", "error: .*nothing.* undeclared"),
        ("x86/headers_test", "fatal error: sys/capability_of_nobody.h: No such file"),
    ],
)
def test_one_that_does_not_compile_is_one_sentence_with_the_log(bench: Bench, test: str, reason: str) -> None:
    with pytest.raises(
        InfraError, match=rf"the selftest {test} of kernel .*linux cannot be built: .*{reason}"
    ) as caught:
        bench.build(test)
    log = Path(str(caught.value).rpartition("(log: ")[2].rstrip(")"))
    assert "$ make -C" in log.read_text()
    assert "\n" not in str(caught.value)
    assert bench.build("guest_memfd_test")  # the others are built


def test_a_header_of_a_known_package(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(selftests._PACKAGES, "uuid/uuid.h", "uuid-dev")
    (bench.tree / FOLDER / "x86/uuid_test.c").write_text("#include <nobody/has.h>\n")
    monkeypatch.setitem(selftests._PACKAGES, "nobody/has.h", "nobody-dev")
    bench.kernel = bench.store.resolve(str(bench.tree))
    with pytest.raises(InfraError, match="it needs what is not installed here: apt-get install nobody-dev"):
        bench.build("x86/uuid_test")


def test_a_tree_that_changes_while_it_is_built(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = read_tree(bench.tree).digest
    real = selftests._Build._compile

    def compile_and_edit(self: selftests._Build, source: Path, lock: object) -> Path:
        (bench.tree / "mm/one.c").write_text("int one;\n")
        return real(self, source, lock)  # type: ignore[arg-type]

    monkeypatch.setattr(selftests._Build, "_compile", compile_and_edit)
    with pytest.raises(InfraError, match="was changed while it was being built"):
        bench.build("guest_memfd_test")
    assert read_tree(bench.tree).digest != digest


def test_the_patches_of_a_named_kernel_are_in_its_headers(bench: Bench, tmp_path: Path) -> None:
    kernel = bench.store.resolve("changed")
    assert build_selftest(bench.store, kernel, "guest_memfd_test") is None  # the package's tree has no selftests
    assert "ONE + 1" in (kernel.source / "mm/one.c").read_text()  # type: ignore[operator]


def test_an_image_has_no_source(bench: Bench) -> None:
    image = bench.store.resolve(str(bench.kernel.image))
    with pytest.raises(InfraError, match="it is an image without its source"):
        build_selftest(bench.store, image, "guest_memfd_test")
