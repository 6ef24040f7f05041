# SPDX-License-Identifier: GPL-2.0-only
"""Which version of a distribution's kernel source is used, and the package itself in the cache.

The version is pinned by the first fetch: later runs need no network and judge the same kernel, until
``gmem kernel fetch`` asks for a newer one.  The .deb is kept beside the unpacked tree (170 MB for 600 MB): mirrors
drop old versions, so a damaged tree could otherwise not be made again as the same version.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.cache import ContentCache, require_space
from harness.errors import InfraError
from harness.kernel.apt import NotOffered, Offer, PrivateApt
from harness.kernel.catalog import Recipe
from harness.kernel.progress import Progress, silent


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version of a package that this machine has fetched."""

    package: str
    version: str
    suite: str
    sha256: str

    @property
    def key(self) -> str:
        """Key of the .deb in the cache."""
        return self.sha256[:32]

    @property
    def origin(self) -> str:
        """For people."""
        return f"Debian package {self.package} {self.version} ({self.suite})"


@dataclass
class Packages:
    """The fetched packages of one cache."""

    cache: ContentCache
    apt: PrivateApt
    progress: Progress = silent

    def pinned(self, recipe: Recipe) -> Pin | None:
        """The pinned version, if there is one and it is the one that the recipe asks for."""
        try:
            pin = msgspec.json.decode(self._pin_path(recipe).read_bytes(), type=Pin)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return pin if recipe.version in ("", pin.version) else None

    def ensure(self, recipe: Recipe) -> Pin:
        """The pinned version, fetched first if there is none."""
        return self.pinned(recipe) or self.fetch(recipe)

    def deb(self, pin: Pin) -> Path:
        """The .deb of a pin, verified; if the cache has lost it, the same version is fetched again."""
        return self._kept(pin) or self._fetch_again(pin)

    def fetch(self, recipe: Recipe) -> Pin:
        """Asks the suites in order and fetches what the first of them offers; that becomes the pinned version.

        Raises :class:`InfraError`: offered nowhere (with what each suite said), no network, no space.
        """
        with self.cache.lock(f"fetch-{recipe.package}", what=f"fetching {recipe.package}"):
            offer = self._offer(recipe)
            pin = self.pinned(recipe)
            if pin is None or pin.version != offer.version or self._kept(pin) is None:
                pin = self._download(offer)
                self._write_pin(recipe, pin)
            return pin

    def _kept(self, pin: Pin) -> Path | None:
        place = self.cache.get("package", pin.key, what=f"package {pin.package} {pin.version}")
        return None if place is None else next(place.glob("*.deb"), None)

    def _fetch_again(self, pin: Pin) -> Path:
        offer = self.apt.offer(pin.package, pin.suite)
        if offer.version != pin.version:
            raise InfraError(
                f"the package {pin.package} {pin.version} is no longer in the cache and suite {pin.suite} has moved to "
                f"{offer.version}: run 'gmem kernel fetch' to use that version"
            )
        self._download(offer)
        kept = self._kept(pin)
        if kept is None:
            raise InfraError(f"suite {pin.suite} now has another {pin.package} {pin.version}: run 'gmem kernel fetch'")
        return kept

    def _offer(self, recipe: Recipe) -> Offer:
        refusals = []
        for suite in self.apt.suites(recipe.suites):
            try:
                offer = self.apt.offer(recipe.package, suite)
            except NotOffered as error:
                refusals.append(str(error))
                continue
            if recipe.version in ("", offer.version):
                return offer
            refusals.append(f"suite {suite} has version {offer.version}, not {recipe.version}")
        raise InfraError(
            f"kernel {recipe.name}: no configured suite offers {recipe.package}: {'; '.join(refusals)}; "
            f"correct suites or series in kernels.yaml, or give --kernel a source tree or a bzImage"
        )

    def _download(self, offer: Offer) -> Pin:
        require_space(self.cache.root, offer.size, f"the package {offer.filename}")
        scratch = self.cache.root / "apt" / f"download-{offer.package}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            deb, sha256 = self.apt.download(offer, scratch, self.progress)
            pin = Pin(offer.package, offer.version, offer.suite, sha256)
            self.cache.entry("package", pin.key, _moved(deb), what=f"package {offer.package} {offer.version}")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return pin

    def _write_pin(self, recipe: Recipe, pin: Pin) -> None:
        path = self._pin_path(recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(pin), indent=1) + b"\n")
        fresh.rename(path)

    def _pin_path(self, recipe: Recipe) -> Path:
        exact = f"_{recipe.version.replace('/', '_')}" if recipe.version else ""
        return self.cache.root / "pins" / f"{recipe.package}{exact}.json"


def _moved(deb: Path) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        shutil.move(deb, folder / deb.name)

    return build
