"""TensorRT's own runtime objects, behind `engine.Executor`. They are made in the worker only."""

from __future__ import annotations

from typing import Any

from appliance.engines.cuda.ports import Cuda, Stream
from appliance.engines.tensorrt.building import TYPES
from appliance.engines.tensorrt.flavour import INSTEAD, UNEXPLAINED, UNSUPPORTED, Flavour
from appliance.engines.tensorrt.log import error_log, last_words
from appliance.engines.tensorrt.tensors import Declared, Shapes, tensors_of
from appliance.errors import EngineError
from appliance.wire.spec import FREE

REBUILD = "build it anew: appliance models build"


class TensorRTExecutor:
    """See `engine.Executor`."""

    def __init__(self, flavour: Flavour, plan: bytes, cuda: Cuda) -> None:
        """Load an engine; the GPU's context is this thread's.

        Raises:
            EngineError: It is damaged, of another TensorRT or GPU, there is not enough memory, or
                it takes or gives what cannot be served: which, and what to do.
        """
        api = flavour.api
        self._flavour = flavour
        self._cuda = cuda
        self._log = error_log(api)
        self._runtime = api.Runtime(self._log)
        problem = flavour.problem_of(self._runtime, plan)
        if problem == UNEXPLAINED:
            self._runtime.deserialize_cuda_engine(plan)  # its log says more if that fails
        if problem:
            remedy = INSTEAD if UNSUPPORTED in problem else REBUILD
            raise EngineError(
                f"{flavour.builder} does not run this engine on a {cuda.facts.name} "
                f"({cuda.facts.capability}): {problem} ({last_words(self._log)}); {remedy}"
            )
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(
                f"{flavour.package} {flavour.version} cannot load this engine: "
                f"{last_words(self._log)}; {REBUILD}"
            )
        self._engine: Any = engine
        self._config: Any = flavour.new_runtime_config(engine)
        self._context: Any = self._new_context()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        declared = [self._declared(name) for name in names]
        self._inputs = [each.name for each in declared if each.is_input]
        self._names = names
        self.max_batch = self._most_rows()
        self.tensors = tensors_of(declared, self._shapes_of, self.max_batch)

    def _new_context(self) -> Any:
        context = self._flavour.new_context(self._engine, self._config)
        if context is None:
            free = self._cuda.free_bytes() >> 20
            raise EngineError(
                f"no execution context, {free} MiB of the GPU are free: {last_words(self._log)}"
            )
        return context

    def _declared(self, name: str) -> Declared:
        api, engine = self._flavour.api, self._engine
        dtype = TYPES.get(engine.get_tensor_dtype(name).name)
        if dtype is None:
            kind = engine.get_tensor_dtype(name).name
            raise EngineError(f"{name!r} is a {kind}; supported: {', '.join(TYPES)}")
        if engine.get_tensor_location(name) != api.TensorLocation.DEVICE:
            raise EngineError(f"{name!r} holds shapes, not data; run it on the CPU")
        return Declared(name, engine.get_tensor_mode(name) == api.TensorIOMode.INPUT, dtype)

    def _most_rows(self) -> int:
        """Return the most rows of a batch: the upper end of what the profile leaves open."""
        most = 1
        for name in self._inputs:
            least, _, largest = (
                tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, 0)
            )
            most = max(most, *(b for a, b in zip(least, largest, strict=True) if a != b), 1)
        return most

    def _shapes_of(self, size: int) -> Shapes:
        self.set_batch(size)
        missing = self._context.infer_shapes()
        if missing:
            raise EngineError(f"shapes stay open: {', '.join(missing)}; {REBUILD}")
        return {name: tuple(self._context.get_tensor_shape(name)) for name in self._names}

    def set_batch(self, size: int) -> None:
        """See `engine.Executor`."""
        for name in self._inputs:
            shape = tuple(self._engine.get_tensor_shape(name))
            if FREE not in shape:
                continue
            wanted = tuple(size if length == FREE else length for length in shape)
            if not self._context.set_input_shape(name, wanted):
                raise EngineError(
                    f"the engine refuses {name!r} of {list(wanted)}: {last_words(self._log)}"
                )

    def set_address(self, name: str, address: int) -> None:
        """See `engine.Executor`."""
        if not self._context.set_tensor_address(name, address):
            raise EngineError(f"no address for {name!r}: {last_words(self._log)}")

    def enqueue(self, stream: Stream) -> None:
        """See `engine.Executor`."""
        if not self._context.execute_async_v3(stream.handle):
            self._cuda.raise_if_lost("running a batch")
            raise EngineError(f"a batch cannot be run: {last_words(self._log)}")

    def is_capturable(self, stream: Stream) -> bool:
        """See `engine.Executor`."""
        return self._flavour.is_capturable(self._context, stream.handle)

    def renew(self) -> None:
        """See `engine.Executor`."""
        self._context = None  # first: both may not fit
        self._context = self._new_context()

    def close(self) -> None:
        """See `engine.Executor`."""
        # In this order: each lives in the one after it.
        self._context = None
        self._config = None
        self._engine = None
        self._runtime = None
