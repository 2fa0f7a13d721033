"""Plans of images, and what the CPU makes of them; tests need a compiler to try the kernel."""

from __future__ import annotations

import mmap
import shutil
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.engines import images
from appliance.engines.cuda.images import tolerance_of
from appliance.engines.cuda.ports import Cuda
from appliance.engines.preprocess import Preprocessor
from appliance.models.inputs import input_plan
from appliance.models.manifest import Input
from appliance.models.plans import InputPlan, TensorSignature
from appliance.wire.spec import FREE
from appliance.wire.types import DType

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
MOST = 4
Pixels = NDArray[np.uint8]


def plan_of(
    *,
    size: tuple[int, int],
    dtype: DType = DType.FLOAT32,
    resize: bool = True,
    layout: str = "CHW",
    color: str = "RGB",
    scaled: bool = True,
    **more: Any,
) -> InputPlan:
    channels = 1 if color == "GRAY" else 3
    shape = (channels, *size) if layout == "CHW" else (*size, channels)
    arithmetic: dict[str, Any] = {}
    if scaled and dtype is not DType.UINT8:
        arithmetic = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406)[:channels], "std": (0.225,)}
    item = Input(
        name="camera",
        resize=size if resize else None,
        layout=layout,  # type: ignore[arg-type]
        color=color,  # type: ignore[arg-type]
        **arithmetic,
        **more,
    )
    return input_plan(item, TensorSignature("camera", dtype, (FREE, *shape)), MOST)


def pinned(gpu: Cuda, size: int) -> Pixels:
    memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    gpu.pin(memory)
    return memory


def made_by_cpu(plan: InputPlan, pixels: Pixels) -> NDArray[Any]:
    """As `preprocess` does, but that an image is resized across before down, in any Pillow."""
    across_only = pixels
    if plan.resize is not None:
        across_only = images.resize(pixels, pixels.shape[0], plan.resize[1])
    preprocessor = Preprocessor(plan)
    made = np.empty(preprocessor.row_shape(pixels.shape), preprocessor.dtype)
    preprocessor.write(across_only, made)
    at_once = np.empty_like(made)
    preprocessor.write(pixels, at_once)
    np.testing.assert_allclose(at_once, made, rtol=0, atol=tolerance_of(plan))
    return made
