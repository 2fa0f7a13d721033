"""Where the tensors of a batch lie: on the device, and in pinned memory beside it."""

from __future__ import annotations

from math import prod
from typing import Any

from attrs import define, field
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
        row_bytes: Of a row, where the batch comes first.
    """

    tensor: Tensor
    device: DeviceMemory
    host: NDArray[Any]
    is_mapped: bool
    _cuda: Cuda
    row_bytes: int = field(init=False)
    _address: int = field(init=False)
    _views: dict[tuple[int, int], NDArray[Any]] = field(
        factory=dict[tuple[int, int], "NDArray[Any]"], init=False
    )
    _bytes: dict[int, int] = field(factory=dict[int, int], init=False)

    def __attrs_post_init__(self) -> None:
        """Note what asking numpy each time would take microseconds."""
        self.row_bytes = self.tensor.bytes_of(1)
        self._address = int(self.host.ctypes.data)

    def of_batch(self, size: int) -> NDArray[Any]:
        """Return the pinned memory as the whole tensor of a batch."""
        return self.of_rows(size, size)

    def of_rows(self, size: int, count: int) -> NDArray[Any]:
        """Return the first `count` rows of the whole tensor of a batch."""
        view = self._views.get((size, count))
        if view is None:
            shape, axis = self.tensor.of_batch(size), self.tensor.axis
            view = self.host[: prod(shape)].reshape(shape)
            if axis is not None:
                view = view[(*(slice(None),) * axis, slice(count))]
            self._views[size, count] = view
        return view

    def bytes_of(self, size: int, count: int) -> int:
        """Return how many bytes hold the first `count` rows of a batch."""
        rows = count if self.tensor.axis == 0 else size
        found = self._bytes.get(rows)
        if found is None:
            found = self._bytes[rows] = self.tensor.bytes_of(rows)
        return found

    def bring(self, offset: int, size: int, stream: Stream) -> None:
        """Have a part copied to the device, unless it is there."""
        if not self.is_mapped:
            target, source = self.device.address + offset, self._address + offset
            self._cuda.copy_in(target, source, size, stream)

    def fetch(self, size: int, stream: Stream) -> None:
        """Have the beginning copied from the device, unless it is here."""
        if not self.is_mapped:
            self._cuda.copy_out(self._address, self.device.address, size, stream)


def new_place(cuda: Cuda, tensor: Tensor, max_batch: int) -> Place:
    """Return a place for batches of up to `max_batch` rows.

    Raises:
        EngineError: There is not enough memory.
    """
    host = cuda.pinned((prod(tensor.of_batch(max_batch)),), tensor.numpy_dtype)
    is_mapped = cuda.facts.is_integrated
    device = cuda.mapped(host) if is_mapped else cuda.allocate(host.nbytes)
    return Place(tensor, device, host, is_mapped, cuda)
