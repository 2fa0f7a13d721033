"""CUDA graphs of an engine, one for each batch size and set of buffers, captured and tried.

A graph is what its execution context was when it was captured: shapes, addresses, and where the
engine keeps what lies between its layers. TensorRT's documentation has one context for each graph,
and one memory for all: so the context of a graph is never changed again. TensorRT of before 8.6 has
but one: there graphs outlive changes of it, which is documented nowhere, so it is the more tried:
all graphs are replayed after the last one was captured, in no order, before any is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define
from numpy.typing import NDArray

from appliance.engines.base import Arrays
from appliance.engines.cuda.ports import Cuda, Graph, Stream
from appliance.engines.tensorrt.places import Place
from appliance.engines.tensorrt.ports import Executor, Run
from appliance.errors import EngineError

if TYPE_CHECKING:
    from appliance.engines.tensorrt.buffers import BufferSet

REPLAY_TOLERANCE = 1e-2
"""A graph's outputs beside those of a run without it, as a part of the largest value.
The kernels are the same, so they are equal, but where a kernel adds up in no fixed order."""
_SEED = 0


@define(eq=False)
class CapturedRun:
    """A graph, and the execution context that it is of."""

    _graph: Graph
    _run: Run | None

    def launch(self, stream: Stream) -> None:
        """Put a run on a stream."""
        self._graph.launch(stream)

    def close(self) -> None:
        """Let both go, the graph first."""
        self._graph.close()
        self._run = None


def bind(run: Run, buffers: BufferSet) -> None:
    """Let a run read and write a set of buffers."""
    for place in (*buffers.inputs.values(), *buffers.outputs_.values()):
        run.set_address(place.tensor.name, place.device.address)


def capture(
    executor: Executor, sets: Sequence[BufferSet], sizes: Sequence[int], cuda: Cuda, stream: Stream
) -> None:
    """Capture batches of all sizes in each set, and compare each graph with a run without it.

    A graph has to read and write anew: it is captured with nothing but zeros in the inputs, and
    replayed with other numbers, over outputs that are all wrong.

    Args:
        sizes: Ascending.
        stream: That of the runs.

    Raises:
        EngineError: One cannot be captured, or gives something else.
        DeviceLost: The process has to end.
    """
    random = np.random.default_rng(_SEED)
    given = [_drawn(buffers, random) for buffers in sets]
    expected: list[tuple[int, int, dict[str, NDArray[Any]]]] = []
    for size in sizes:
        for index, buffers in enumerate(sets):
            run = executor.new_run()
            run.set_batch(size)
            bind(run, buffers)
            _bring(buffers.inputs, given[index], stream)
            # Not captured: TensorRT does what the new shapes need done once.
            run.enqueue(stream)
            expected.append((index, size, _fetch(buffers, size, stream)))
            _bring(buffers.inputs, None, stream)
            if not run.is_capturable(stream):
                raise EngineError(f"TensorRT cannot have batches of {size} captured")
            graph = cuda.capture(stream, lambda run=run: run.enqueue(stream))
            buffers.graphs[size] = CapturedRun(graph, run)
    for buffers, values in zip(sets, given, strict=True):
        _bring(buffers.inputs, values, stream)
    order: list[int] = random.permutation(len(expected)).tolist()
    for index, size, wanted in (expected[at] for at in order):
        _check(sets[index], size, wanted, stream)


def _check(buffers: BufferSet, size: int, wanted: Arrays, stream: Stream) -> None:
    wrong = {name: inverted(array).ravel() for name, array in wanted.items()}
    _bring(buffers.outputs_, wrong, stream)
    buffers.graphs[size].launch(stream)
    for name, found in _fetch(buffers, size, stream).items():
        if not agree(found, wanted[name]):
            raise EngineError(
                f"the graph of batches of {size} gives another {name!r} than a run without it"
            )


def _bring(places: Mapping[str, Place], values: Arrays | None, stream: Stream) -> None:
    """Write tensors, from flat arrays of as much as is to be written; None: all zeros."""
    for name, place in places.items():
        part = place.host if values is None else place.host[: values[name].size]
        part[...] = 0 if values is None else values[name]
        place.bring(0, part.nbytes, stream)
    stream.wait()


def _fetch(buffers: BufferSet, size: int, stream: Stream) -> dict[str, NDArray[Any]]:
    for place in buffers.outputs_.values():
        place.fetch(place.tensor.bytes_of(size), stream)
    stream.wait()
    return {name: place.of_batch(size).copy() for name, place in buffers.outputs_.items()}


def _drawn(buffers: BufferSet, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Return made-up inputs of a whole batch, flat."""
    return {
        name: (
            random.standard_normal(place.host.shape).astype(place.host.dtype)
            if place.host.dtype.kind == "f"
            else random.integers(0, 2, place.host.shape).astype(place.host.dtype)  # maybe indices
        )
        for name, place in buffers.inputs.items()
    }


def inverted(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of which no value agrees: every bit is another, of floats the sign too."""
    if array.dtype.kind == "b":
        return ~array
    return (~array.view(f"u{array.itemsize}")).view(array.dtype)


def agree(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    """Return whether outputs are the same, within `REPLAY_TOLERANCE`."""
    if wanted.dtype.kind != "f":
        return np.array_equal(found, wanted)
    scale = float(np.max(np.abs(wanted), initial=0.0, where=np.isfinite(wanted)))
    return np.allclose(
        found.astype(np.float64),
        wanted.astype(np.float64),
        rtol=0.0,
        atol=REPLAY_TOLERANCE * scale,
        equal_nan=True,
    )
