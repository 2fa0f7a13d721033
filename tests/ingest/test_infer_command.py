"""`appliance infer`, with a real model out of a wheel: is the text upright?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.box import Box, box
from support.grpc import OVERRIDE, grpc_address

from appliance.cli import main
from appliance.cli.demo.models import build_repository
from appliance.cli.demo.senses import frames


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    root = tmp_path_factory.mktemp("models")
    build_repository(root)
    with box(root, overrides=(OVERRIDE,)) as running:
        yield running


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An upright text and one that is upside down, as JPEG files."""
    root = tmp_path_factory.mktemp("pictures")
    found: dict[str, Path] = {}
    for frame in frames(1):
        name = "down" if frame.upside_down else "up"
        found.setdefault(name, root / f"{name}.jpg").write_bytes(frame.jpeg)
    return found


def infer(running: Box, *words: str, expect: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "infer", *words, "--grpc", grpc_address(running)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    return done.stderr if expect else done.stdout


def values(running: Box, *words: str) -> NDArray[Any]:
    (output,) = json.loads(infer(running, *words, "--json"))["outputs"].values()
    return np.array(output["values"])


def test_a_jpeg_is_classified_as_it_is(running: Box, pictures: dict[str, Path]) -> None:
    found = {
        name: int(values(running, "text_direction", "--image", str(path)).argmax())
        for name, path in pictures.items()
    }
    assert found == {"up": 0, "down": 1}


def test_tritonclient_classifies_the_same_file(running: Box, pictures: dict[str, Path]) -> None:
    interpreter = os.environ.get("APPLIANCE_TRITONCLIENT")
    if not interpreter:
        pytest.skip("APPLIANCE_TRITONCLIENT names no interpreter")
    program = """
import sys, numpy as np, tritonclient.grpc as triton
address, *files = sys.argv[1:]
client = triton.InferenceServerClient(address)
for file in files:
    data = np.array([[open(file, "rb").read()]], dtype=object)
    camera = triton.InferInput("camera", data.shape, "BYTES")
    camera.set_data_from_numpy(data)
    result = client.infer("text_direction", [camera])
    print(result.as_numpy(result.get_response().outputs[0].name).reshape(-1).tolist())
"""
    done = subprocess.run(
        [interpreter, "-c", program, grpc_address(running), *map(str, pictures.values())],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for line, path in zip(done.stdout.splitlines(), pictures.values(), strict=True):
        ours = values(running, "text_direction", "--image", str(path)).reshape(-1)
        np.testing.assert_allclose(json.loads(line), ours, rtol=1e-5, atol=1e-6)


def test_what_a_person_sees(running: Box, pictures: dict[str, Path]) -> None:
    said = infer(running, "text_direction", "--image", f"camera={pictures['down']}").splitlines()
    assert said[0].startswith("text_direction version 1 ")
    assert "FP32 [1, 2]" in said[1]
    assert said[2].strip().startswith("largest  1: ")


def test_arrays_from_files(running: Box, tmp_path: Path) -> None:
    rows = np.zeros((1, 7))
    np.save(tmp_path / "wrong.npy", rows.astype("U4"))
    assert "is <U4" in infer(running, "policy", "--tensor", str(tmp_path / "wrong.npy"), expect=2)
    missing = infer(running, "policy", "--tensor", str(tmp_path / "nonesuch.npy"), expect=2)
    assert "No such file" in missing


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nonesuch", "--text", "x"), "NOT_FOUND: model 'nonesuch' is not served"),
        (("text_direction", "--image", "/nonesuch.jpg"), "--image /nonesuch.jpg: No such file"),
        (("text_direction", "--tensor", "/x.npy"), "say which input it is for"),
        (("text_direction", "--text", "other=x"), "has no such input left; it takes camera"),
        (
            ("text_direction", "--text", "hello"),
            "INVALID_ARGUMENT: input 'camera': expected a file",
        ),
        (("text_direction",), "INVALID_ARGUMENT: model 'text_direction' needs tensor 'camera'"),
    ],
)
def test_what_is_wrong_is_said(running: Box, words: tuple[str, ...], says: str) -> None:
    assert says in infer(running, *words, expect=2)


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "m", "--text", "x", "--grpc", "127.0.0.1:1", "--timeout-ms", "2000"]) == 2
    assert "nobody answers at 127.0.0.1:1" in capsys.readouterr().err
