"""What an engine sees of a GPU. Used from one thread.

Work is put on streams and done later, in order within each stream. Addresses are integers, as CUDA
and TensorRT have them; whoever puts a copy on a stream keeps both its ends alive until it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from attrs import frozen
from numpy.typing import NDArray


@frozen(kw_only=True)
class DeviceFacts:
    """What a GPU is.

    Attributes:
        capability: Its compute capability, such as "9.0".
        driver: The newest CUDA that the driver knows.
        memory_bytes: All that it has.
        is_integrated: It shares its memory with the CPU, as on a Jetson.
    """

    ordinal: int
    name: str
    capability: str
    driver: str
    memory_bytes: int
    is_integrated: bool


class Event(Protocol):
    """A place on a stream: what was put there before it was recorded."""

    def is_done(self) -> bool:
        """Return whether the device has come past it; True, if it was never recorded."""
        ...

    def wait(self) -> None:
        """Return when it has, asleep meanwhile."""
        ...

    def close(self) -> None:
        """Let it go."""
        ...


class Stream(Protocol):
    """Things that the device does one after the other.

    Attributes:
        handle: As TensorRT wants it.
    """

    handle: int

    def record(self, event: Event) -> None:
        """Put an event on it."""
        ...

    def wait_for(self, event: Event) -> None:
        """Let what comes after this wait until the device has come past the event."""
        ...

    def wait(self) -> None:
        """Return when all of it is done."""
        ...

    def close(self) -> None:
        """Let it go."""
        ...


class Graph(Protocol):
    """Captured work: the same kernels on the same addresses, again and again."""

    def launch(self, stream: Stream) -> None:
        """Put all of it on a stream."""
        ...

    def close(self) -> None:
        """Let it go, when nothing of it is on its way any more."""
        ...


Size = tuple[int, int, int]
"""In x, y and z."""


class Kernel(Protocol):
    """A function that runs on the device, in many threads."""

    def launch(
        self, blocks: Size, threads: Size, arguments: Sequence[NDArray[Any]], stream: Stream
    ) -> None:
        """Put a run on a stream.

        Args:
            blocks: How many.
            threads: Of each block.
            arguments: The bytes of each are one parameter, read at once.
        """
        ...


class DeviceMemory(Protocol):
    """Memory of the device.

    Attributes:
        address: Where it begins.
        bytes: Its size.
    """

    address: int
    bytes: int


class Cuda(Protocol):
    """One GPU, and this process's context on it.

    Every method raises EngineError if the call fails, and DeviceLost if the process has to end.
    """

    facts: DeviceFacts

    def free_bytes(self) -> int:
        """Return how much device memory is free."""
        ...

    def allocate(self, size: int) -> DeviceMemory:
        """Return device memory, all zeros. It is given back when nobody refers to it."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return host memory that the device reads and writes directly, all zeros."""
        ...

    def pin(self, memory: NDArray[np.uint8]) -> bool:
        """Let the device read memory of this process directly, until `unpin`.

        Returns:
            False: it cannot; then copies from there take a detour.
        """
        ...

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        """Take `pin` back, before the memory goes; nothing happens if it was refused."""
        ...

    def is_pinned(self, address: int, size: int) -> bool:
        """Return whether the device reads all of these bytes directly, thanks to `pin`."""
        ...

    def mapped(self, memory: NDArray[Any]) -> DeviceMemory:
        """Return where the device finds what `pinned` gave, or a part of what `pin` was given.

        Nothing is copied: what one of the two writes, the other reads.
        """
        ...

    def stream(self, *, is_urgent: bool = False) -> Stream:
        """Return a stream that waits for no other; kernels of an urgent one come first."""
        ...

    def event(self) -> Event:
        """Return an event."""
        ...

    def copy_in(self, target: int, source: int, size: int, stream: Stream) -> None:
        """Put a copy from host to device on a stream."""
        ...

    def copy_out(self, target: int, source: int, size: int, stream: Stream) -> None:
        """Put a copy from device to host on a stream."""
        ...

    def kernel(self, text: str, name: str) -> Kernel:
        """Return a kernel.

        Args:
            text: CUDA C, which is compiled if it was not yet.

        Raises:
            ExtraMissing: What compiles it is not installed.
        """
        ...

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Return what `work` puts on the stream, as a graph; nothing of it is done."""
        ...

    def raise_if_lost(self, doing: str) -> None:
        """Raise DeviceLost if the context is, after a failure that does not say so itself.

        Waits for all that is on the device.

        Args:
            doing: What has failed, in words.
        """
        ...

    def close(self) -> None:
        """Leave the context; nothing that came from here may be used any more."""
        ...
