"""The real pycuda and cuda-bindings, on a libcuda made of C that stands for a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.image_plans import needs_compiler
from support.kernel_on_cpu import build

from appliance.engines.cuda.images import kernel_text

SOURCE = Path(__file__).parents[1] / "support" / "fake_libcuda.c"
needs_bindings = pytest.mark.skipif(
    find_spec("cuda") is None, reason="cuda-bindings is not installed"
)
needs_pycuda = pytest.mark.skipif(
    find_spec("pycuda") is None, reason="no pycuda: make test-kernels"
)

PREFACE = """
import sys, os
import numpy as np
sys.setdlopenflags(os.RTLD_LAZY)  # the stand-in has not all that pycuda could call
from appliance.engines.cuda import device as module
from appliance.engines.cuda.driver import find_device
from appliance.errors import ApplianceError
import ctypes
library = ctypes.CDLL("libcuda.so.1")
alive = lambda: [library.fake_cuda_alive(kind) for kind in range(6)]
priority = lambda: ctypes.c_int.in_dll(library, "last_priority").value
"""
WITHOUT_PYCUDA = """
from cuda.bindings import driver
device = module.Device(None, None, None, module._Calls(driver))
"""
WORK = """
stream, urgent = device.stream(), device.stream(is_urgent=True)
assert stream.handle != urgent.handle and priority() == -5
device.stream().close()
assert priority() == 0
rows = np.arange(64, dtype=np.uint8)
memory = np.zeros(4096, np.uint8)
assert device.pin(memory)
start = memory.ctypes.data
assert device.is_pinned(start, 4096) and device.is_pinned(start + 4000, 96)
assert not device.is_pinned(start + 4000, 97) and not device.is_pinned(rows.ctypes.data, 1)
by = (1 << 56) if os.environ.get("FAKE_CUDA_INTEGRATED") else 0
assert device.mapped(memory[4000:]).address == start + 4000 + by
assert device.mapped(memory[4000:]).bytes == 96
target = np.zeros(64, np.uint8)
device.copy_in(start, rows.ctypes.data, 64, stream)
device.copy_out(target.ctypes.data, start, 64, stream)
assert target.tolist() == rows.tolist()
device.unpin(memory)
device.unpin(memory)
assert not device.is_pinned(start, 1)
event = device.event()
stream.record(event)
urgent.wait_for(event)
event.wait()
stream.wait()
captured = []
graph = device.capture(stream, lambda: captured.append(1))
assert captured == [1]
graph.launch(stream)
is_done = event.is_done()
assert alive() == [2, 1, 0, 1, 0, 0], alive()
graph.close()
event.close()
for each in (stream, urgent):
    each.close()
assert alive() == [0, 0, 0, 0, 0, 0], alive()
print("done", is_done)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", path, SOURCE]
    subprocess.run([*command, "-ldl"], check=True)
    return path.parent


def run(library: Path, code: str, **environment: str) -> str:
    """Run code with the stand-in; return what it printed, errors of ours included."""
    code = PREFACE + "try:\n" + "".join(f"    {line}\n" for line in code.strip().splitlines())
    code += "except ApplianceError as error:\n    print(f'{error.code}: {error}')\n"
    environment = {**os.environ, **environment, "LD_LIBRARY_PATH": str(library)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_compiler
def test_what_the_driver_says(library: Path) -> None:
    code = "print(find_device())"
    found = run(library, code)
    assert found == "DeviceFound(ordinal=0, name='Fake GPU', capability='9.0', driver='13.0')"
    assert "there is no GPU 1" in run(library, "find_device(1)")
    assert "finds no GPU (CUDA error 0)" in run(library, code, FAKE_CUDA_DEVICES="0")
    assert "finds no GPU (CUDA error 999)" in run(library, code, FAKE_CUDA_FAIL="cuInit=999")


@needs_compiler
@needs_bindings
def test_every_call_of_cuda_bindings_is_as_it_wants_it(library: Path) -> None:
    assert run(library, WITHOUT_PYCUDA + WORK) == "done True"
    assert run(library, WITHOUT_PYCUDA + WORK, FAKE_CUDA_INTEGRATED="1") == "done True"


@needs_compiler
@needs_bindings
@pytest.mark.parametrize(
    ("call", "code", "told"),
    [
        ("cuEventQuery", 600, "done False"),  # not ready
        ("cuEventQuery", 700, "DEVICE_LOST: the GPU's context is lost: CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("cuEventSynchronize", 702, "DEVICE_LOST: the GPU's context is lost: CUDA_ERROR_LAUNCH_TI"),
        ("cuStreamSynchronize", 214, "DEVICE_LOST: the GPU's context is lost: CUDA_ERROR_ECC_UNCO"),
        ("cuGraphLaunch", 2, "ENGINE: the GPU has no memory left: CUDA_ERROR_OUT_OF_MEMORY (2)"),
        (
            "cuStreamEndCapture",
            901,
            "ENGINE: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED (901) while",
        ),
        ("cuMemcpyHtoDAsync_v2", 1, "ENGINE: CUDA_ERROR_INVALID_VALUE (1) while copying in"),
    ],
)
def test_an_error_costs_a_call_or_the_process(
    library: Path, call: str, code: int, told: str
) -> None:
    found = run(library, WITHOUT_PYCUDA + WORK, FAKE_CUDA_FAIL=f"{call}={code}")
    assert found.startswith(told)


PLAYED_PYCUDA = """
import types
from cuda.bindings import driver
class Error(Exception): pass
class LogicError(Error): pass
class MemoryError(Error): pass
class Memory(np.ndarray):
    def __int__(self): return self.ctypes.data
def mem_alloc(size):
    assert size
    memory = np.empty(size, np.uint8).view(Memory)
    memory[...] = 0x7F
    return memory
pycuda = types.SimpleNamespace(**{each.__name__: each for each in (Error, LogicError, MemoryError)})
pycuda.mem_alloc = mem_alloc
device = module.Device(None, pycuda, None, module._Calls(driver))
"""


@needs_compiler
@needs_bindings
def test_memory_of_the_device_is_clear_when_it_is_given(library: Path) -> None:
    code = PLAYED_PYCUDA + "print(device.allocate(5)._owner.tolist(), device.allocate(0).bytes)"
    assert run(library, code) == "[0, 0, 0, 0, 0] 1"
    for call in ("cuMemsetD8_v2", "cuStreamSynchronize"):
        found = run(library, code, FAKE_CUDA_FAIL=f"{call}=700")
        assert found.startswith("DEVICE_LOST: the GPU's context is lost: CUDA_ERROR_ILLEGAL_ADDR")


@needs_compiler
@needs_bindings
@pytest.mark.parametrize(
    ("kind", "then", "told"),
    [
        ("Error", 700, "DEVICE_LOST: the GPU's context is lost: CUDA_ERROR_ILLEGAL_ADDRESS (700)"),
        ("LogicError", 710, "DEVICE_LOST: the GPU's context is lost: CUDA_ERROR_ASSERT (710) whi"),
        ("MemoryError", 214, "DEVICE_LOST: the GPU's context is lost: CUDA_ERROR_ECC_UNCORRECTA"),
        ("MemoryError", 0, "ENGINE: the GPU has no memory left: CUDA_ERROR_OUT_OF_MEMORY (2)"),
        ("LogicError", 0, "ENGINE: cuMemAlloc failed: fake while allocating 8 bytes"),
        ("LogicError", 701, "ENGINE: cuMemAlloc failed: fake while allocating 8 bytes"),
        ("LogicError", 900, "ENGINE: cuMemAlloc failed: fake while allocating 8 bytes"),
    ],
)
def test_pycudas_errors_are_judged_by_what_the_context_says(
    library: Path, kind: str, then: int, told: str
) -> None:
    code = f"""
def fails(size):
    raise {kind}("cuMemAlloc failed: fake")
pycuda.mem_alloc = fails
device.allocate(8)
"""
    found = run(library, PLAYED_PYCUDA + code, FAKE_CUDA_FAIL=f"cuCtxSynchronize={then}")
    assert found.startswith(told)


LAUNCH = """
from appliance.engines.cuda.images import BatchImages, kernel_text
from appliance.engines.preprocess import Preprocessor
from appliance.models.inputs import input_plan
from appliance.models.manifest import Input
from appliance.models.plans import TensorSignature
from appliance.wire.types import DType
import types
memory_of = lambda array: module._Memory(array.ctypes.data, array.nbytes, array)
class Part(module.Device):  # without what pycuda does
    def allocate(self, size):
        return memory_of(np.zeros(size, np.uint8))
    def pinned(self, shape, dtype):
        return np.zeros(shape, dtype)
facts = types.SimpleNamespace(is_integrated=False, capability="9.0")
device = Part(facts, None, None, module._Calls(driver))
asked = []
module.compiled = lambda text, capability: asked.append(capability) or KERNEL.encode() + b"\\0"
item = Input(name="x", resize=(5, 7), layout="CHW", scale=0.5, mean=(1.0,))
plan = input_plan(item, TensorSignature("x", DType.FLOAT32, (-1, 3, 5, 7)), 2)
batch = np.zeros((2, 3, 5, 7), np.float32)
stream = device.stream()
kernel = device.kernel(kernel_text(), "preprocess")
device.kernel(kernel_text(), "preprocess")
images = BatchImages(device, kernel, plan, memory_of(batch), 2)
memory = np.random.default_rng(1).integers(0, 256, 4096).astype(np.uint8)
device.pin(memory)
pixels = memory[: 20 * 30 * 3].reshape(20, 30, 3)
assert images.take(1, pixels, stream)
images.launch(2, stream)
wanted = np.zeros((3, 5, 7), np.float32)
Preprocessor(plan).write(pixels, wanted)
print(np.array_equal(batch[1], wanted), batch[0].any(), asked)
device.kernel(kernel_text(), "another")
"""


@needs_compiler
@needs_bindings
def test_a_kernel_is_launched_as_cuda_bindings_wants_it(library: Path, tmp_path: Path) -> None:
    code = WITHOUT_PYCUDA + LAUNCH.replace("KERNEL", repr(str(build(kernel_text(), tmp_path))), 1)
    ran, not_there = run(library, code).splitlines()
    assert ran == "True False ['9.0']"
    assert not_there == ("ENGINE: CUDA_ERROR_NOT_FOUND (500) while looking for the kernel another")
    for call, told in (
        ("cuModuleLoadData=209", "NO_BINARY_FOR_GPU (209) while loading a kernel"),
        ("cuLaunchKernel=701", "LAUNCH_OUT_OF_RESOURCES (701) while launching"),
    ):
        assert told in run(library, code, FAKE_CUDA_FAIL=call)


@needs_compiler
@needs_bindings
def test_memory_that_cannot_be_pinned_is_copied_by_a_detour(library: Path) -> None:
    code = WITHOUT_PYCUDA + "print(device.pin(np.zeros(64, np.uint8)), device._pins)"
    assert run(library, code, FAKE_CUDA_FAIL="cuMemHostRegister_v2=801") == "False {}"


@needs_compiler
@needs_bindings
@needs_pycuda
def test_with_pycuda(library: Path) -> None:
    code = """
device = module.open_device(0)
print(device.facts)
memory = device.allocate(100)
print(memory.bytes, device.free_bytes())
pinned = device.pinned((2, 3), np.dtype(np.float32))
assert pinned.shape == (2, 3) and not pinned.any() and pinned.flags.writeable
pinned[...] = 1
stream = device.stream()
device.copy_in(memory.address, pinned.ctypes.data, pinned.nbytes, stream)
stream.close()
by = (1 << 56) if device.facts.is_integrated else 0
assert device.mapped(pinned).address == pinned.ctypes.data + by
assert device.mapped(pinned[:0]).address
del memory, pinned
"""
    facts, memory, done = run(library, code + WORK + "\ndevice.close()").splitlines()
    assert facts == (
        "DeviceFacts(ordinal=0, name='Fake GPU', capability='9.0', driver='13.0', "
        "memory_bytes=8589934592, is_integrated=False)"
    )
    assert (memory, done) == ("100 4294967296", "done True")
    facts, *_ = run(
        library, code + WORK + "\ndevice.close()", FAKE_CUDA_INTEGRATED="1"
    ).splitlines()
    assert facts.endswith("is_integrated=True)")
    code = "module.open_device(0)"
    lost = run(library, code, FAKE_CUDA_FAIL="cuDevicePrimaryCtxRetain=2")
    assert lost.startswith("DEVICE_MISSING: GPU 0, Fake GPU, cannot be used")


@needs_compiler
@pytest.mark.skipif(find_spec("pycuda") is not None, reason="pycuda is installed")
def test_what_is_not_installed_is_said(library: Path) -> None:
    assert run(library, "module.open_device(0)").startswith(
        "EXTRA_MISSING: pycuda.driver is not installed: pip install 'appliance[gpu]'"
    )


LIFE = """
import random
from support.fake_gpu import FakeExecutor, FakeRun
from support.fake_gpu_worker import MAX_BATCH, TENSORS, compute
from appliance.engines.tensorrt import graphs
from appliance.engines.tensorrt.engine import TensorRTEngine
from appliance.errors import EngineError
graphs._check = lambda *_: None  # the stand-in's graphs do nothing

class Device(module.Device):  # without what pycuda does
    def allocate(self, size):
        memory = np.zeros(max(size, 1), np.uint8)
        return module._Memory(memory.ctypes.data, memory.nbytes, memory)
    def pinned(self, shape, dtype):
        return np.zeros(shape, dtype)

class Run(FakeRun):
    def enqueue(self, stream):
        assert stream.handle
        if FAILS and self._batch == FAILS:
            raise EngineError("it does not like that size")

class Executor(FakeExecutor):
    def new_run(self):
        return Run(self)

class Gpu:
    captured = None
    def is_on_device(self, address):
        return True

device = Device(types.SimpleNamespace(is_integrated=False, capability="9.0"), None,
                types.SimpleNamespace(pop=lambda: None), module._Calls(driver))
arena = np.zeros(1 << 16, np.uint8)
device.pin(arena)
counts = []
for _ in range(3):
    engine = TensorRTEngine(Executor(TENSORS, MAX_BATCH, compute, Gpu()), device)
    engine.prepare((1, 4))
    buffers = engine.buffers()
    assert buffers.take("raw", 0, arena.ctypes.data, 3)
    buffers.submit({"state": np.zeros((2, 1, 3), np.float32)}, 1)
    buffers.outputs()
    buffers.release()
    counts.append(alive())
    engine.close()
    assert alive() == [0, 0, 0, 0, 0, 1], alive()
device.close()
print(counts[0], counts[0] == counts[2], sum(alive()), engine.without_graphs)
"""


@needs_compiler
@needs_bindings
@pytest.mark.parametrize(
    ("fails_at", "told"),
    [
        (0, "[3, 6, 0, 6, 0, 1] True 0"),
        (4, "[3, 6, 0, 0, 0, 1] True 0 it does not like that size"),
    ],
)
def test_all_that_an_engine_has_made_goes_with_it(library: Path, fails_at: int, told: str) -> None:
    code = WITHOUT_PYCUDA + f"import types\nFAILS = {fails_at}\n" + LIFE
    path = str(Path(__file__).parents[1])
    assert run(library, code, PYTHONPATH=path).strip() == told


@needs_compiler
@needs_bindings
@pytest.mark.parametrize("fails", ["cuGraphInstantiateWithFlags=2", "cuGraphUpload=2"])
def test_a_capture_that_fails_leaves_nothing(library: Path, fails: str) -> None:
    code = """
stream = device.stream()
try:
    device.capture(stream, lambda: None)
except ApplianceError:
    print(alive())
def wrong():
    raise KeyError
try:
    device.capture(stream, wrong)
except KeyError:
    print(alive())
"""
    told = run(library, WITHOUT_PYCUDA + code, FAKE_CUDA_FAIL=fails)
    assert told == "[1, 0, 0, 0, 0, 0]\n[1, 0, 0, 0, 0, 0]"
