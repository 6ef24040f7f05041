# SPDX-License-Identifier: GPL-2.0-only
"""The web server of the master: on the loopback for everybody there, elsewhere for those who log in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from buildbot.plugins import util

from harness.errors import UsageError
from harness.nightly.matrix import Login, Matrix
from harness.nightly.place import Settings

OURSELVES: Final = "gmem-nightly"
"""The user that ``gmem nightly`` itself logs in as."""
SHORTEST: Final = 12
"""Characters of a password."""


def pages(matrix: Matrix, settings: Settings) -> dict[str, Any]:
    """Buildbot's ``www``."""
    found: dict[str, Any] = {
        "port": f"tcp:{settings.web_port}:interface={matrix.web.interface.replace(':', chr(92) + ':')}",
        "plugins": {"grid_view": {}},
        "ui_default_config": {"Grid.revisionLimit": 14},
        "change_hook_dialects": {},
    }
    if matrix.web.login is not None:
        people = users(matrix.web.login)
        everybody = {**people, OURSELVES: settings.password}
        found["auth"] = util.UserPasswordAuth(everybody)
        # Not only what changes something: without a login nothing is shown either.
        found["authz"] = util.Authz(
            allowRules=[util.AnyEndpointMatcher(role="user")],
            roleMatchers=[util.RolesFromUsername(roles=["user"], usernames=sorted(everybody))],
        )
    return found


def users(login: Login) -> dict[str, str]:
    """Names and passwords; raises :class:`UsageError` for a file that others may read or that names nobody."""
    path = Path(login.users)
    try:
        mode, lines = path.stat().st_mode, path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"web.login.users: {path} cannot be read: {getattr(error, 'strerror', 'no text')}") from error
    if mode & 0o077:
        raise UsageError(f"web.login.users: {path} holds passwords and others may read it: chmod 600 {path}")
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        if not (colon and name and len(password) >= SHORTEST) or name == OURSELVES:
            raise UsageError(
                f"web.login.users: {path}, line {number} is not NAME:PASSWORD with {SHORTEST} characters or more"
            )
        found[name] = password
    if not found:
        raise UsageError(f"web.login.users: {path} names nobody")
    return found
