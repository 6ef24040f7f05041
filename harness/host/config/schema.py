# SPDX-License-Identifier: GPL-2.0-only
"""The JSON schema of a host's file, for editors."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from harness.host.config.host import HostConfig


def json_schema() -> dict[str, Any]:
    """Draft 2020-12; what YAML reads as a number is allowed where a value is text that may look like one."""
    (root,), parts = msgspec.json.schema_components((HostConfig,), ref_template="#/$defs/{name}")
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A host under test of gmem-harness",
        **root,
        "$defs": parts,
    }
    whole: dict[str, Any] = _widened(json.loads(json.dumps(schema)))
    return whole


def _widened(node: Any) -> Any:
    """``also`` (of the types in ``settings.py``) names the types that YAML may see in a text: added to ``string``."""
    if isinstance(node, list):
        return [_widened(item) for item in node]
    if not isinstance(node, dict):
        return node
    also = node.pop("also", None)
    found = {key: _widened(value) for key, value in node.items()}
    return {**found, "type": ["string", *also]} if also else found
