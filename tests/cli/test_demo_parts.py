import argparse
import io
import os
import select
import subprocess
import sys
import time
import wave
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from appliance.cli import demo
from appliance.cli.demo import models, policy, senses
from appliance.cli.demo.behaviours import Arm, Camera, Noisy
from appliance.cli.demo.book import Book, Pending
from appliance.cli.demo.children import end, tail
from appliance.cli.demo.chunk import ActionChunk
from appliance.cli.demo.roster import MODELS, configuration, roster
from appliance.client.result import Result
from appliance.config import load
from appliance.errors import ConfigError, Outcome
from appliance.models.manifest import read_manifest
from appliance.models.repository import Repository
from appliance.wire.types import Response

MS = 1_000_000

# ------------------------------------------------------------------------------------- roster


@given(st.integers(4, 64))
def test_every_roster_asks_every_model_and_has_one_noisy_neighbour(count: int) -> None:
    plans = roster(count)
    assert len({plan.name for plan in plans}) == count
    assert {plan.kind.model for plan in plans} == set(MODELS)
    assert [plan.role for plan in plans].count("noisy") == 1
    assert len({plan.seed for plan in plans}) == count


def test_robots_of_one_kind_ask_at_different_rates() -> None:
    assert len({plan.period_ms for plan in roster(8) if plan.role == "arm"}) == 3


def test_the_configuration_is_one_whatever_the_directory_is_called(tmp_path: Path) -> None:
    file = tmp_path / "appliance.toml"
    odd = Path('/tmp/"ü\\ \n')
    file.write_text(
        configuration(models=odd, bind="ipc:///tmp/x", socket=odd / "s", robots=roster(8))
    )
    config = load(file)
    assert config.models.directory == str(odd)
    assert config.admin.socket == str(odd / "s")
    noisy, arm, other = (config.clients.policy(name) for name in ("noisy", "arm-3", "microphone-1"))
    assert noisy is not None
    assert arm is not None
    assert other is not None
    assert arm.tier < other.tier < noisy.tier
    assert noisy.max_rate_hz > 0
    assert other.max_rate_hz == 0
    assert sorted(name for group in config.workers for name in group.models) == list(MODELS)


@pytest.mark.parametrize(
    "words", [["--robots", "3"], ["--robots", "65"], ["--seconds", "0"], ["--robots", "many"]]
)
def test_arguments_out_of_range(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(words)
    assert stop.value.code == 2
    assert words[1] in capsys.readouterr().err


# ------------------------------------------------------------------------------------- models


def test_a_missing_wheel_says_how_to_get_it() -> None:
    wheel = models.Wheel("no_such_package_here", "nothing==1.0", "*.onnx")
    with pytest.raises(ConfigError, match=r"make demo.*pip install --no-deps nothing==1\.0"):
        wheel.locate()


def test_a_wheel_without_its_model_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty_wheel_for_demo").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    wheel = models.Wheel("empty_wheel_for_demo", "nothing==1.0", "models/*.onnx")
    with pytest.raises(ConfigError, match="empty_wheel_for_demo"):
        wheel.locate()


def test_the_repository_has_three_models_with_sound_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.onnx"
    source.write_bytes(b"weights")
    monkeypatch.setattr(models.Wheel, "locate", lambda wheel: source)
    models.build_repository(tmp_path / "models")
    entries = Repository(tmp_path / "models").scan()
    assert tuple(entry.name for entry in entries) == MODELS
    assert [entry.error for entry in entries] == [None, None, None]
    manifests = {entry.name: read_manifest(entry.manifest_path) for entry in entries}
    assert manifests["text_direction"].inputs[0].resize == (48, 192)
    assert manifests["voice"].state[0].batch_axis == 1
    chunk = manifests["policy"].chunk
    assert chunk is not None
    assert chunk.horizon == policy.HORIZON
    assert (tmp_path / "models/voice/1/model.onnx").read_bytes() == b"weights"


def test_the_policy_gives_the_same_chunk_alone_and_in_a_batch(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    first, second = tmp_path / "1.onnx", tmp_path / "2.onnx"
    policy.build_policy(first)
    policy.build_policy(second)
    assert first.read_bytes() == second.read_bytes()
    onnx.checker.check_model(str(first), full_check=True)
    session = onnxruntime.InferenceSession(first, providers=["CPUExecutionProvider"])
    joints = np.random.default_rng(0).uniform(-1, 1, (8, policy.JOINTS)).astype(np.float32)
    (together,) = session.run(None, {"joints": joints})
    assert together.shape == (8, policy.HORIZON, policy.JOINTS)
    assert np.abs(together).max() <= 1
    assert together.std(axis=0).mean() > 0.05  # other joints, other actions
    for row, alone in zip(joints, together, strict=True):
        (actions,) = session.run(None, {"joints": row[None]})
        np.testing.assert_allclose(actions[0], alone, atol=1e-5)


# ------------------------------------------------------------------------------------- senses


def test_frames_are_jpegs_of_both_kinds_and_always_the_same() -> None:
    frames = senses.frames(3)
    assert {frame.upside_down for frame in frames} == {True, False}
    assert frames == senses.frames(3)
    assert frames != senses.frames(4)
    image = Image.open(io.BytesIO(frames[0].jpeg))
    assert (image.format, image.size) == ("JPEG", (senses.FRAME_WIDTH, senses.FRAME_HEIGHT))


@pytest.mark.skipif(find_spec("rapidocr") is None, reason="make demo installs rapidocr")
def test_the_real_model_reads_every_frame_right() -> None:
    import onnxruntime

    path = models.DIRECTION_WHEEL.locate()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for frame in senses.frames(1) + senses.frames(5):
        image = Image.open(io.BytesIO(frame.jpeg)).resize((192, 48), Image.Resampling.BILINEAR)
        pixels = (np.asarray(image)[:, :, ::-1].astype(np.float32) / 255 - 0.5) / 0.5
        (scores,) = session.run(None, {"x": pixels.transpose(2, 0, 1)[None]})
        assert bool(scores[0].argmax()) is frame.upside_down


@pytest.mark.skipif(find_spec("silero_vad") is None, reason="make demo installs silero-vad")
def test_the_real_model_hears_speech_where_it_is() -> None:
    import onnxruntime

    path = models.VOICE_WHEEL.locate()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    samples = senses.sound(2)
    state = np.zeros((2, 1, 128), np.float32)
    heard = []
    for number in range(samples.size // senses.STEP):
        piece = senses.window(samples, number).astype(np.float32)[None]
        probability, state = session.run(None, {"input": piece, "state": state})
        heard.append(float(probability[0, 0]))
    half = len(heard) // 2
    assert np.mean(heard[5:half]) > 0.3
    assert np.mean(heard[half + 10 :]) < 0.1


@given(st.integers(0, 1000))
def test_windows_follow_each_other_with_their_context(number: int) -> None:
    samples = np.arange(7777, dtype=float)
    window, following = (senses.window(samples, number + each) for each in (0, 1))
    assert len(window) == senses.CONTEXT + senses.STEP
    np.testing.assert_array_equal(window[-senses.CONTEXT :], following[: senses.CONTEXT])
    assert following[senses.CONTEXT] == (window[-1] + 1) % samples.size


def test_a_wav_file_holds_what_was_heard() -> None:
    samples = senses.window(senses.sound(0), 3)
    with wave.open(io.BytesIO(senses.wav(samples))) as file:
        assert (file.getframerate(), file.getnchannels()) == (senses.RATE_HZ, 1)
        read = np.frombuffer(file.readframes(file.getnframes()), "<i2") / senses.FULL_SCALE
    np.testing.assert_allclose(read, samples, atol=1 / senses.FULL_SCALE)


# ------------------------------------------------------------------------------------- robots


def result(sequence: int = 1, *, horizon: int = 0, **tensors: np.ndarray) -> Result:
    return Result(tensors, Response(sequence=sequence, horizon=horizon), elapsed_ns=0)


@given(st.integers(1, 20), st.integers(0, 50), st.integers(0, 100))
def test_a_chunk_has_an_action_exactly_while_some_remain(
    horizon: int, first_step: int, step: int
) -> None:
    chunk = ActionChunk()
    assert chunk.remaining(step) == 0
    assert chunk.at(step) is None
    chunk.replace(np.arange(horizon, dtype=np.float32)[:, None], first_step)
    action = chunk.at(step)
    if first_step <= step:
        assert (action is not None) == (chunk.remaining(step) > 0)
    if action is not None:
        assert action[0] == step - first_step
        assert chunk.remaining(step) == horizon - action[0]


def test_an_arm_says_how_many_actions_it_has_left_and_counts_dry_steps() -> None:
    arm = Arm(every=2, joints=np.zeros(7, np.float32))
    (ask,) = arm.asks(0)
    assert (ask.steps_remaining, ask.within_ms) == (0, None)
    arm.answered(result(horizon=4, actions=np.ones((4, 7), np.float32)), tick=0)
    assert list(arm.asks(1)) == []
    assert arm.joints[0] > 0
    (ask,) = arm.asks(2)
    assert (ask.steps_remaining, ask.within_ms) == (2, 40.0)
    for tick in (3, 4, 5):
        arm.asks(tick)
    assert arm.dry_steps == 2
    assert arm.wrong == 0


def test_an_arm_does_not_move_by_a_chunk_of_another_shape() -> None:
    arm = Arm(every=2, joints=np.zeros(7, np.float32))
    arm.answered(result(horizon=4, actions=np.ones((3, 7), np.float32)), tick=0)
    assert arm.wrong == 1
    arm.asks(1)
    assert not arm.joints.any()


def test_a_camera_knows_a_wrong_answer() -> None:
    frames = [senses.Frame(b"", upside_down=True), senses.Frame(b"", upside_down=False)]
    camera = Camera(period_ms=10, frames=frames)
    upside_down = np.array([0.1, 0.9], np.float32)
    camera.answered(result(scores=upside_down), tick=2)
    assert camera.wrong == 0
    camera.answered(result(scores=upside_down), tick=3)
    assert camera.wrong == 1


def test_the_noisy_neighbour_asks_for_more_than_it_may() -> None:
    plan = next(plan for plan in roster(4) if plan.role == "noisy")
    noisy = Noisy(period_ms=plan.period_ms, random=np.random.default_rng(0))
    assert len(list(noisy.asks(0))) * 1000 / plan.period_ms >= 300


def test_a_book_of_the_latest_only() -> None:
    book = Book(keeps_all=False)
    for sequence in (1, 2, 3, 4):
        due_ns = sequence * 100 * MS
        book.ask(sequence, Pending(due_ns, due_ns + 50 * MS, tick=sequence))
        if sequence == 1:
            assert book.misses == 0  # it may still come in time
            pending = book.end(1, Outcome.OK, due_ns + 10 * MS)
            assert pending is not None
            assert pending.tick == 1
        elif sequence == 2:
            book.end(2, Outcome.OK, due_ns + 60 * MS)  # late
        elif sequence == 4:
            assert book.end(4, Outcome.EXPIRED, due_ns) is None
    assert (book.asked, book.answered, book.in_time, book.misses) == (4, 2, 1, 3)
    assert book.percentile_ms(100) == pytest.approx(60, rel=0.001)
    assert book.percentile_ms(1) == pytest.approx(10, rel=0.001)


def test_a_book_of_all_keeps_older_ones_pending() -> None:
    book = Book(keeps_all=True)
    for sequence in (1, 2):
        book.ask(sequence, Pending(0, 50 * MS, tick=0))
    book.end(1, Outcome.OK, 1)
    book.end(1, Outcome.OK, 1)  # counted once
    book.end(2, Outcome.OK, 10**15)  # longer than the histogram reaches
    assert (book.answered, book.misses) == (2, 1)
    book.held_back += 1
    assert book.misses == 2


# ------------------------------------------------------------------------------------ children


def test_a_process_that_does_not_listen_is_killed() -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", deaf + "signal.pause()"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        began = time.monotonic()
        assert end(process, grace_s=0.2) == -9
        assert 0.2 <= time.monotonic() - began < 5


def test_a_leashed_process_does_not_outlive_its_parent(tmp_path: Path) -> None:
    parent = (
        "import os\n"
        "from pathlib import Path\n"
        "from appliance.cli.demo.children import spawn_leashed\n"
        f"log = Path({str(tmp_path / 'log')!r}).open('wb')\n"
        "process, leash = spawn_leashed(['-c', 'import signal; signal.pause()'], log)\n"
        "print(process.pid, flush=True)\n"
        "input()\n"
        "os._exit(1)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        watch = os.pidfd_open(int(process.stdout.readline()))
        try:
            assert not select.select([watch], [], [], 0)[0]
            process.communicate("\n", timeout=10)
            assert select.select([watch], [], [], 10)[0], "it lives on"
        finally:
            os.close(watch)


def test_a_log_that_is_not_there_has_no_tail(tmp_path: Path) -> None:
    assert tail(tmp_path / "log") == ""
    (tmp_path / "log").write_text("\n".join(map(str, range(100))))
    assert tail(tmp_path / "log").startswith("88\n")
