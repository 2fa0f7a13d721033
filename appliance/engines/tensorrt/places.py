"""Where the tensors of a batch lie: on the device, and in pinned memory beside it."""

from __future__ import annotations

from math import prod
from typing import Any

from attrs import define
from numpy.typing import NDArray

from appliance.engines.cuda.ports import Cuda, DeviceMemory, Stream
from appliance.engines.tensorrt.tensors import Tensor


@define(eq=False)
class Place:
    """One tensor of one set of buffers.

    Attributes:
        device: As the engine finds it.
        host: As the CPU does, flat.
        is_mapped: The two are the same memory.
    """

    tensor: Tensor
    device: DeviceMemory
    host: NDArray[Any]
    is_mapped: bool
    _cuda: Cuda

    def of_batch(self, size: int) -> NDArray[Any]:
        """Return the pinned memory as the whole tensor of a batch."""
        shape = self.tensor.of_batch(size)
        return self.host[: prod(shape)].reshape(shape)

    def of_rows(self, size: int, count: int) -> NDArray[Any]:
        """Return the first `count` rows of the whole tensor of a batch."""
        whole, axis = self.of_batch(size), self.tensor.axis
        return whole if axis is None else whole[(*(slice(None),) * axis, slice(count))]

    def bytes_of(self, size: int, count: int) -> int:
        """Return how many bytes hold the first `count` rows of a batch."""
        return self.tensor.bytes_of(count if self.tensor.axis == 0 else size)

    def bring(self, offset: int, size: int, stream: Stream) -> None:
        """Have a part copied to the device, unless it is there."""
        if not self.is_mapped:
            source = int(self.host.ctypes.data) + offset
            self._cuda.copy_in(self.device.address + offset, source, size, stream)

    def fetch(self, size: int, stream: Stream) -> None:
        """Have the beginning copied from the device, unless it is here."""
        if not self.is_mapped:
            self._cuda.copy_out(int(self.host.ctypes.data), self.device.address, size, stream)


def new_place(cuda: Cuda, tensor: Tensor, max_batch: int) -> Place:
    """Return a place for batches of up to `max_batch` rows.

    Raises:
        EngineError: There is not enough memory.
    """
    host = cuda.pinned((prod(tensor.of_batch(max_batch)),), tensor.numpy_dtype)
    is_mapped = cuda.facts.is_integrated
    device = cuda.mapped(host) if is_mapped else cuda.allocate(host.nbytes)
    return Place(tensor, device, host, is_mapped, cuda)
