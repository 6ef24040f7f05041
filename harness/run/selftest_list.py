# SPDX-License-Identifier: GPL-2.0-only
"""``host-configs/selftests.yaml``: which of KVM's selftests are run, and which failures a design means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from harness.errors import UsageError
from harness.kernel.catalog import HOST_CONFIGS
from harness.model.designs import DESIGNS

SELFTESTS = HOST_CONFIGS / "selftests.yaml"


class ExpectedFailure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``fails``; the file says what its fields mean."""

    designs: tuple[str, ...]
    test: str
    because: str
    shows: str
    result: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tests: dict[str, str]
    fails: tuple[ExpectedFailure, ...] = ()


@dataclass(frozen=True)
class SelftestList:
    """The tests in the order of the file, each with what it checks, and the expected failures."""

    tests: dict[str, str]
    fails: tuple[ExpectedFailure, ...]

    def expected(self, design: str, test: str, result: str = "") -> ExpectedFailure | None:
        """The failure that ``design`` means for a test, or for one of its results; None when it must pass.

        A design with the order of its folios (``thp-discard:4``) is the design.
        """
        base = design.partition(":")[0]
        return next(
            (fail for fail in self.fails if base in fail.designs and (fail.test, fail.result) == (test, result)), None
        )


def load_selftests(path: Path = SELFTESTS) -> SelftestList:
    """Read the file; raises :class:`UsageError` with the place and the reason."""
    try:
        content = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), _File)
    except OSError as error:
        raise UsageError(f"the list of selftests {path} cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise UsageError(f"{path}{line}: {error.problem or 'not YAML'}") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}") from error
    for fail in content.fails:
        unknown = [name for name in fail.designs if name not in DESIGNS]
        if unknown:
            raise UsageError(f"{path}: the failure of {fail.test} names design {unknown[0]}, which is not modelled")
        if fail.test not in content.tests:
            raise UsageError(f"{path}: a failure of {fail.test} is expected, which is none of the tests")
        if not (fail.because and fail.shows):
            raise UsageError(f"{path}: the failure of {fail.test} needs 'because' and 'shows', neither of them empty")
    return SelftestList(content.tests, content.fails)
