# SPDX-License-Identifier: GPL-2.0-only
"""Questions to the running master over HTTP, by its REST interface."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from typing import Any, Final

from harness.errors import InfraError
from harness.nightly.matrix import Matrix
from harness.nightly.place import LOOPBACK, Settings
from harness.report.text import one_line

SECONDS: Final = 20.0
"""For one answer."""
_MOST: Final = 50_000_000


class Pages:
    """The web server of a state folder's master."""

    def __init__(self, matrix: Matrix, settings: Settings) -> None:
        interface = matrix.web.interface
        host = LOOPBACK if interface in ("0.0.0.0", "localhost") else interface
        host = "[::1]" if host == "::" else f"[{host}]" if ":" in host else host
        self.url = f"http://{host}:{settings.web_port}/"
        self._login = f"gmem-nightly:{settings.password}" if matrix.web.login is not None else ""
        self._cookies = CookieJar()
        # no proxy: it is this machine
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self._cookies)
        )

    def page(self, path: str) -> str:
        """The text of a page; raises :class:`InfraError` with the reason."""
        if self._login and not len(self._cookies):
            word = base64.b64encode(self._login.encode()).decode()
            self._get("auth/login", {"Authorization": f"Basic {word}"})
        return self._get(path, {})

    def ask(self, path: str) -> dict[str, Any]:
        """An answer of ``api/v2``."""
        text = self.page(f"api/v2/{path}")
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as error:  # seen: an empty answer of a busy master
            raise InfraError(f"the master at {self.url} gave no answer to {path}: {one_line(text, 100)!r}") from error
        return found

    def connected(self) -> set[str]:
        """Names of the workers that are there."""
        return {worker["name"] for worker in self.ask("workers")["workers"] if worker["connected_to"]}

    def newest_buildset(self) -> int:
        """0 when there is none."""
        found = self.ask("buildsets?order=-bsid&limit=1")["buildsets"]
        return int(found[0]["bsid"]) if found else 0

    def asked_since(self, buildset: int) -> set[tuple[str, str]]:
        """Branches and revisions that jobs were asked for after that buildset."""
        found = self.ask(f"buildsets?bsid__gt={buildset}")["buildsets"]
        return {(stamp["branch"], stamp["revision"]) for one in found for stamp in one["sourcestamps"]}

    def waiting(self) -> int:
        """Jobs and bisections that have not ended."""
        return len(self.ask("buildrequests?complete=false")["buildrequests"])

    def _get(self, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                text: str = answer.read(_MOST).decode(errors="replace")
                return text
        except urllib.error.HTTPError as error:
            if path == "auth/login" and error.code in (302, 403):
                raise InfraError(f"the master at {self.url} refuses our login") from error
            raise InfraError(f"the master at {self.url} says {error.code} to {path}") from error
        except (OSError, ValueError) as error:
            raise InfraError(f"the master at {self.url} does not answer: {getattr(error, 'reason', error)}") from error
