"""The controllers in docs/sdk-*.md, as they stand there, and images, against a real appliance."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.box import Box, box
from support.fleet_models import add_camera_policy

from appliance import JpegImages

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("sdk-*.md"))
SECONDS = 1.5


@pytest.fixture(scope="module")
def camera_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    root = tmp_path_factory.mktemp("models")
    add_camera_policy(root)
    with box(root) as running:
        yield running


def test_there_is_a_page_for_each_face() -> None:
    assert [page.stem for page in PAGES] == [
        *("sdk-asyncio", "sdk-executor", "sdk-pace", "sdk-sync", "sdk-trio"),
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_controller_of_a_page_gets_its_actions(
    camera_box: Box, tmp_path: Path, page: Path
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    rate = re.search(r"^SERVER, SECONDS, HZ = .*, (\d+)$", code, re.MULTILINE)
    assert rate is not None
    planned = SECONDS * int(rate[1])
    program = tmp_path / "controller.py"
    program.write_text(code)
    command = [sys.executable, "-W", "error", str(program), camera_box.address, str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"(\d+) actions in (\d+) ticks\n", done.stdout)
    assert found is not None, done.stdout
    actions, ticks = map(int, found.groups())
    assert planned / 3 <= actions <= ticks <= planned + 1
    refused = {"INVALID", "TOO_LARGE", "ENGINE_FAILED"} & camera_box.status()["outcomes"].keys()
    assert not refused


def test_a_robot_that_got_its_chunk_runs_dry_when_that_ends(camera_box: Box) -> None:
    image = np.zeros((96, 96, 3), np.uint8)
    with camera_box.connect("well") as connection:
        policy = connection.model("policy", latency_budget_ms=5000, step_period_ms=20)
        left_ms, first = 0.0, None
        for _ in range(20):  # a slow machine may take longer than the chunk lasts
            asked = {"state": np.zeros(7, np.float32), "camera": image}
            policy.observe(steps_remaining=1, **asked)
            assert policy.get_result(10_000) is not None
            (left_ms,) = [
                each["runs_dry_in_ms"] for each in camera_box.clients() if each["id"] == "well"
            ]
            first = camera_box.status()["clients"]["first_dry"]
            if left_ms > 20 and first is not None:
                break
        assert 20 < left_ms <= 16 * 20
        assert first is not None
        assert first["id"] == "well"


def test_an_image_compressed_here_is_to_the_model_what_a_raw_one_is(camera_box: Box) -> None:
    y, x = np.mgrid[0:480, 0:640]
    frame = np.stack([x * 255 // 639, y * 255 // 479, (x + y) % 256], axis=-1).astype(np.uint8)
    state = np.zeros(7, np.float32)
    colors = np.asarray(Image.fromarray(frame).resize((96, 96), Image.Resampling.BILINEAR))
    expected = colors.mean((0, 1))
    with camera_box.connect() as connection:
        for images, most in ((None, 0.01), (JpegImages(), 2), (JpegImages(resize=False), 2)):
            model = connection.model("policy", latency_budget_ms=5000, images=images)
            model.observe(state=state, camera=frame)
            result = model.get_result(10_000)
            assert result is not None, model.last_message
            assert np.abs(result["action"][0] - expected).max() < most
            assert result.horizon == 16
