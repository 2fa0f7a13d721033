"""`python -m support.fake_gpu_worker`: a worker process whose GPU is `fake_gpu`.

FAKE_GPU holds `name=value` words: `seed`, `capturable`, `wrong` and `fails_at` of the executor,
`integrated`, whether the GPU shares its memory with the CPU, `kernels`, whether there are kernels,
`pins`, whether memory can be pinned, and `lost_after`, the number of questions after which the
device is lost.

A batch whose first `x` begins with `HELD` does not go on before two of another model have run.
A model named `eye` gives the camera's picture as it came to it, any other one what `compute` does.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from itertools import count
from typing import Any

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from appliance.engines import __main__ as program
from appliance.engines import device, loop
from appliance.engines.tensorrt import loading
from appliance.engines.tensorrt.engine import TensorRTEngine
from appliance.engines.tensorrt.tensors import Tensor
from appliance.errors import DeviceLost, ExtraMissing
from appliance.models.manifest import Manifest
from appliance.wire.pb import worker_pb2
from appliance.wire.types import DType
from support.fake_gpu import FACTS, FakeCuda, FakeExecutor

MAX_BATCH = 8
HELD = 1e9
FLOAT = DType.FLOAT32
TENSORS = (
    Tensor("x", is_input=True, dtype=FLOAT, shape=(-1, 4), axis=0),
    Tensor("raw", is_input=True, dtype=DType.UINT8, shape=(-1, 3), axis=0),
    Tensor("state", is_input=True, dtype=FLOAT, shape=(2, -1, 3), axis=1),
    Tensor("y", is_input=False, dtype=FLOAT, shape=(-1, 4), axis=0),
    Tensor("stateN", is_input=False, dtype=FLOAT, shape=(2, -1, 3), axis=1),
)


def compute(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    raw = inputs["raw"].astype(np.float32)
    state = inputs["state"] * 0.5 + raw
    return {"y": inputs["x"] * 2 + raw.sum(1)[:, None] + state[1].sum(1)[:, None], "stateN": state}


PICTURES = (
    Tensor("camera", is_input=True, dtype=FLOAT, shape=(-1, 3, 12, 20), axis=0),
    Tensor("seen", is_input=False, dtype=FLOAT, shape=(-1, 3, 12, 20), axis=0),
)


def see(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {"seen": inputs["camera"]}


def main() -> int:
    wishes = {
        word.partition("=")[0]: int(word.partition("=")[2])
        for word in os.environ.get("FAKE_GPU", "").split()
    }
    facts = evolve(FACTS, is_integrated=bool(wishes.get("integrated", 0)))
    gpu = FakeCuda(random.Random(wishes.get("seed", 0)), facts)
    asked = count(1)

    def on_query() -> None:
        if 0 < wishes.get("lost_after", 0) <= next(asked):
            raise DeviceLost("the GPU's context is lost: fake")

    gpu.on_query = on_query

    gpu.can_pin = bool(wishes.get("pins", 1))
    if not wishes.get("kernels", 1):
        gpu.no_kernel = ExtraMissing("no kernels are wished for")

    ended: Counter[str] = Counter()
    held_since: dict[int, int] = {}

    def load(manifest: Manifest, path: worker_pb2.ModelPath, cuda: object) -> TensorRTEngine:
        model = (PICTURES, MAX_BATCH, see) if path.name == "eye" else (TENSORS, MAX_BATCH, compute)
        executor = FakeExecutor(*model, gpu)
        executor.capturable = bool(wishes.get("capturable", 1))
        executor.is_wrong_when_captured = bool(wishes.get("wrong", 0))
        executor.fails_at = wishes.get("fails_at", 0)

        def is_held(inputs: dict[str, NDArray[Any]]) -> bool:
            others = ended.total() - ended[path.name]
            if "x" in inputs and inputs["x"][0, 0] == HELD:
                return others < held_since.setdefault(path.index, others) + 2
            ended[path.name] += 1
            return False

        executor.is_held = is_held
        return TensorRTEngine(executor, gpu, is_urgent=manifest.urgent)

    loading.load_tensorrt = load
    loop.open_named = lambda name: device.Device(name, gpu)
    status = program.main()
    print(f"kernels launched: {len(gpu.launches)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
