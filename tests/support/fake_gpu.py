"""A GPU of numpy: what is put on a stream is done later, in any order that its events allow.

Device memory is memory of this process, so addresses are real. An integrated one finds host memory
at other addresses than the CPU does, and copies nothing. Nothing happens but when somebody asks or
waits: then some of what could be done next is done, drawn at random.
"""

from __future__ import annotations

import ctypes
import mmap
import random
from collections import deque
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from attrs import define, field
from numpy.typing import NDArray

from appliance.engines.cuda.ports import DeviceFacts
from appliance.engines.tensorrt.tensors import Tensor
from appliance.errors import DeviceLost, EngineError
from support.kernel_on_cpu import loaded

Work = Callable[[], object]
"""Something to do; it cannot be done yet if it returns `NOT_YET`."""
NOT_YET = object()
MREMAP_MAYMOVE = 1
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mremap.restype = ctypes.c_void_p
FACTS = DeviceFacts(
    ordinal=0,
    name="Fake GPU",
    capability="9.0",
    driver="13.0",
    memory_bytes=1 << 33,
    is_integrated=False,
)


class Mark:
    """One recording of an event."""

    is_done = False


@define(eq=False)
class FakeMemory:
    address: int
    bytes: int
    owner: object


@define(eq=False)
class FakeEvent:
    gpu: FakeCuda
    mark: Mark | None = None

    @property
    def is_closed(self) -> bool:
        return self not in self.gpu.held

    def is_done(self) -> bool:
        self.gpu.on_query()
        self.gpu.step(self.gpu.random.randrange(4))
        return self.mark is None or self.mark.is_done

    def wait(self) -> None:
        assert not self.is_closed
        while self.mark is not None and not self.mark.is_done:
            assert self.gpu.step(1), "waits for ever"

    def close(self) -> None:
        assert self.mark is None or self.mark.is_done
        self.gpu.let_go(self)


@define(eq=False)
class FakeStream:
    gpu: FakeCuda
    handle: int
    works: deque[Work | Mark] = field(factory=deque)

    @property
    def is_ready(self) -> bool:
        if not self.works:
            return False
        first = self.works[0]
        return first.is_done if isinstance(first, Mark) else True

    def put(self, work: Work) -> None:
        if self.gpu.captured is not None:
            self.gpu.captured.append(work)
        else:
            self.works.append(work)

    def record(self, event: FakeEvent) -> None:
        mark = event.mark = Mark()

        def done() -> None:
            mark.is_done = True

        self.put(done)

    def wait_for(self, event: FakeEvent) -> None:
        if event.mark is not None:
            self.works.append(event.mark)

    def wait(self) -> None:
        while self.works:
            assert self.gpu.step(1), "waits for ever"

    def close(self) -> None:
        assert not self.works
        self.gpu.let_go(self)


@define(eq=False)
class FakeGraph:
    gpu: FakeCuda
    works: list[Work]

    def launch(self, stream: FakeStream) -> None:
        assert self in self.gpu.held
        for work in self.works:
            stream.put(work)

    def close(self) -> None:
        self.gpu.let_go(self)


@define(eq=False)
class FakeKernel:
    gpu: FakeCuda
    library: ctypes.CDLL

    def launch(
        self,
        blocks: tuple[int, int, int],
        threads: tuple[int, int, int],
        arguments: Sequence[NDArray[Any]],
        stream: FakeStream,
    ) -> None:
        assert self.gpu.captured is None
        given = [each.copy() for each in arguments]  # read at once
        pointers = (ctypes.c_void_p * len(given))(*(each.ctypes.data for each in given))
        self.gpu.launches.append((blocks, threads))

        def run() -> None:
            assert self.gpu.is_on_device(int(given[0]["batch"][0]))
            assert self.gpu.is_on_device(int(given[1][0]))
            sizes = [(ctypes.c_uint * 3)(*size) for size in (blocks, threads)]
            self.library.launch(*sizes, pointers)

        stream.put(run)


@define(eq=False)
class FakeCuda:
    """See `cuda.ports.Cuda`.

    Attributes:
        captured: What is being captured.
        on_query: Called when somebody asks whether a batch is done; may raise.
        can_pin: Whether memory can be pinned.
        no_kernel: Raised by who asks for a kernel.
        lost: Raised by who asks whether the context is lost.
        launches: Blocks and threads of every kernel.
        held: Streams, events and graphs that were not let go.
    """

    random: random.Random
    facts: DeviceFacts = FACTS
    captured: list[Work] | None = None
    on_query: Callable[[], None] = lambda: None
    can_pin: bool = True
    no_kernel: Exception | None = None
    lost: DeviceLost | None = None
    launches: list[tuple[tuple[int, int, int], tuple[int, int, int]]] = field(factory=list)
    held: list[FakeStream | FakeEvent | FakeGraph] = field(factory=list)
    _streams: list[FakeStream] = field(factory=list)
    _pins: dict[int, int] = field(factory=dict)
    _own: list[NDArray[np.uint8]] = field(factory=list)
    _memory: list[FakeMemory] = field(factory=list)
    _aliases: dict[int, int] = field(factory=dict)

    def step(self, count: int) -> bool:
        """Do some of what can be done next; return whether that was so much."""
        for _ in range(count):
            ready = [stream for stream in self._streams if stream.is_ready]
            if not ready:
                return False
            works = self.random.choice(ready).works
            work = works.popleft()
            if not isinstance(work, Mark) and work() is NOT_YET:
                works.appendleft(work)
        return True

    def free_bytes(self) -> int:
        return 1 << 32

    def allocate(self, size: int) -> FakeMemory:
        made = np.full(size, 0x7F, np.uint8)  # what is not written is not zero
        self._memory.append(FakeMemory(made.ctypes.data, size, made))
        return self._memory[-1]

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        size = max(prod(shape) * dtype.itemsize, 1)
        made = np.frombuffer(mmap.mmap(-1, size), np.uint8)
        self._own.append(made)
        return made[: prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    def pin(self, memory: NDArray[np.uint8]) -> bool:
        if self.can_pin:
            self._pins[memory.ctypes.data] = memory.nbytes
        return self.can_pin

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        assert not any(stream.works for stream in self._streams), "it may still be read"
        if not self.can_pin:
            return
        size = self._pins.pop(memory.ctypes.data)
        alias = self._aliases.pop(memory.ctypes.data, None)
        if alias is not None:
            LIBC.munmap(ctypes.c_void_p(alias), ctypes.c_size_t(size))
            self._memory = [each for each in self._memory if each.owner != alias]

    def is_pinned(self, address: int, size: int) -> bool:
        return any(
            start <= address and address + size <= start + length
            for start, length in self._pins.items()
        )

    def mapped(self, memory: NDArray[Any]) -> FakeMemory:
        assert self._is_reachable(memory.ctypes.data, memory.nbytes)
        own = {each.ctypes.data: each.nbytes for each in self._own}
        start, size = next(
            (start, size)
            for start, size in [*self._pins.items(), *own.items()]
            if start <= memory.ctypes.data < start + size
        )
        alias = self._aliases.get(start)
        if alias is None:  # the same pages a second time: what `mremap` does of no old bytes
            alias = self._aliases[start] = LIBC.mremap(
                ctypes.c_void_p(start), ctypes.c_size_t(0), ctypes.c_size_t(size), MREMAP_MAYMOVE
            )
            assert alias != ctypes.c_void_p(-1).value
            self._memory.append(FakeMemory(alias, size, alias))
        return FakeMemory(alias + memory.ctypes.data - start, memory.nbytes, memory)

    def is_on_device(self, address: int) -> bool:
        """Return whether the device has something there."""
        return any(each.address <= address < each.address + each.bytes for each in self._memory)

    def stream(self, *, is_urgent: bool = False) -> FakeStream:
        self._streams.append(FakeStream(self, len(self._streams) + 1))
        self.held.append(self._streams[-1])
        return self._streams[-1]

    def event(self) -> FakeEvent:
        made = FakeEvent(self)
        self.held.append(made)
        return made

    def let_go(self, what: FakeStream | FakeEvent | FakeGraph) -> None:
        """Let one of `held` go, which may be done once."""
        self.held.remove(what)

    def copy_in(self, target: int, source: int, size: int, stream: FakeStream) -> None:
        assert self._is_reachable(source, size)
        assert self.is_on_device(target)
        assert not self.facts.is_integrated
        stream.put(lambda: ctypes.memmove(target, source, size))

    def copy_out(self, target: int, source: int, size: int, stream: FakeStream) -> None:
        assert self._is_reachable(target, size)
        assert self.is_on_device(source)
        assert not self.facts.is_integrated
        stream.put(lambda: ctypes.memmove(target, source, size))

    def kernel(self, text: str, name: str) -> FakeKernel:
        if self.no_kernel is not None:
            raise self.no_kernel
        assert name == "preprocess"
        return FakeKernel(self, loaded(text))

    def capture(self, stream: FakeStream, work: Work) -> FakeGraph:
        self.captured = []
        try:
            work()
            graph = FakeGraph(self, self.captured)
        finally:
            self.captured = None
        self.held.append(graph)
        return graph

    def raise_if_lost(self, doing: str) -> None:
        if self.lost is not None:
            raise self.lost

    def close(self) -> None:
        assert not any(stream.works for stream in self._streams), "something is left undone"

    def _is_reachable(self, address: int, size: int) -> bool:
        return self.is_pinned(address, size) or any(
            each.ctypes.data <= address and address + size <= each.ctypes.data + each.nbytes
            for each in self._own
        )


Compute = Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]


@define(eq=False)
class FakeExecutor:
    """See `ports.Executor`: computes with numpy, from and to device addresses.

    Attributes:
        capturable: What its runs say of themselves.
        is_wrong_when_captured: A captured run gives something else.
        fails_at: Batch size that cannot be run; 0: none.
        is_held: Whether it cannot go on yet, with these inputs.
    """

    tensors: Sequence[Tensor]
    max_batch: int
    compute: Compute
    gpu: FakeCuda
    capturable: bool = True
    is_wrong_when_captured: bool = False
    fails_at: int = 0
    is_held: Callable[[dict[str, NDArray[Any]]], bool] = lambda _: False
    kept: int = 0
    is_closed: bool = False

    def new_run(self) -> FakeRun:
        return FakeRun(self)

    def keep_compiled(self) -> None:
        self.kept += 1

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


@define(eq=False)
class FakeRun:
    """See `ports.Run`. Once it was captured, nothing of it may be changed."""

    executor: FakeExecutor
    _is_captured: bool = False
    _batch: int = 0
    _addresses: dict[str, int] = field(factory=dict)

    def set_batch(self, size: int) -> None:
        assert 1 <= size <= self.executor.max_batch
        assert not self._is_captured
        self._batch = size

    def set_address(self, name: str, address: int) -> None:
        assert self.executor.gpu.is_on_device(address)
        assert not self._is_captured
        self._addresses[name] = address

    def enqueue(self, stream: FakeStream) -> None:
        executor = self.executor
        assert not self._is_captured
        if self._batch == executor.fails_at:
            raise EngineError("it does not like that size")
        self._is_captured = executor.gpu.captured is not None
        off = self._is_captured and executor.is_wrong_when_captured
        batch, addresses = self._batch, dict(self._addresses)

        def run() -> object:
            arrays = {t.name: _at(addresses[t.name], t, batch) for t in executor.tensors}
            inputs = {t.name: arrays[t.name] for t in executor.tensors if t.is_input}
            if executor.is_held(inputs):
                return NOT_YET
            for name, value in executor.compute(inputs).items():
                arrays[name][...] = value + 1 if off else value
            return None

        stream.put(run)

    def is_capturable(self, stream: FakeStream) -> bool:
        return self.executor.capturable


def _at(address: int, tensor: Tensor, batch: int) -> NDArray[Any]:
    shape = tensor.of_batch(batch)
    memory = (ctypes.c_uint8 * (prod(shape) * tensor.numpy_dtype.itemsize)).from_address(address)
    return np.frombuffer(memory, tensor.numpy_dtype).reshape(shape)
