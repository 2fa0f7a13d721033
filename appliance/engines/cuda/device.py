"""The real GPU: see `ports` for what each method means. Imports pycuda and cuda-bindings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, cast

import numpy as np
from attrs import define, field
from numpy.typing import NDArray

from appliance.engines.cuda.compiler import compiled
from appliance.engines.cuda.driver import find_device
from appliance.engines.cuda.failures import STICKY, fail
from appliance.engines.cuda.ports import (
    DeviceFacts,
    DeviceMemory,
    Event,
    Graph,
    Kernel,
    Size,
    Stream,
)
from appliance.errors import DeviceLost, DeviceMissing, EngineError, ExtraMissing

PYCUDA, BINDINGS = "pycuda.driver", "cuda.bindings.driver"
INSTALL = "pip install 'appliance[gpu]' brings pycuda (built with NVIDIA's nvcc) and cuda-bindings"
_ONE_MORE = 1
"""Byte: an allocation of nothing is an error."""


class _Calls:
    """cuda-bindings, with errors raised.

    Attributes:
        api: Its module.
    """

    def __init__(self, api: Any) -> None:
        self.api = api
        self._not_ready = api.CUresult.CUDA_ERROR_NOT_READY

    def check(self, result: tuple[Any, ...], doing: str) -> Any:
        """Return what a call gave.

        Raises:
            EngineError, DeviceLost: It failed.
        """
        code = result[0]
        if code:
            fail(code.name, int(code), doing)
        return result[1] if len(result) == 2 else result[1:]

    def is_ready(self, result: tuple[Any, ...], doing: str) -> bool:
        """Return what a query gave.

        Raises:
            EngineError, DeviceLost: What was asked after failed.
        """
        code = result[0]
        if code and code != self._not_ready:
            fail(code.name, int(code), doing)
        return not code

    def raise_if_lost(self, doing: str) -> None:
        """Ask the context itself, after a failure that was told in words, or not at all.

        Raises:
            DeviceLost: No call on it will succeed any more.
        """
        (code,) = self.api.cuCtxSynchronize()
        if code and code.name in STICKY:
            fail(code.name, int(code), doing)


@define(eq=False)
class _Event:
    _calls: _Calls
    native: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        flags = self._calls.api.CUevent_flags
        # Waiting sleeps; who wants to spin asks `is_done`. Times are not kept: that costs a little.
        wanted = int(flags.CU_EVENT_BLOCKING_SYNC) | int(flags.CU_EVENT_DISABLE_TIMING)
        self.native = self._calls.check(self._calls.api.cuEventCreate(wanted), "making an event")

    def is_done(self) -> bool:
        return self._calls.is_ready(self._calls.api.cuEventQuery(self.native), "running a batch")

    def wait(self) -> None:
        self._calls.check(self._calls.api.cuEventSynchronize(self.native), "running a batch")

    def close(self) -> None:
        self._calls.check(self._calls.api.cuEventDestroy(self.native), "letting an event go")


@define(eq=False)
class _Stream:
    _calls: _Calls
    _priority: int
    native: Any = field(init=False)
    handle: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        api = self._calls.api
        self.native = self._calls.check(
            api.cuStreamCreateWithPriority(
                int(api.CUstream_flags.CU_STREAM_NON_BLOCKING), self._priority
            ),
            "making a stream",
        )
        self.handle = int(self.native)

    def record(self, event: Event) -> None:
        native = cast("_Event", event).native
        self._calls.check(self._calls.api.cuEventRecord(native, self.native), "recording an event")

    def wait_for(self, event: Event) -> None:
        native = cast("_Event", event).native
        self._calls.check(
            self._calls.api.cuStreamWaitEvent(self.native, native, 0), "waiting for an event"
        )

    def wait(self) -> None:
        self._calls.check(self._calls.api.cuStreamSynchronize(self.native), "waiting for a stream")

    def close(self) -> None:
        self._calls.check(self._calls.api.cuStreamDestroy(self.native), "letting a stream go")


@define(eq=False)
class _Graph:
    _calls: _Calls
    _native: Any

    def launch(self, stream: Stream) -> None:
        self._calls.check(
            self._calls.api.cuGraphLaunch(self._native, cast("_Stream", stream).native),
            "launching a graph",
        )

    def close(self) -> None:
        self._calls.check(self._calls.api.cuGraphExecDestroy(self._native), "letting a graph go")


@define(eq=False)
class _Kernel:
    _calls: _Calls
    _native: Any
    _module: Any  # which it lives in

    def launch(
        self, blocks: Size, threads: Size, arguments: Sequence[NDArray[Any]], stream: Stream
    ) -> None:
        addresses = np.array([each.ctypes.data for each in arguments], np.uint64)
        native = cast("_Stream", stream).native
        self._calls.check(
            self._calls.api.cuLaunchKernel(
                self._native, *blocks, *threads, 0, native, addresses.ctypes.data, 0
            ),
            "launching a kernel",
        )


@define(eq=False)
class _Memory:
    address: int
    bytes: int
    _owner: Any


@define(eq=False)
class Device:
    """See `ports.Cuda`. The context is pushed once, in the thread that makes this."""

    facts: DeviceFacts
    _pycuda: Any
    _context: Any
    _calls: _Calls
    _pins: dict[int, int] = field(factory=dict[int, int], init=False)
    _modules: dict[str, Any] = field(factory=dict[str, Any], init=False)

    def free_bytes(self) -> int:
        """See `ports.Cuda`."""
        free, _ = self._py(self._pycuda.mem_get_info, doing="asking for free memory")
        return int(free)

    def allocate(self, size: int) -> DeviceMemory:
        """See `ports.Cuda`."""
        wanted = max(size, _ONE_MORE)
        made = self._py(self._pycuda.mem_alloc, wanted, doing=f"allocating {wanted} bytes")
        api = self._calls.api
        self._calls.check(api.cuMemsetD8(int(made), 0, wanted), "clearing memory")
        # It may still be under way, on the default stream, which ours do not wait for.
        self._calls.check(
            api.cuStreamSynchronize(api.CU_STREAM_LEGACY), "waiting until memory is clear"
        )
        return _Memory(int(made), wanted, made)

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """See `ports.Cuda`."""
        kinds = self._pycuda.host_alloc_flags
        made = self._py(
            self._pycuda.pagelocked_empty,
            max(int(np.prod(shape)) * dtype.itemsize, _ONE_MORE),
            np.uint8,
            mem_flags=int(kinds.PORTABLE) | int(kinds.DEVICEMAP),
            doing=f"allocating pinned memory of {list(shape)}",
        )
        made[...] = 0
        if 0 in shape:
            return np.zeros(shape, dtype)
        return made.view(dtype).reshape(shape)

    def pin(self, memory: NDArray[np.uint8]) -> bool:
        """See `ports.Cuda`."""
        address, size = int(memory.ctypes.data), memory.nbytes
        api = self._calls.api
        flags = api.CU_MEMHOSTREGISTER_PORTABLE | api.CU_MEMHOSTREGISTER_DEVICEMAP
        try:
            self._calls.check(api.cuMemHostRegister(address, size, flags), "registering memory")
        except EngineError as error:
            print(f"memory is not pinned, copies are slower: {error}", file=sys.stderr)  # noqa: T201
            return False
        self._pins[address] = size
        return True

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        """See `ports.Cuda`."""
        address = int(memory.ctypes.data)
        if self._pins.pop(address, None) is not None:
            self._calls.check(self._calls.api.cuMemHostUnregister(address), "unregistering memory")

    def is_pinned(self, address: int, size: int) -> bool:
        """See `ports.Cuda`."""
        for start, length in self._pins.items():  # for every row: `any` takes twice as long
            if start <= address and address + size <= start + length:
                return True
        return False

    def mapped(self, memory: NDArray[Any]) -> DeviceMemory:
        """See `ports.Cuda`."""
        address, size = int(memory.ctypes.data), memory.nbytes
        if not size:
            return self.allocate(0)
        starts = (
            start
            for start, length in self._pins.items()
            if start <= address and address + size <= start + length
        )
        start = next(starts, address)
        found = self._calls.check(
            self._calls.api.cuMemHostGetDevicePointer(start, 0), "asking where memory is mapped"
        )
        return _Memory(int(found) + address - start, size, memory)

    def stream(self, *, is_urgent: bool = False) -> Stream:
        """See `ports.Cuda`."""
        # Lower numbers come first; the least urgent is 0.
        _, greatest = self._calls.check(
            self._calls.api.cuCtxGetStreamPriorityRange(), "asking for priorities"
        )
        return _Stream(self._calls, int(greatest) if is_urgent else 0)

    def event(self) -> Event:
        """See `ports.Cuda`."""
        return _Event(self._calls)

    def copy_in(self, target: int, source: int, size: int, stream: Stream) -> None:
        """See `ports.Cuda`."""
        native = cast("_Stream", stream).native
        self._calls.check(
            self._calls.api.cuMemcpyHtoDAsync(target, source, size, native), "copying in"
        )

    def copy_out(self, target: int, source: int, size: int, stream: Stream) -> None:
        """See `ports.Cuda`."""
        native = cast("_Stream", stream).native
        self._calls.check(
            self._calls.api.cuMemcpyDtoHAsync(target, source, size, native), "copying out"
        )

    def kernel(self, text: str, name: str) -> Kernel:
        """See `ports.Cuda`."""
        api = self._calls.api
        if text not in self._modules:
            image = compiled(text, self.facts.capability)
            self._modules[text] = self._calls.check(api.cuModuleLoadData(image), "loading a kernel")
        module = self._modules[text]
        function = self._calls.check(
            api.cuModuleGetFunction(module, name.encode()), f"looking for the kernel {name}"
        )
        return _Kernel(self._calls, function, module)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """See `ports.Cuda`."""
        api, native = self._calls.api, cast("_Stream", stream).native
        # Thread-local: what other threads of this process do meanwhile is none of its business.
        mode = api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._calls.check(api.cuStreamBeginCapture(native, mode), "beginning a capture")
        try:
            work()
        except BaseException:  # why it failed is on its way already
            code, unfinished = api.cuStreamEndCapture(native)
            if not code and int(unfinished):
                api.cuGraphDestroy(unfinished)
            raise
        graph = self._calls.check(api.cuStreamEndCapture(native), "ending a capture")
        try:
            made = self._calls.check(api.cuGraphInstantiate(graph, 0), "instantiating a graph")
        finally:
            api.cuGraphDestroy(graph)
        captured = _Graph(self._calls, made)
        try:
            self._calls.check(api.cuGraphUpload(made, native), "uploading a graph")
        except EngineError:
            captured.close()
            raise
        return captured

    def raise_if_lost(self, doing: str) -> None:
        """See `ports.Cuda`."""
        self._calls.raise_if_lost(doing)

    def close(self) -> None:
        """See `ports.Cuda`."""
        for address in self._pins:
            self._calls.api.cuMemHostUnregister(address)
        self._pins.clear()
        for module in self._modules.values():
            self._calls.api.cuModuleUnload(module)
        self._modules.clear()
        # What is left on pycuda's stack of contexts at the end makes it abort the process.
        self._context.pop()

    def _py(self, call: Callable[..., Any], *arguments: Any, doing: str, **options: Any) -> Any:
        """Return what a call of pycuda gives.

        Raises:
            EngineError, DeviceLost: It failed.
        """
        return _translated(self._pycuda, self._calls, lambda: call(*arguments, **options), doing)


def open_device(ordinal: int = 0) -> Device:
    """Take a GPU's primary context, and make it this thread's.

    Raises:
        DeviceMissing: There is no such GPU, or its context cannot be had.
        ExtraMissing: pycuda or cuda-bindings is not installed.
    """
    found = find_device(ordinal)
    pycuda, calls = _imported(PYCUDA), _Calls(_imported(BINDINGS))
    try:
        context = _translated(pycuda, calls, lambda: _pushed(pycuda, ordinal), "taking the context")
    except (EngineError, DeviceLost) as error:
        raise DeviceMissing(f"GPU {ordinal}, {found.name}, cannot be used: {error}") from error
    device = pycuda.Device(ordinal)
    facts = DeviceFacts(
        ordinal=ordinal,
        name=found.name,
        capability=found.capability,
        driver=found.driver,
        memory_bytes=int(device.total_memory()),
        is_integrated=bool(device.get_attribute(pycuda.device_attribute.INTEGRATED)),
    )
    return Device(facts, pycuda, context, calls)


def _pushed(pycuda: Any, ordinal: int) -> Any:
    pycuda.init()
    context = pycuda.Device(ordinal).retain_primary_context()
    context.push()
    return context


def _translated(pycuda: Any, calls: _Calls, call: Callable[[], Any], doing: str) -> Any:
    """Return what a call of pycuda gives, with its errors as ours.

    pycuda's errors say in words which one it was: "cuMemAlloc failed: out of memory". What kernels
    did that ran before may come as any kind of them.
    """
    try:
        return call()
    except pycuda.MemoryError:
        calls.raise_if_lost(doing)
        fail("CUDA_ERROR_OUT_OF_MEMORY", 2, doing)
    except pycuda.Error as error:
        calls.raise_if_lost(doing)
        raise EngineError(f"{error} while {doing}") from error


def _imported(name: str) -> Any:
    package = name.partition(".")[0]
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ExtraMissing(f"{name} is not installed: {INSTALL}") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceMissing(f"{package} is installed, and cannot be used: {error}") from error
