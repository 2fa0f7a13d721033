"""One set of an engine's buffers: a batch is put together there, and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field
from numpy.typing import NDArray

from appliance.engines.base import Arrays
from appliance.engines.cuda.images import BatchImages
from appliance.engines.cuda.ports import Cuda, Event, Stream
from appliance.engines.tensorrt.graphs import CapturedRun
from appliance.engines.tensorrt.places import Place
from appliance.engines.tensorrt.tensors import padded, runs_of
from appliance.errors import EngineError


@define(eq=False)
class Streams:
    """Where the parts of a batch are put."""

    copy_in: Stream
    compute: Stream
    copy_out: Stream

    def wait(self) -> None:
        """Return when all that was put there is done."""
        for each in (self.copy_in, self.compute, self.copy_out):
            each.wait()

    def close(self) -> None:
        """Let them go."""
        for each in (self.copy_in, self.compute, self.copy_out):
            each.close()


@define(eq=False)
class BufferSet:
    """See `base.Buffers`.

    Args:
        run: Puts a run of this set on the compute stream, of so many rows, without a graph.

    Attributes:
        inputs, outputs_: Where tensors lie, by name.
        images: Those that the device makes, by input.
        graphs: By batch size, ascending; none: batches run as they come.
        is_free: No batch has it.
    """

    _cuda: Cuda
    _streams: Streams
    _run: Callable[[BufferSet, int], None]
    _max_batch: int
    inputs: dict[str, Place]
    outputs_: dict[str, Place]
    images: dict[str, BatchImages] = field(factory=dict[str, BatchImages], init=False)
    graphs: dict[int, CapturedRun] = field(factory=dict[int, CapturedRun], init=False)
    is_free: bool = field(default=True, init=False)
    _copied: Event = field(init=False)
    _computed: Event = field(init=False)
    _done: Event = field(init=False)
    _written: dict[str, set[int]] = field(factory=dict[str, "set[int]"], init=False)
    _size: int = field(default=0, init=False)
    _count: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        """Make the events."""
        self._copied, self._computed, self._done = (self._cuda.event() for _ in range(3))

    def take(self, name: str, position: int, address: int, size: int) -> bool:
        """See `base.Buffers`."""
        place = self.inputs[name]
        if place.is_mapped:  # one copy it takes anyway, from the arena: the CPU makes it
            return False
        if size != place.row_bytes or not self._cuda.is_pinned(address, size):
            return False
        target = place.device.address + position * size
        self._cuda.copy_in(target, address, size, self._streams.copy_in)
        self._let_go(name, position)
        return True

    def take_image(self, name: str, position: int, pixels: NDArray[Any]) -> bool:
        """See `base.Buffers`."""
        images = self.images.get(name)
        if images is None:
            return False
        self._let_go(name, position)
        return images.take(position, pixels, self._streams.copy_in)

    def place(self, name: str, position: int) -> NDArray[Any]:
        """See `base.Buffers`."""
        self._let_go(name, position)
        self._written[name].add(position)
        row: NDArray[Any] = self.inputs[name].of_batch(self._max_batch)[position, ...]
        return row

    def submit(self, inputs: Mapping[str, NDArray[Any]], count: int) -> None:
        """See `base.Buffers`."""
        try:
            self._submit(inputs, count)
        except EngineError:
            self._streams.wait()  # what was put there so far is still of these buffers
            raise

    def _submit(self, inputs: Mapping[str, NDArray[Any]], count: int) -> None:
        copy_in, compute, copy_out = (
            self._streams.copy_in,
            self._streams.compute,
            self._streams.copy_out,
        )
        self._count = count
        self._size = size = padded(count, self.graphs) if self.graphs else count
        for name, place in self.inputs.items():
            if name in inputs:
                place.of_rows(size, count)[...] = inputs[name]
                place.bring(0, place.bytes_of(size, count), copy_in)
            elif written := self._written[name]:
                row_bytes = place.tensor.bytes_of(1)
                for first, length in runs_of(sorted(at for at in written if at < count)):
                    place.bring(first * row_bytes, length * row_bytes, copy_in)
        for images in self.images.values():
            images.launch(count, copy_in)
        copy_in.record(self._copied)
        compute.wait_for(self._copied)
        if self.graphs:
            self.graphs[size].launch(compute)
        else:
            self._run(self, size)
        compute.record(self._computed)
        copy_out.wait_for(self._computed)
        for place in self.outputs_.values():
            place.fetch(place.bytes_of(size, count), copy_out)
        copy_out.record(self._done)

    def is_done(self) -> bool:
        """See `base.Buffers`."""
        return self._done.is_done()

    def outputs(self) -> Arrays:
        """See `base.Buffers`."""
        self._done.wait()
        return {
            name: place.of_rows(self._size, self._count) for name, place in self.outputs_.items()
        }

    def release(self) -> None:
        """See `base.Buffers`."""
        self._clear()
        self.is_free = True

    def acquire(self) -> None:
        """Take them for a batch."""
        self._clear()
        self.is_free = False

    def close(self) -> None:
        """Let graphs, events and memory go, when nothing of it is on its way any more."""
        self.drop_graphs()
        for each in (self._copied, self._computed, self._done):
            each.close()
        self.images.clear()
        self.inputs.clear()
        self.outputs_.clear()

    def drop_graphs(self) -> None:
        """Let the graphs go, and what they were captured of."""
        for graph in self.graphs.values():
            graph.close()
        self.graphs.clear()

    def _clear(self) -> None:
        self._written = {name: set() for name in self.inputs}
        for images in self.images.values():
            images.clear()

    def _let_go(self, name: str, position: int) -> None:
        """Forget what was to come to a place."""
        self._written[name].discard(position)
        if name in self.images:
            self.images[name].drop(position)
