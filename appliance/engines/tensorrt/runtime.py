"""TensorRT's own runtime objects, behind `ports.Executor`. They are made in the worker only.

Contexts of an engine share the memory between its layers, as they never run at the same time.
TensorRT of before 8.6 has one context only: graphs are all captured of it (`ports.Executor`).
TensorRT for RTX compiles kernels when a context first meets a shape; what it compiled, it finds
again in the cache that all contexts of an engine have, and the next process in the one that was
kept. Nothing of this was run on a GPU; names and calls are those of the installed packages.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from attrs import define

from appliance.engines.cuda.ports import Cuda, DeviceMemory, Stream
from appliance.engines.tensorrt.building import TYPES
from appliance.engines.tensorrt.flavour import DOUBTFUL, Flavour
from appliance.engines.tensorrt.log import error_log, last_words
from appliance.engines.tensorrt.remedies import remedy_of
from appliance.engines.tensorrt.tensors import Declared, Shapes, tensors_of
from appliance.errors import EngineError
from appliance.wire.spec import FREE


@define(eq=False)
class TensorRTRun:
    """See `ports.Run`."""

    _flavour: Flavour
    _cuda: Cuda
    _log: Any
    _open_shapes: dict[str, tuple[int, ...]]  # of inputs
    context: Any

    def set_batch(self, size: int) -> None:
        """See `ports.Run`."""
        for name, shape in self._open_shapes.items():
            wanted = tuple(size if length == FREE else length for length in shape)
            if not self.context.set_input_shape(name, wanted):
                raise EngineError(
                    f"the engine refuses {name!r} of {list(wanted)}: {last_words(self._log)}"
                )

    def set_address(self, name: str, address: int) -> None:
        """See `ports.Run`."""
        if not self.context.set_tensor_address(name, address):
            raise EngineError(f"no address for {name!r}: {last_words(self._log)}")

    def enqueue(self, stream: Stream) -> None:
        """See `ports.Run`."""
        if not self.context.execute_async_v3(stream.handle):
            self._cuda.raise_if_lost("running a batch")
            raise EngineError(f"a batch cannot be run: {last_words(self._log)}")

    def is_capturable(self, stream: Stream) -> bool:
        """See `ports.Run`."""
        return self._flavour.is_capturable(self.context, stream.handle)


class TensorRTExecutor:
    """See `ports.Executor`."""

    def __init__(
        self,
        flavour: Flavour,
        plan: bytes,
        cuda: Cuda,
        compiled: bytes = b"",
        keep: Callable[[bytes], None] = lambda _: None,
        *,
        rebuild: str,
    ) -> None:
        """Load an engine; the GPU's context is this thread's.

        Args:
            compiled: What `keep` was given last; nothing: all is compiled anew.
            keep: Keeps what was compiled.
            rebuild: What to do, to have it built anew.

        Raises:
            EngineError: It is damaged, of another TensorRT or GPU, there is not enough memory, or
                it takes or gives what cannot be served: which, and what to do.
        """
        api = flavour.api
        self._flavour = flavour
        self._cuda = cuda
        self._rebuild = rebuild
        self._log = error_log(api)
        self._runtime: Any = api.Runtime(self._log)
        engine = self._load(plan)
        self._engine: Any = engine
        self._compiled, self._keep = compiled, keep
        # Each has to live as long as the context, or the cache, that was made with it.
        self._configs: list[Any] = [flavour.new_runtime_config(engine, None)]
        self._cache: Any = flavour.new_compilation_cache(self._configs[0], compiled)
        # All of the memory that a context needs for the largest shapes.
        self._memory: DeviceMemory | None = cuda.allocate(flavour.context_bytes(engine))
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        declared = [self._declared(name) for name in names]
        self._inputs = [each.name for each in declared if each.is_input]
        self._names = names
        self.max_batch = self._most_rows()
        first = self._new_run()
        self.tensors = tensors_of(declared, self._shapes_of(first), self.max_batch)
        has_more = flavour.shares_profiles
        self._only: TensorRTRun | None = None if has_more else first
        self._unused: TensorRTRun | None = first if has_more else None

    def _load(self, plan: bytes) -> Any:
        flavour, cuda = self._flavour, self._cuda
        problem = flavour.problem_of(self._runtime, plan)
        engine: Any = None
        if not problem or problem in DOUBTFUL:
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is not None:
            if problem:
                said = f"{flavour.builder} says {problem} of this engine, and loads it all the same"
                print(said, file=sys.stderr)  # noqa: T201  it is logged
            return engine
        words = last_words(self._log)
        if not problem:
            raise EngineError(
                f"{flavour.package} {flavour.version} cannot load this engine: {words}; "
                f"{self._rebuild}"
            )
        remedy = remedy_of(
            problem,
            cuda=cuda.facts.driver,
            free_mib=cuda.free_bytes() >> 20,
            rebuild=self._rebuild,
        )
        raise EngineError(
            f"{flavour.builder} does not run this engine on a {cuda.facts.name} "
            f"({cuda.facts.capability}): {problem} ({words}); {remedy}"
        )

    def new_run(self) -> TensorRTRun:
        """See `ports.Executor`."""
        if self._only is not None:
            return self._only
        run, self._unused = self._unused or self._new_run(), None
        return run

    def _new_run(self) -> TensorRTRun:
        flavour, engine, memory = self._flavour, self._engine, self._memory
        assert memory is not None
        config = flavour.new_runtime_config(engine, self._cache)
        context = flavour.new_context(engine, config)
        if context is None:
            free = self._cuda.free_bytes() >> 20
            raise EngineError(
                f"no execution context, {free} MiB of the GPU are free: {last_words(self._log)}"
            )
        flavour.give_memory(context, memory.address, memory.bytes)
        shapes = {name: tuple(engine.get_tensor_shape(name)) for name in self._inputs}
        shapes = {name: shape for name, shape in shapes.items() if FREE in shape}
        self._configs.append(config)
        return TensorRTRun(flavour, self._cuda, self._log, shapes, context)

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

    def _shapes_of(self, run: TensorRTRun) -> Callable[[int], Shapes]:
        def shapes_of(size: int) -> Shapes:
            run.set_batch(size)
            missing = run.context.infer_shapes()
            if missing:
                raise EngineError(f"shapes stay open: {', '.join(missing)}; {self._rebuild}")
            return {name: tuple(run.context.get_tensor_shape(name)) for name in self._names}

        return shapes_of

    def keep_compiled(self) -> None:
        """See `ports.Executor`."""
        if self._cache is None:
            return
        compiled = bytes(self._cache.serialize() or b"")
        if compiled and compiled != self._compiled:
            self._compiled = compiled
            self._keep(compiled)

    def close(self) -> None:
        """See `ports.Executor`."""
        # In this order: each lives in the one after it.
        self._only = self._unused = None
        self._configs.clear()
        self._cache = None
        self._memory = None
        self._engine = None
        self._runtime = None
