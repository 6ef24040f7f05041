# SPDX-License-Identifier: GPL-2.0-only
"""From what a user calls a kernel (name, source tree, image) to a kernel that boots, built once and kept.

store = KernelStore()
store.resolve("7.3").release                      # "7.3.4"
store.resolve("7.3", patches=[Path("x.patch")])   # the same with a patch: seconds, if the patch touches one file
store.resolve("~/linux")                          # a tree of yours, built beside it
store.resolve("/boot/vmlinuz-7.3")                # an image, as it is
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.cache import ContentCache, content_key, file_sha256
from harness.errors import InfraError, UsageError
from harness.kernel.apt import PrivateApt
from harness.kernel.building import Plan, build_kernel, build_module, kernel_of, read_meta
from harness.kernel.catalog import HOST_CONFIGS, Catalog, Recipe
from harness.kernel.config import Wish, fragment_text, read_fragments
from harness.kernel.image import read_image
from harness.kernel.packages import Packages, Pin
from harness.kernel.progress import Progress, silent
from harness.kernel.record import Kernel
from harness.kernel.sites import PackageSite, Site, TreeSite
from harness.kernel.toolchain import Compiler, compiler
from harness.kernel.usertree import read_tree

# Part of every key: raised when the way of building changes the result for the same inputs.
RECIPE_VERSION = "1"


class KernelStore:
    """All kernels that this machine has or can make.

    ``progress`` follows fetches and builds, see :class:`harness.kernel.progress.Progress`.
    """

    def __init__(
        self,
        cache: ContentCache | None = None,
        *,
        catalog: Catalog | None = None,
        apt: PrivateApt | None = None,
        progress: Progress = silent,
    ) -> None:
        self.cache = ContentCache() if cache is None else cache
        self.catalog = Catalog.load() if catalog is None else catalog
        self.progress = progress
        self.packages = Packages(self.cache, apt or PrivateApt(self.cache.root / "apt"), progress)

    @functools.cached_property
    def compiler(self) -> Compiler:
        """The compiler of this machine."""
        return compiler()

    def can_build(self) -> bool:
        """Whether this machine has what a build needs; without it, built kernels cannot be told apart by compiler."""
        try:
            return bool(self.compiler.identity)
        except InfraError:
            return False

    def resolve(self, spec: str | None = None, *, patches: Sequence[Path] = ()) -> Kernel:
        """The kernel that ``spec`` means: a name of the catalog, a source tree, or a bzImage; None: the default.

        Fetched and built if need be.  ``patches`` come after those of the name.  Raises :class:`UsageError` for a
        spec, patch or image that cannot be, :class:`InfraError` for what this machine lacks or a build that fails.
        """
        spec = self.catalog.default if spec is None else spec
        if spec in self.catalog.names():
            return self._named(self.catalog.recipe(spec), tuple(patches))
        path = Path(spec).expanduser()
        if not path.exists():
            near = difflib.get_close_matches(spec, self.catalog.names(), n=1, cutoff=0.4)
            raise UsageError(
                f"there is no kernel {spec}{f' (did you mean {near[0]}?)' if near else ''}: it is neither a path "
                f"nor one of {', '.join(self.catalog.names())}"
            )
        if patches:
            raise UsageError(f"patches are applied to named kernels only, not to {spec}")
        return self._tree(spec, path) if path.is_dir() else self._image(spec, path)

    def fetch(self, name: str) -> Pin:
        """Fetches the newest version that the suites of a named kernel offer; it is used from now on."""
        return self.packages.fetch(self.catalog.recipe(name))

    def built(self, name: str) -> Kernel | None:
        """The named kernel if it can be had without fetching or building."""
        recipe = self.catalog.recipe(name)
        pin = self.packages.pinned(recipe)
        if pin is None:
            return None
        key = self._package_plan(recipe, pin, ()).key
        entry = self.cache.get("kernel", key, what=f"kernel {name}", quiet=True)
        return None if entry is None else kernel_of(name, key, entry)

    def build_module(self, kernel: Kernel, source: Path, out: Path) -> list[Path]:
        """Builds the external module in the folder ``source`` for ``kernel``; copies its ``.ko`` files into ``out``.

        ``source`` is not written to.  Raises :class:`InfraError` if the kernel is an image (no build to build against)
        or the module does not compile.
        """
        if kernel.build_dir is None:
            raise InfraError(
                f"a module cannot be built for the image {kernel.name}, only for a kernel built here: "
                f"use a kernel name or a source tree for the guest"
            )
        site = self.site_of(kernel)
        wishes = read_fragments([kernel.image.parent / "fragment"])
        entry = build_module(kernel, site, wishes, self.compiler, source, self.cache)
        out.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copyfile(built, out / built.name)) for built in sorted(entry.glob("*.ko"))]

    def site_of(self, kernel: Kernel) -> Site:
        """The source tree that a kernel built here came from, and its lock."""
        meta = read_meta(kernel.image.parent)
        if meta.pin is None:
            return TreeSite(self.cache, read_tree(Path(meta.source)))
        return PackageSite(self.packages, meta.pin)

    # -- the three sources of a kernel

    def _named(self, recipe: Recipe, patches: tuple[Path, ...]) -> Kernel:
        pin = self.packages.ensure(recipe)
        return self._built(self._package_plan(recipe, pin, patches), PackageSite(self.packages, pin))

    def _package_plan(self, recipe: Recipe, pin: Pin, patches: tuple[Path, ...]) -> Plan:
        every = recipe.patches + patches
        for patch in every:
            if not patch.is_file():
                raise UsageError(f"the patch {patch} does not exist")
        wishes = read_fragments(recipe.config)
        key = self._key(
            wishes, pin.package, pin.version, pin.sha256, *(part for patch in every for part in (patch.name, patch))
        )
        return Plan(recipe.name, key, pin.origin, pin, wishes, every, self.compiler)

    def _tree(self, spec: str, path: Path) -> Kernel:
        tree = read_tree(path)
        wishes = read_fragments(self.catalog.recipe(self.catalog.default).config)
        key = self._key(wishes, "tree-2", str(tree.path), tree.digest)  # 2: without old files from ccache
        origin = f"source tree {tree.path} {tree.version} ({tree.state})"
        plan = Plan(spec, key, origin, None, wishes, (), self.compiler)
        built = self._built(plan, TreeSite(self.cache, tree))
        return dataclasses.replace(built, commit=tree.commit, branch=tree.branch)

    def _image(self, spec: str, path: Path) -> Kernel:
        """Copied into the cache, so that a rebuild during a run does not mix two kernels."""
        header = read_image(path)
        key = file_sha256(path)[:32]
        beside = [path.with_name(path.name.replace("vmlinuz", "config")), path.parent / "../../../.config"]
        config = next((item for item in beside if item != path and item.is_file()), None)

        def copy(out: Path) -> None:
            shutil.copyfile(path, out / "bzImage")
            if config is not None:
                shutil.copyfile(config, out / "config")

        entry = self.cache.entry("image", key, copy, what=f"kernel image {path}")
        kept = entry / "config" if (entry / "config").exists() else None
        return Kernel(
            name=spec,
            image=entry / "bzImage",
            release=header.release,
            version=header.version,
            config_hash="" if kept is None else file_sha256(kept),
            config=kept,
            patches=(),
            origin=f"image {path.absolute()}",
            build_dir=None,
            source=None,
            key=key,
        )

    def _built(self, plan: Plan, site: Site) -> Kernel:
        log = self.cache.root / "logs" / f"kernel-{plan.key}.log"

        def build(out: Path) -> None:
            build_kernel(plan, site, log, out, self.progress)

        entry = self.cache.entry("kernel", plan.key, build, what=f"kernel {plan.name}")
        return kernel_of(plan.name, plan.key, entry)

    def _key(self, wishes: Mapping[str, Wish], *parts: str | Path) -> str:
        return content_key(RECIPE_VERSION, self.compiler.identity, fragment_text(wishes), *parts)


__all__ = ["HOST_CONFIGS", "KernelStore"]
