"""A version is verified on what it is to be served on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_documents import worker
from support.repository import add_onnx_mlp

from appliance.cli import main

Capture = pytest.CaptureFixture[str]
Serve = Callable[[dict[str, list[Any]]], str]
GPU, NO_SUCH_GPU = worker("gpu-0", device="cuda:0", models=["policy"]), "cuda:99"


def verify(models: Path, sock: str, *words: str) -> int:
    add_onnx_mlp(models, "policy")
    return main(["models", "verify", "policy", "--models", str(models), "--socket", sock, *words])


def test_that_is_where_its_worker_computes(
    serve_admin: Serve, tmp_path: Path, capsys: Capture
) -> None:
    gone = worker("gpu-0", device=NO_SUCH_GPU, models=["policy"])
    sock = serve_admin({"GET /v1/workers": [{"workers": [gone, worker(models=["other"])]}]})
    assert verify(tmp_path / "models", sock) == 2
    told = capsys.readouterr()
    assert f"on {NO_SUCH_GPU}" in told.err
    assert "GPU" in told.err.splitlines()[-1]
    assert "cannot be used" not in told.out  # nothing is said of the version


def test_one_that_is_not_served_yet_is_tried_where_all_are(
    serve_admin: Serve, tmp_path: Path, capsys: Capture
) -> None:
    sock = serve_admin({"GET /v1/workers": [{"workers": [worker(models=["other"])]}]})
    assert verify(tmp_path / "models", sock) == 0
    assert "on cpu" in capsys.readouterr().err


def test_where_that_may_be_several_one_has_to_be_named(
    serve_admin: Serve, tmp_path: Path, capsys: Capture
) -> None:
    workers = [GPU, worker(models=["policy"])]
    sock = serve_admin({"GET /v1/workers": [{"workers": workers}]})
    assert verify(tmp_path / "models", sock) == 2
    assert "may be served on cpu, cuda:0: name one with --device" in capsys.readouterr().err
    assert verify(tmp_path / "models", sock, "--device", "cpu") == 0
