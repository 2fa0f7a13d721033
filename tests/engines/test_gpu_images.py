"""The kernel on a real GPU; `test_device_images` has the rest, without one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from support.image_plans import MOST, made_by_cpu, pinned, plan_of

from appliance.engines.cuda.device import Device, open_device
from appliance.engines.cuda.images import KERNEL, BatchImages, kernel_text
from appliance.engines.preprocess import Preprocessor
from appliance.errors import DeviceMissing, ExtraMissing
from appliance.models.plans import InputPlan
from appliance.wire.types import DType

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu() -> Iterator[Device]:
    try:
        device = open_device()
        device.kernel(kernel_text(), KERNEL)
    except (DeviceMissing, ExtraMissing) as error:
        pytest.skip(str(error))
    yield device
    device.close()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "plan",
    [
        plan_of(size=(224, 224), decode=("jpeg",)),
        plan_of(size=(480, 640), color="BGR"),
        plan_of(size=(33, 100), dtype=DType.FLOAT16, layout="HWC"),
        plan_of(size=(100, 33), dtype=DType.UINT8, color="GRAY"),
        plan_of(size=(31, 47), resize=False),
    ],
)
def test_the_kernel_makes_what_the_cpu_makes(gpu: Device, plan: InputPlan, seed: int) -> None:
    generator = np.random.default_rng(seed)
    batch = gpu.pinned((MOST, *plan.spec.row_shape), Preprocessor(plan).dtype)
    is_integrated = gpu.facts.is_integrated
    there = gpu.mapped(batch) if is_integrated else gpu.allocate(batch.nbytes)
    made = BatchImages(gpu, gpu.kernel(kernel_text(), KERNEL), plan, there, MOST)
    stream = gpu.stream()
    height, width, channels = plan.spec.shape
    arena = pinned(gpu, MOST * 720 * 1280 * 3)
    wanted = []
    for position in range(MOST):
        size = (height, width) if plan.resize is None else generator.integers(1, 700, 2)
        pixels = generator.integers(0, 256, (*size, channels), dtype=np.uint8)
        if position % 2 or len(plan.spec.encodings) == 1:
            place = arena[position * 720 * 1280 * 3 :][: pixels.size].reshape(pixels.shape)
            place[...] = pixels
            pixels = place
        assert made.take(position, pixels, stream)
        wanted.append(made_by_cpu(plan, pixels))
    made.launch(MOST, stream)
    if not is_integrated:
        gpu.copy_out(batch.ctypes.data, there.address, batch.nbytes, stream)
    stream.wait()
    gpu.unpin(arena)
    np.testing.assert_array_equal(batch, np.stack(wanted))
