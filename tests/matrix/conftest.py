# SPDX-License-Identifier: GPL-2.0-only
"""What tests/emulated shares is shared here too."""

from tests.emulated.conftest import gmem_cli  # noqa: F401  (a fixture)
