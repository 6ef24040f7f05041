# SPDX-License-Identifier: GPL-2.0-only
"""``gmem host``: names, the check of a file, the schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.host.config.load import names


def test_names_and_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(names())
    assert any(line.startswith("snp-example") and "snp, plain" in line for line in lines)


def test_a_file_that_is_right_says_what_it_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "check", "tdx-example"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "set          /sys/kernel/mm/transparent_hugepage/enabled = never" in lines
    assert "required     kvm_intel.tdx = Y" in lines
    assert "before each  /proc/sys/vm/drop_caches = 3" in lines
    assert lines[-1] == "tdx-example: the file is right"


def test_a_file_that_is_wrong_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "h.yaml"
    path.write_text("schema: 1\nname: h\ntransport: ssh\nssh: {host: a, port: x}\n")
    assert main(["host", "check", str(path)]) == 4
    assert capsys.readouterr().err == f"gmem: {path}: ssh.port must be a whole number, not 'x'\n"


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$ref"] == "#/$defs/HostConfig"
