"""Images that a GPU preprocesses: the kernel itself on the CPU, and what it is told by its GPU."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.fake_gpu import FACTS, FakeCuda, FakeExecutor
from support.image_plans import MOST, made_by_cpu, needs_compiler, pinned, plan_of

from appliance.engines.cuda.images import (
    KERNEL,
    BatchImages,
    is_for_kernel,
    kernel_text,
)
from appliance.engines.preprocess import Preprocessor
from appliance.engines.tensorrt.engine import TensorRTEngine
from appliance.engines.tensorrt.tensors import Tensor
from appliance.errors import EngineError, ExtraMissing
from appliance.models.inputs import input_plan
from appliance.models.manifest import Input
from appliance.models.plans import InputPlan, TensorSignature
from appliance.wire.spec import FREE
from appliance.wire.types import DType

pytestmark = needs_compiler
plans = st.builds(
    plan_of,
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from([DType.FLOAT32, DType.FLOAT16, DType.UINT8]),
    resize=st.booleans(),
    layout=st.sampled_from(["CHW", "HWC"]),
    color=st.sampled_from(["RGB", "BGR", "GRAY"]),
    scaled=st.booleans(),
    decode=st.sampled_from([("jpeg",), ()]),
)


@settings(max_examples=150, deadline=None)
@given(plan=plans, is_integrated=st.booleans(), seed=st.integers(0, 1 << 32), data=st.data())
def test_the_kernel_makes_what_the_cpu_makes(
    plan: InputPlan, *, is_integrated: bool, seed: int, data: st.DataObject
) -> None:
    gpu = FakeCuda(random.Random(seed), evolve(FACTS, is_integrated=is_integrated))
    generator = np.random.default_rng(seed)
    shape = plan.spec.row_shape
    batch = gpu.pinned((MOST, *shape), np.dtype(Preprocessor(plan).dtype))
    there = gpu.mapped(batch) if is_integrated else gpu.allocate(batch.nbytes)
    made = BatchImages(gpu, gpu.kernel(kernel_text(), KERNEL), plan, there, MOST)
    stream = gpu.stream()
    height, width, channels = plan.spec.shape
    arena = pinned(gpu, MOST * 90 * 90 * 3)
    for _ in range(2):  # the second batch finds what the first one left
        batch[...] = 7
        made.clear()
        wanted: dict[int, NDArray[Any]] = {}
        count = data.draw(st.integers(1, MOST))
        for position in data.draw(st.permutations(range(MOST))):
            size = (
                data.draw(st.integers(1, 90)) if height == FREE else height,
                data.draw(st.integers(1, 90)) if width == FREE else width,
                channels,
            )
            pixels = generator.integers(0, 256, size, dtype=np.uint8)
            if not plan.spec.encodings[1:] or data.draw(st.booleans()):
                place = arena[position * 90 * 90 * 3 :][: pixels.size].reshape(size)
                place[...] = pixels
                pixels = place
            assert made.take(position, pixels, stream)
            wanted[position] = made_by_cpu(plan, pixels)
        dropped = data.draw(st.integers(0, MOST))
        made.drop(dropped)
        made.launch(count, stream)
        if not is_integrated:
            gpu.copy_out(batch.ctypes.data, there.address, batch.nbytes, stream)
        stream.wait()
        for position, each in wanted.items():
            if position < count and position != dropped:
                np.testing.assert_array_equal(batch[position], each)


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (1280, 720)])
def test_a_full_batch_of_large_cameras_has_room(size: tuple[int, int]) -> None:
    plan = plan_of(size=(224, 224))
    gpu = FakeCuda(random.Random(0))
    there = gpu.allocate(MOST * 3 * 224 * 224 * 4)
    made = BatchImages(gpu, gpu.kernel(kernel_text(), KERNEL), plan, there, MOST)
    pixels = pinned(gpu, size[0] * size[1] * 3).reshape(*size, 3)
    stream = gpu.stream()
    assert [made.take(position, pixels, stream) for position in range(MOST)] == [True] * MOST
    assert not made.take(0, pixels, stream) or size == (480, 640)
    made.launch(3, stream)
    assert gpu.launches == [((7, 28, 3), (32, 8, 1))]
    stream.wait()
    made.clear()
    large = pinned(gpu, 4000 * 3000 * 3).reshape(3000, 4000, 3)
    assert not made.take(0, large, stream)
    thin = large.reshape(-1)[: 3 * 500_000].reshape(500_000, 1, 3)
    assert not made.take(0, thin, stream)  # there is no room for its numbers
    assert not made.take(0, pixels.copy(), stream)  # nothing is decoded, so nothing is staged
    assert not made.take(0, pixels[:, ::2], stream)
    assert not made.take(0, pixels[:0], stream)
    stream.wait()


@pytest.mark.parametrize(
    ("plan", "is_taken"),
    [
        (plan_of(size=(4, 4)), True),
        (plan_of(size=(4, 4), resize=False, scaled=False), True),
        (plan_of(size=(4, 4), resize=False, layout="HWC", scaled=False), True),
        (plan_of(size=(4, 4), resize=False, layout="HWC", dtype=DType.UINT8), False),
        (plan_of(size=(4, 4), resize=False, layout="HWC", dtype=DType.UINT8, color="BGR"), True),
        (plan_of(size=(4, 4), dtype=DType.FLOAT64), False),
        (plan_of(size=(4, 4), dtype=DType.INT32, scaled=False), False),
        (input_plan(Input(name="x"), TensorSignature("x", DType.FLOAT32, (FREE, 3)), 1), False),
    ],
)
def test_what_is_for_the_kernel(plan: InputPlan, *, is_taken: bool) -> None:
    assert is_for_kernel(plan) == is_taken


# ---------------------------------------------------------------------------- in the engine

SIZE = (6, 9)
TENSORS = (
    Tensor("camera", is_input=True, dtype=DType.FLOAT32, shape=(-1, 3, *SIZE), axis=0),
    Tensor("seen", is_input=False, dtype=DType.FLOAT32, shape=(-1, 3, *SIZE), axis=0),
)


def engine_of(gpu: FakeCuda) -> TensorRTEngine:
    executor = FakeExecutor(TENSORS, MOST, lambda given: {"seen": given["camera"]}, gpu)
    return TensorRTEngine(executor, gpu)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("is_integrated", [False, True])
def test_batches_in_flight_do_not_mix(seed: int, *, is_integrated: bool) -> None:
    gpu = FakeCuda(random.Random(seed), evolve(FACTS, is_integrated=is_integrated))
    generator = np.random.default_rng(seed)
    plan = plan_of(size=SIZE, decode=("jpeg",))
    engine = engine_of(gpu)
    engine.preprocess_images([plan])
    engine.prepare((2, MOST))
    assert len(gpu.launches) == 2  # each set was tried
    arena = pinned(gpu, 1 << 20)
    flying: deque[tuple[Any, list[NDArray[Any]]]] = deque()
    for number in range(30):
        if len(flying) == 2:
            buffers, wanted = flying.popleft()
            for found, each in zip(buffers.outputs()["seen"], wanted, strict=True):
                np.testing.assert_array_equal(found, each)
            buffers.release()
        buffers = engine.buffers()
        assert buffers is not None
        wanted = []
        part = arena[(number % 3) * 30_000 :]
        for position in range(generator.integers(1, MOST + 1)):
            shape = (*generator.integers(1, 40, 2), 3)
            pixels = generator.integers(0, 256, shape, dtype=np.uint8)
            wanted.append(made_by_cpu(plan, pixels))
            kind = generator.integers(4)
            if kind == 0:  # in the arena
                place = part[position * 5000 :][: pixels.size].reshape(shape)
                place[...] = pixels
                assert buffers.take_image("camera", position, place)
            elif kind == 1:  # decoded
                assert buffers.take_image("camera", position, pixels)
            elif kind == 2:  # somebody else had the place before
                assert buffers.take_image("camera", position, pixels[::-1].copy())
                buffers.place("camera", position)[...] = wanted[-1]
            else:
                buffers.place("camera", position)[...] = -1
                assert buffers.take_image("camera", position, pixels)
        if number % 5 == 4:  # it is taken back
            buffers.release()
            continue
        buffers.submit({}, len(wanted))
        flying.append((buffers, wanted))
    while flying:
        buffers, wanted = flying.popleft()
        np.testing.assert_array_equal(buffers.outputs()["seen"], np.stack(wanted))
        buffers.release()
    engine.close()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (ExtraMissing("NVRTC cannot be loaded: pip install it"), "NVRTC cannot be loaded: pip"),
        (EngineError("no such GPU"), "no such GPU"),
    ],
)
def test_without_the_kernel_it_is_the_cpu_and_the_log_says_so(
    wrong: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = FakeCuda(random.Random(0), no_kernel=wrong)
    engine = engine_of(gpu)
    engine.preprocess_images([plan_of(size=SIZE)])
    assert capsys.readouterr().err.startswith(f"images are preprocessed on the CPU: {told}")
    assert engine.images_on_cpu.startswith(told)
    buffers = engine.buffers()
    assert buffers is not None
    assert not buffers.take_image("camera", 0, pinned(gpu, 300).reshape(10, 10, 3))


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        (
            "rounded(down[c]);",
            "rounded(down[c]) + 5;",
            "'camera' is off by 0.1",
        ),
        ("+ plan.shift[c]", "", "'camera' is off by 2."),
        ("plan.reversed ?", "!plan.reversed ?", "'camera' is off by "),
    ],
)
def test_a_gpu_that_makes_something_else_is_not_used(
    right: str,
    wrong: str,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FakeCuda(random.Random(0))
    engine = engine_of(gpu)
    text = kernel_text().replace(right, wrong)
    assert text != kernel_text()
    monkeypatch.setattr("appliance.engines.tensorrt.engine.kernel_text", lambda: text)
    engine.preprocess_images([plan_of(size=SIZE)])
    assert told in capsys.readouterr().err
    buffers = engine.buffers()
    assert buffers is not None
    assert not buffers.take_image("camera", 0, pinned(gpu, 300).reshape(10, 10, 3))
