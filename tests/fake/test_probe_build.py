# SPDX-License-Identifier: GPL-2.0-only
"""Building the native programs: what a machine lacks is said in a sentence, and nothing half-built is left."""

from __future__ import annotations

import stat
import struct
import subprocess
from pathlib import Path

import pytest

from harness.native.build import PROGRAMS, BuildError, build_program

PT_INTERP = 3


def segment_types(program: Path) -> list[int]:
    """The types of a 64-bit ELF file's program headers."""
    image = program.read_bytes()
    (table,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    return [struct.unpack_from("<I", image, table + index * size)[0] for index in range(count)]


def compiler_saying(folder: Path, text: str) -> str:
    """A compiler that writes something to its output, complains, and fails."""
    script = folder / "cc"
    script.write_text(
        "#!/bin/sh\n"
        'while [ "$1" != -o ]; do shift; done\n'
        'echo partial > "$2"\n'
        f"cat >&2 <<'END'\n{text}\nEND\nexit 1\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def test_the_probe_is_static_and_runs(tmp_path: Path) -> None:
    program = build_program("probe", tmp_path / "new" / "folder")
    assert program == tmp_path / "new" / "folder" / "gmem-probe"
    assert [path.name for path in program.parent.iterdir()] == ["gmem-probe"]
    assert PT_INTERP not in segment_types(program), "a static program asks for no loader"
    assert subprocess.run([program, "--help"], capture_output=True, timeout=30).returncode == 2


def test_every_program_has_sources() -> None:
    here = Path(build_program.__code__.co_filename).parent
    for name, program in PROGRAMS.items():
        assert [source for folder in program.folders for source in (here / folder).glob("*.c")], name


@pytest.mark.parametrize(
    ("complaint", "sentence"),
    [
        ("/usr/bin/ld: cannot find -lc: No such file or directory", "the static C library is missing; install it"),
        ("x.c: In function 'f':\nx.c:3:1: error: expected ';'", "exited with 1: x.c:3:1: error: expected ';'"),
        ("killed", "exited with 1: killed"),
    ],
)
def test_a_failed_compilation_is_a_sentence(tmp_path: Path, complaint: str, sentence: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(BuildError) as caught:
        build_program("probe", out, compiler=compiler_saying(tmp_path, complaint))
    assert str(caught.value).startswith("cannot build gmem-probe: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []


def test_a_missing_compiler_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="there is no no-such-gcc here; install it"):
        build_program("probe", tmp_path, compiler="no-such-gcc")


def test_an_older_build_survives_a_failed_one(tmp_path: Path) -> None:
    (tmp_path / "gmem-probe").write_text("older")
    with pytest.raises(BuildError):
        build_program("probe", tmp_path, compiler=compiler_saying(tmp_path, "error: no"))
    assert (tmp_path / "gmem-probe").read_text() == "older"
