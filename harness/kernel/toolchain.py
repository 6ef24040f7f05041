# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel build needs on this machine, and who the compiler is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InfraError
from harness.kernel.commands import run

# Program -> Debian package.
BUILD_TOOLS = {
    "gcc": "gcc",
    "ld": "binutils",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "lz4": "lz4",
}
UNPACK_TOOLS = {"bash": "bash", "dpkg-deb": "dpkg", "tar": "tar", "xz": "xz-utils"}
PATCH_TOOLS = {"patch": "patch"}
# objtool, which every x86-64 build compiles first, reads ELF files with this library.
_LIBELF_HEADERS = (Path("/usr/include/libelf.h"), Path("/usr/include/gelf.h"))

# Variables of the user's environment that would change what make builds.
_FOREIGN = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "GNUMAKEFLAGS", "ARCH", "CROSS_COMPILE", "LLVM", "CC", "LD", "CFLAGS"}
_FOREIGN |= {"KCFLAGS", "KCPPFLAGS", "KAFLAGS", "LOCALVERSION", "V", "W", "O", "M", "C"}

_CCACHE = """\
#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# gcc behind ccache, but for sources that put a whole file into the object (.incbin).  That file is in no list of
# headers, so ccache would give an old one again: a bzImage with the kernel of an earlier build.
for word; do
    case $word in
    *.S) exec gcc "$@" ;;
    *.c) if grep -qi incbin "$word" 2>/dev/null; then exec gcc "$@"; fi ;;
    esac
done
exec ccache gcc "$@"
"""


def require_tools(*tables: dict[str, str], work: str) -> None:
    """Raises :class:`InfraError` naming all missing programs and the command that installs them.

    ``work`` begins the sentence: ``building a kernel``.
    """
    missing = {name: package for table in tables for name, package in table.items() if shutil.which(name) is None}
    if BUILD_TOOLS in tables and not all(path.exists() for path in _LIBELF_HEADERS):
        missing["the headers of libelf"] = "libelf-dev"
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise InfraError(
            f"{work} needs {', '.join(missing)}, not installed here: apt-get install {packages} (or run ci/setup)"
        )


@dataclass(frozen=True)
class Compiler:
    """The compiler of a build."""

    # First lines of "gcc --version" and "ld --version": part of every cache key.
    identity: str
    # Value of CC for make.
    command: str = "gcc"

    def behind_ccache(self, folder: Path) -> Compiler:
        """The same compiler behind ccache, where that is installed; ``folder`` is where the way to it is kept."""
        if not shutil.which("ccache"):
            return self
        script = folder / "ccache-gcc"
        if not script.is_file() or script.read_text() != _CCACHE:
            folder.mkdir(parents=True, exist_ok=True)
            fresh = folder / f".ccache-gcc.{os.getpid()}"
            fresh.write_text(_CCACHE)
            fresh.chmod(0o755)
            fresh.replace(script)
        return Compiler(self.identity, str(script))


def compiler() -> Compiler:
    """The compiler of this machine."""
    require_tools(BUILD_TOOLS, work="building a kernel")
    lines = [run([name, "--version"], timeout=30.0).tail[0] for name in ("gcc", "ld")]
    return Compiler("; ".join(lines))


def build_environment() -> dict[str, str]:
    """The environment for make: the user's without what would change the result.

    ccache goes by the compiler's own list of headers: preprocessing each file first costs 45 % more CPU time on the
    first build (measured on mm/), this 5 %.
    """
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in _FOREIGN and not name.startswith(("KBUILD_", "KCONFIG_", "INSTALL_"))
    }
    return {**env, "LC_ALL": "C", "CCACHE_DEPEND": "1", "CCACHE_NOHASHDIR": "1"}


def jobs(affinity: Sequence[int] | None = None) -> int:
    """How many compilers to run at once: one per CPU that this process may use, and one for the gaps between."""
    return len(os.sched_getaffinity(0) if affinity is None else affinity) + 1
