"""TensorRT's runtime objects, played by Python ones whose names and calls are the real ones'."""

from __future__ import annotations

import ctypes
import random
import re
import weakref
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.fake_gpu import FakeCuda, FakeExecutor, FakeGraph, FakeMemory, FakeStream

from appliance.engines.tensorrt.engine import TensorRTEngine
from appliance.engines.tensorrt.flavour import RTX, TENSORRT, Flavour
from appliance.engines.tensorrt.graphs import agree, inverted
from appliance.engines.tensorrt.runtime import TensorRTExecutor
from appliance.errors import DeviceLost, EngineError

SHAPES = {"x": (-1, 4), "state": (2, -1, 3), "y": (-1, 4), "stateN": (2, -1, 3)}
MOST = 8


def of_batch(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    return tuple(size if length < 0 else length for length in shape)


class RuntimeCache:
    def __init__(self) -> None:
        self.held = b""

    def deserialize(self, blob: bytes) -> bool:
        self.held = blob
        return True

    def serialize(self) -> bytes:
        return self.held


class RuntimeConfig:
    cuda_graph_strategy = dynamic_shapes_kernel_specialization_strategy = ""
    strategy = "static"
    cache: RuntimeCache | None = None

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy


class Context:
    def __init__(self, engine: Engine, config: RuntimeConfig | None) -> None:
        self.engine = engine
        self.memory = 0
        self.cache = None if config is None else config.cache
        self.has_config = weakref.ref(config) if config is not None else lambda: True
        self.shapes = dict(SHAPES)
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name in ("x", "state")
        size = max(b for a, b in zip(SHAPES[name], shape, strict=True) if a < 0)
        self.shapes = {each: of_batch(SHAPES[each], size) for each in SHAPES}
        return size <= MOST

    def infer_shapes(self) -> list[str]:
        return ["x"] if -1 in self.shapes["x"] else []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, handle: int) -> bool:
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size == self.engine.device_memory_size_v2
        assert self.engine.api.gpu.is_on_device(memory)
        self.memory = memory

    def __del__(self) -> None:
        self.engine.api.outlived += not self.has_config()

    def execute_async_v3(self, handle: int) -> bool:
        assert self.has_config()
        assert self.memory
        api = self.engine.api
        if self.cache is not None:
            self.cache.held += b"k"
        run = FakeExecutor(self.engine.tensors, MOST, compute, api.gpu).new_run()
        run.set_batch(self.shapes["x"][0])
        for name, address in self.addresses.items():
            run.set_address(name, address)
        run.enqueue(api.gpu.stream_of(handle))
        return True


def compute(inputs: dict[str, Any]) -> dict[str, Any]:
    state = inputs["state"] + 1
    return {"y": inputs["x"] + state.sum((0, 2))[:, None], "stateN": state}


class Engine:
    num_io_tensors = len(SHAPES)
    device_memory_size_v2 = 4096

    def __init__(self, api: Api) -> None:
        self.api = api
        self.tensors: Any = ()

    def get_tensor_name(self, index: int) -> str:
        return list(SHAPES)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.api.dtype)

    def get_tensor_location(self, name: str) -> str:
        return "device"

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in ("x", "state") else "output"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return SHAPES[name]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert index == 0
        assert name in ("x", "state")
        return [of_batch(SHAPES[name], size) for size in (1, MOST, MOST)]

    def create_runtime_config(self) -> Any:
        return RuntimeConfig()

    def create_execution_context(
        self, strategy: str = "", runtime_config: RuntimeConfig | None = None
    ) -> Context | None:
        rtx = self.api.package == RTX
        assert (runtime_config is not None) == rtx
        if rtx:
            assert runtime_config.cuda_graph_strategy == "disabled"
            assert runtime_config.dynamic_shapes_kernel_specialization_strategy == "eager"
            assert runtime_config.cache is not None
        assert (runtime_config.strategy if rtx else strategy) == "user managed"
        self.api.contexts += 1
        return Context(self, runtime_config) if self.api.has_memory else None


class OldEngine(Engine):
    """One of TensorRT 8.5."""

    def create_execution_context_without_device_memory(self) -> Context:
        assert not self.api.contexts, "the profile belongs to another context"
        self.api.contexts += 1
        return Context(self, None)


class Gpu(FakeCuda):
    def stream_of(self, handle: int) -> Any:
        return next(each for each in self._streams if each.handle == handle)


class Empty(Gpu):
    """Its graphs do nothing."""

    def capture(self, stream: FakeStream, work: Callable[[], None]) -> FakeGraph:
        graph = super().capture(stream, work)
        graph.works.clear()
        return graph


class Api:
    ILogger = type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0})
    TensorLocation = SimpleNamespace(DEVICE="device")
    TensorIOMode = SimpleNamespace(INPUT="input")
    EngineValidity = SimpleNamespace(INVALID="invalid")
    EngineInvalidityDiagnostics = SimpleNamespace(
        __members__={
            "VERSION_MISMATCH": 1,
            "UNSUPPORTED_CC": 2,
            "OLD_CUDA_DRIVER": 4,
            "OLD_CUDA_RUNTIME": 8,
            "INSUFFICIENT_GPU_MEMORY": 16,
            "MALFORMED_ENGINE": 32,
            "CUDA_ERROR": 64,
        }
    )
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    CudaGraphStrategy = SimpleNamespace(DISABLED="disabled")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1)

    def __init__(self, package: str) -> None:
        self.package = package
        self.gpu = Gpu(random.Random(0))
        self.dtype = "FLOAT"
        self.has_memory = True
        self.contexts = 0
        self.outlived = 0  # contexts that were there when what they were made with was gone
        self.validity: tuple[str, int] = ("valid", 0)
        self.engine: Engine | None = Engine(self)

    def Runtime(self, log: Any) -> Any:  # noqa: N802  TensorRT's name
        def deserialize(plan: bytes) -> Engine | None:
            log.log(1, "the magic tag does not match")
            return self.engine

        return SimpleNamespace(
            deserialize_cuda_engine=deserialize, get_engine_validity=lambda plan: self.validity
        )


def executor(
    api: Api, compiled: bytes = b"", keep: Callable[[bytes], None] = lambda _: None
) -> TensorRTExecutor:
    flavour = Flavour(api.package, "10.3.0", api)
    made = TensorRTExecutor(flavour, b"plan", api.gpu, compiled, keep, rebuild="build it anew")
    if api.engine is not None:
        api.engine.tensors = made.tensors
    return made


def check_answers(engine: TensorRTEngine) -> None:
    generator = np.random.default_rng(0)
    for count in (1, 3, 8, 5):
        inputs = {
            name: generator.standard_normal(of_batch(SHAPES[name], count)).astype(np.float32)
            for name in ("x", "state")
        }
        for name, wanted in compute(inputs).items():
            np.testing.assert_allclose(engine.run(inputs)[name], wanted, rtol=1e-5)


@pytest.mark.parametrize("package", [RTX, TENSORRT])
@pytest.mark.parametrize("sizes", [(), (1, 4)])
def test_one_path_for_both(package: str, sizes: tuple[int, ...]) -> None:
    api = Api(package)
    made = executor(api)
    assert made.max_batch == MOST
    engine = TensorRTEngine(made, api.gpu)
    engine.prepare(sizes)
    assert engine.sizes == ((1, 4, 8) if sizes else ())
    assert engine.without_graphs == ("" if sizes else "switched off")
    check_answers(engine)
    # One for each graph: of three sizes, in two sets; else one for all.
    assert api.contexts == (6 if sizes else 1)
    engine.close()
    assert api.outlived == 0
    assert api.gpu.held == []


@pytest.mark.parametrize("gpu", [Gpu, Empty])
def test_all_graphs_are_of_one_context_where_there_is_but_one(gpu: type[Gpu]) -> None:
    api = Api(TENSORRT)
    # As 8.5 is; 8.6 can be told to share profiles.
    api.NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)
    api.ExecutionContextAllocationStrategy = None
    api.engine = OldEngine(api)
    api.gpu = gpu(random.Random(0))
    engine = TensorRTEngine(executor(api), api.gpu)
    check_answers(engine)
    engine.prepare((1, 4))
    assert bool(engine.without_graphs) == (gpu is Empty)
    check_answers(engine)
    assert api.contexts == 1
    api.PreviewFeature = SimpleNamespace(PROFILE_SHARING_0806="sharing")
    assert Flavour(TENSORRT, "8.6.1", api).shares_profiles


def test_what_was_compiled_is_kept_and_found_again() -> None:
    kept: list[bytes] = []
    api = Api(RTX)
    engine = TensorRTEngine(executor(api, b"", kept.append), api.gpu)
    engine.prepare((8,))
    assert kept == [b"k" * 4]  # a run before it is captured, and that, in each set
    engine.close()
    assert len(kept) == 1  # nothing is new
    api = Api(RTX)
    engine = TensorRTEngine(executor(api, kept[0], kept.append), api.gpu)
    engine.run({name: np.ones(of_batch(SHAPES[name], 1), np.float32) for name in ("x", "state")})
    engine.close()
    assert kept[1:] == [b"k" * 5]


def test_an_engine_that_there_is_no_memory_for_leaves_nothing() -> None:
    api = Api(RTX)
    made = executor(api)
    rooms = iter(range(5))  # of the eight that its two sets need

    def allocate(size: int) -> FakeMemory:
        if next(rooms, None) is None:
            raise EngineError("the GPU has no memory left")
        return FakeCuda.allocate(api.gpu, size)

    api.gpu.allocate = allocate  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="no memory left"):
        TensorRTEngine(made, api.gpu)
    assert api.gpu.held == []


class Remembering(Gpu):
    """Its graphs write what came of the inputs that there were when they were captured."""

    def capture(self, stream: FakeStream, work: Callable[[], None]) -> FakeGraph:
        graph = super().capture(stream, work)
        for each in graph.works:
            each()
        kept = [(memory, ctypes.string_at(memory.address, memory.bytes)) for memory in self._memory]
        outputs = kept[3:5] + kept[7:9]  # the engine's own, and of two sets: x, state, y, stateN
        graph.works[:] = [
            lambda: [ctypes.memmove(to.address, was, len(was)) for to, was in outputs]
        ]
        return graph


@pytest.mark.parametrize("kind", [Empty, Remembering])
def test_graphs_that_do_not_compute_are_found_out(
    kind: type[Gpu], capfd: pytest.CaptureFixture[str]
) -> None:
    api = Api(RTX)
    api.gpu = kind(random.Random(0))
    engine = TensorRTEngine(executor(api), api.gpu)
    engine.prepare((1, 4))
    assert re.fullmatch(
        "the graph of batches of [148] gives another '(y|stateN)' than a run without it",
        engine.without_graphs,
    )
    assert engine.without_graphs in capfd.readouterr().err
    inputs = {name: np.ones(of_batch(SHAPES[name], 3), np.float32) for name in ("x", "state")}
    np.testing.assert_allclose(engine.run(inputs)["y"], compute(inputs)["y"])
    engine.close()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, np.float32),
        np.array([1, -2, np.nan], np.float32),
        np.array([np.inf, 0], np.float16),
        np.full(2, np.nan),
        np.array([True, False]),
        np.array([-1, 0, 127], np.int8),
        np.array(5, np.int64),
    ],
)
def test_what_outputs_are_overwritten_with_agrees_with_nothing(array: NDArray[Any]) -> None:
    assert agree(array, array)
    wrong = inverted(array)
    assert wrong.dtype == array.dtype
    assert not agree(wrong, array)
    assert not any(agree(a, b) for a, b in zip(wrong.ravel(), array.ravel(), strict=True))


@pytest.mark.parametrize(
    ("package", "change", "told"),
    [
        (RTX, {"validity": ("invalid", 6)}, r"9.0\): UNSUPPORTED_CC, OLD_CUDA.*install TensorRT"),
        (RTX, {"validity": ("invalid", 1)}, r"VERSION_MISMATCH \(.*\); build it anew"),
        (
            RTX,
            {"validity": ("invalid", 5)},
            r"OLD_CUDA_DRIVER .*; update .* knows CUDA 13.0",
        ),
        (
            RTX,
            {"validity": ("invalid", 12)},
            "; update .*, or build .*: build it anew; if .* tensorrt-rtx-cu12",
        ),
        (RTX, {"validity": ("invalid", 8)}, "OLD_CUDA_RUNTIME .*; update CUDA's runtime"),
        (
            RTX,
            {"validity": ("invalid", 16)},
            "INSUFFICIENT_GPU_MEM.*; 4096 MiB .* are free: let",
        ),
        (RTX, {"validity": ("invalid", 32)}, r"MALFORMED_ENGINE \(.*\); build it anew"),
        (RTX, {"validity": ("invalid", 68)}, "CUDA_ERROR .*; install NVIDIA's driver anew"),
        (
            RTX,
            {"validity": ("invalid", 2), "engine": None},
            r"UNSUPPORTED_CC \(the magic tag does not match\); install TensorRT",
        ),
        (
            RTX,
            {"validity": ("invalid", 0), "engine": None},
            r"Fake GPU \(9.0\): invalid, for no reason that it tel",
        ),
        (
            RTX,
            {"validity": ("invalid", 1 << 20), "engine": None},
            "invalid, for no reason that it tells",
        ),
        (TENSORRT, {"engine": None}, "cannot load this engine: the magic tag does not match; bui"),
        (TENSORRT, {"has_memory": False}, "no execution context, 4096 MiB of the GPU are free"),
        (TENSORRT, {"dtype": "FP8"}, "'x' is a FP8; supported: FLOAT"),
        (TENSORRT, {"dtype": "BF16"}, "is bfloat16; export the model with inputs and outputs of"),
    ],
)
def test_why_an_engine_cannot_be_used(package: str, change: dict[str, Any], told: str) -> None:
    api = Api(package)
    for name, value in change.items():
        setattr(api, name, value)
    with pytest.raises(EngineError, match=told):
        executor(api)


@pytest.mark.parametrize(("reasons", "told"), [(2, "UNSUPPORTED_CC"), (0, "invalid, for no reas")])
def test_where_tensorrt_may_be_wrong_about_an_engine_loading_tells(
    capfd: pytest.CaptureFixture[str], reasons: int, told: str
) -> None:
    """So it was reported of a GPU without a name: of engines that it then ran, too."""
    api = Api(RTX)
    api.validity = ("invalid", reasons)
    engine = TensorRTEngine(executor(api), api.gpu)
    assert f"tensorrt_rtx 10.3.0 says {told}" in capfd.readouterr().err
    engine.prepare((1, 4))
    assert engine.without_graphs == ""
    check_answers(engine)
    engine.close()


def test_a_run_that_is_refused_costs_the_process_if_the_context_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = Api(RTX)
    engine = TensorRTEngine(executor(api), api.gpu)
    inputs = {name: np.ones(of_batch(SHAPES[name], 1), np.float32) for name in ("x", "state")}
    monkeypatch.setattr(Context, "execute_async_v3", lambda *_: False)
    with pytest.raises(EngineError, match="a batch cannot be run: "):
        engine.run(inputs)
    api.gpu.lost = DeviceLost("the GPU's context is lost: fake")
    with pytest.raises(DeviceLost):
        engine.run(inputs)
    with pytest.raises(DeviceLost):
        engine.prepare((1,))


@pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT for RTX is not installed")
def test_the_names_are_those_of_the_real_one() -> None:
    import tensorrt_rtx as real

    kinds = {
        "IExecutionContext": Context,
        "ICudaEngine": Engine,
        "IRuntimeCache": RuntimeCache,
    }
    for kind, played in kinds.items():
        names = {name for name in vars(played) if not name.startswith("_")}
        assert not [name for name in names if not hasattr(getattr(real, kind), name)]
    for name in vars(Api):
        assert name.startswith("_") or hasattr(real, name)
    assert hasattr(real.Runtime, "get_engine_validity")
    known = real.EngineInvalidityDiagnostics.__members__
    assert {name: int(each) for name, each in known.items()} == (
        Api.EngineInvalidityDiagnostics.__members__
    )
    for name in (
        *("cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy"),
        *("create_runtime_cache", "set_runtime_cache"),
        "set_execution_context_allocation_strategy",
    ):
        assert hasattr(real.IRuntimeConfig, name)
    assert "USER_MANAGED" in real.ExecutionContextAllocationStrategy.__members__
