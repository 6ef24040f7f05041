# SPDX-License-Identifier: GPL-2.0-only
"""The compiler behind ccache gives no old object again when only a file has changed that the source puts in whole."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.kernel.toolchain import Compiler, build_environment

pytestmark = pytest.mark.skipif(shutil.which("ccache") is None, reason="ccache is not installed: nothing is cached")


def build(folder: Path, compiler: list[str], source: str) -> bytes:
    env = {**build_environment(), "CCACHE_DIR": str(folder / "ccache")}
    words = [*compiler, "-Wp,-MMD,x.d", "-c", "-o", "x.o", source]
    subprocess.run(words, cwd=folder, env=env, check=True, timeout=60)
    return (folder / "x.o").read_bytes()


@pytest.mark.parametrize("source", ["piggy.S", "configs.c"])
def test_a_file_that_is_put_in_whole_is_never_an_old_one(tmp_path: Path, source: str) -> None:
    (tmp_path / "piggy.S").write_text('\t.data\n\t.incbin "blob"\n')
    (tmp_path / "configs.c").write_text('asm("\\t.data\\n\\t.incbin \\"blob\\"\\n");\n')
    compiler = Compiler("gcc").behind_ccache(tmp_path / "bin")
    assert compiler.command == str(tmp_path / "bin" / "ccache-gcc")
    for content in (b"the first kernel", b"another kernel!!"):
        (tmp_path / "blob").write_bytes(content)
        assert content in build(tmp_path, [compiler.command], source)


def test_everything_else_comes_from_the_cache(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int a(void) { return 1; }\n")
    compiler = Compiler("gcc").behind_ccache(tmp_path / "bin")
    first = build(tmp_path, [compiler.command], "a.c")
    assert build(tmp_path, [compiler.command], "a.c") == first
    told = subprocess.run(
        ["ccache", "--print-stats"], env={**os.environ, "CCACHE_DIR": str(tmp_path / "ccache")}, capture_output=True,
        text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert "direct_cache_hit\t1" in told, told
