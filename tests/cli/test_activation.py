"""Whether a version that was activated is served is told by the exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.repository import add_onnx_mlp

from appliance.cli import NOT_KNOWN, NOT_QUITE, main
from appliance.models.active import Active, read_active, write_active

Serve = Callable[[dict[str, list[Any]]], str]
VERSIONS = [Active(version="1"), Active(version="2", previous="1")]


@pytest.mark.parametrize(
    ("answer", "code", "active"),
    [(None, NOT_KNOWN, VERSIONS[1]), ({}, NOT_QUITE, VERSIONS[0])],
    ids=["it goes away", "it refuses"],
)
def test_an_appliance_that_does_not_load_it(
    serve_admin: Serve, tmp_path: Path, answer: Any, code: int, active: Active
) -> None:
    models = tmp_path / "models"
    for version in ("1", "2"):
        add_onnx_mlp(models, "policy", version=version)
    write_active(models / "policy", VERSIONS[0])
    script: dict[str, list[Any]] = {"GET /v1/models": [{"directory": str(models), "models": []}]}
    if answer is None:
        script["POST /v1/models/load"] = [None]
    sock = serve_admin(script)
    words = ["policy", "2", "--unverified", "--models", str(models), "--socket", sock]
    assert main(["models", "activate", *words]) == code
    assert read_active(models / "policy") == active
