"""Makes an engine out of an ONNX file. Blocking, for seconds to minutes; one at a time.

The engine takes batches of 1 to `max_batch` rows, tuned for full ones. Everything but the batch is
fixed: dimensions that the file leaves open are as the manifest has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from appliance.engines.tensorrt.flavour import Flavour
from appliance.engines.tensorrt.log import MOST_TOLD, error_log, last_words
from appliance.engines.tensorrt.precision import in_precision
from appliance.engines.tensorrt.progress import BuildProgress
from appliance.errors import ConfigError, EngineError
from appliance.models.manifest import Precision, WarmUp
from appliance.models.plans import Resolved, Signature, TensorSignature
from appliance.wire.spec import FREE
from appliance.wire.types import DType

TYPES: Mapping[str, DType] = {
    "FLOAT": DType.FLOAT32,
    "HALF": DType.FLOAT16,
    "BF16": DType.BFLOAT16,
    "INT8": DType.INT8,
    "UINT8": DType.UINT8,
    "INT32": DType.INT32,
    "INT64": DType.INT64,
    "BOOL": DType.BOOL,
}

NO_MEMORY = ("bad_alloc", "out of memory")
"""Of TensorRT's last words, where the machine or the GPU had too little of it."""


class BuildCancelled(Exception):
    """Whoever waited for it wants it no more.

    Attributes:
        timings: As `Built.timings`, of the parts that were come to.
    """

    def __init__(self, timings: bytes) -> None:
        super().__init__("the build was cancelled")
        self.timings = timings


Profile = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Of each input its least, usual and largest shape."""


@frozen
class Built:
    """An engine, and what was learnt of how long its parts take, to build the next one sooner.

    Attributes:
        timings: Nothing, where the flavour keeps none.
    """

    engine: bytes
    timings: bytes


class Network:
    """A parsed ONNX file.

    Attributes:
        signature: What it takes and gives, by its own word.
    """

    def __init__(self, flavour: Flavour, path: Path, precision: Precision = "fp32") -> None:
        """Parse it.

        Args:
            precision: What its float32 becomes.

        Raises:
            EngineError: It cannot be read or converted, or holds what TensorRT has no operator for:
                which.
            ExtraMissing: What converts it is not installed.
        """
        api = flavour.api
        self._flavour = flavour
        self._precision: Precision = precision
        self._log = error_log(api)
        self._builder = api.Builder(self._log)
        self._network = self._builder.create_network(flavour.network_flags())
        parser = api.OnnxParser(self._network, self._log)
        with in_precision(path, precision) as file:
            # By its path, so that weights in files beside it are found.
            is_parsed = parser.parse_from_file(str(file))
        if not is_parsed:
            raise EngineError(f"{path}: TensorRT cannot build it: {_why(parser)}")
        if not self._network.num_outputs:
            raise EngineError(f"{path}: TensorRT cannot build it: it gives nothing")
        inputs = [self._network.get_input(index) for index in range(self._network.num_inputs)]
        outputs = [self._network.get_output(index) for index in range(self._network.num_outputs)]
        self.signature = Signature(
            inputs=tuple(_tensor(path, tensor) for tensor in inputs),
            outputs=tuple(_tensor(path, tensor) for tensor in outputs),
        )

    def build(
        self,
        profile: Profile,
        capabilities: Sequence[str],
        timings: bytes,
        on_progress: Callable[[str, float], None],
        is_wanted: Callable[[], bool],
    ) -> Built:
        """Build an engine.

        Args:
            capabilities: Compute capabilities to build for; none: see `Flavour.prepare`.
            timings: Of an earlier build with the same TensorRT for the same device; may be empty.
            on_progress: Told what is done, and how far it is, 0 to 1.
            is_wanted: Asked at each step; once it says no, the build ends.

        Raises:
            BuildCancelled: It was wanted no more.
            EngineError: It cannot be built: why, by TensorRT's own last words.
        """
        api = self._flavour.api
        config = self._builder.create_builder_config()
        self._flavour.prepare(config, capabilities, self._precision)
        ranges = self._builder.create_optimization_profile()
        for index in range(self._network.num_inputs):
            tensor = self._network.get_input(index)
            least, usual, most = profile[tensor.name]
            ranges.set_shape(tensor.name, least, usual, most)
            # What does not differ is fixed: a file may give one name to open dimensions that do.
            tensor.shape = [a if a == b else FREE for a, b in zip(least, most, strict=True)]
        config.add_optimization_profile(ranges)
        cache = None
        if self._flavour.keeps_timings:
            cache = config.create_timing_cache(timings)
            config.set_timing_cache(cache, ignore_mismatch=False)
        if self._flavour.reports_progress:
            config.progress_monitor = _monitor(api, on_progress, is_wanted)
        plan = self._builder.build_serialized_network(self._network, config)
        timed = bytes(cache.serialize()) if cache is not None else b""
        if not is_wanted():
            raise BuildCancelled(timed)
        if plan is None:
            words = last_words(self._log)
            if any(each in words.lower() for each in NO_MEMORY):
                words = f"there is not enough memory, stop what else takes some ({words})"
            raise EngineError(f"TensorRT built nothing: {words}")
        return Built(bytes(plan), timed)


def profile_of(resolved: Resolved, signature: Signature, warmup: WarmUp) -> Profile:
    """Return what an engine of a model has to take: batches up to the largest, nothing else open.

    Raises:
        ConfigError: The manifest leaves a dimension open, too.
    """
    rows = {plan.spec.name: plan.spec.row_shape for plan in resolved.inputs}
    axes = dict.fromkeys(rows, 0)
    for state in resolved.states:
        rows[state.input], axes[state.input] = state.shape, state.axis
    return {
        tensor.name: _range(
            tensor,
            warmup.shapes.get(tensor.name, rows[tensor.name]),
            axes[tensor.name],
            resolved.spec.max_batch,
        )
        for tensor in signature.inputs or ()
    }


def _range(
    tensor: TensorSignature, row: tuple[int, ...], axis: int, max_batch: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    if FREE in row:
        raise ConfigError(
            f"warmup.shapes.{tensor.name}: is missing; the model leaves {list(row)} open, and an "
            "engine is built for one shape"
        )

    def shape(batch: int) -> tuple[int, ...]:
        whole = row if axis < 0 else (*row[:axis], batch, *row[axis:])
        return tuple(
            size if found == FREE else found
            for found, size in zip(tensor.shape, whole, strict=True)
        )

    return shape(1), shape(max_batch), shape(max_batch)


def _tensor(path: Path, tensor: Any) -> TensorSignature:
    dtype = TYPES.get(tensor.dtype.name)
    if dtype is None:
        raise EngineError(
            f"{path}: {tensor.name!r} is a {tensor.dtype.name}; supported: {', '.join(TYPES)}"
        )
    return TensorSignature(tensor.name, dtype, tuple(tensor.shape))


def _why(parser: Any) -> str:
    """Return what a parser says is wrong: of operators that it does not know, each once."""
    said: list[str] = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        operator, node = _said(error, "node_operator"), _said(error, "node_name")
        where = f"operator {operator}" if operator else ""
        name = f" of node {node!r}" if node else ""
        text = f"{where}{name}: {error.desc()}" if where else error.desc()
        if text not in said:
            said.append(text)
    more = f"; and {len(said) - MOST_TOLD} more" if len(said) > MOST_TOLD else ""
    return "; ".join(said[:MOST_TOLD]) + more


def _said(error: Any, what: str) -> str:
    """Return what a parser's error says; nothing, if this TensorRT does not have that."""
    method = getattr(error, what, None)
    return method() if method is not None else ""


def _monitor(
    api: Any, on_progress: Callable[[str, float], None], is_wanted: Callable[[], bool]
) -> Any:
    class Monitor(api.IProgressMonitor):
        """Hears of each step, and may end the build."""

        def __init__(self) -> None:
            super().__init__()  # pyright: ignore[reportUnknownMemberType]
            self.progress = BuildProgress()

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            """Hear of a phase."""
            self.progress.started(name, parent, steps)
            self._tell()

        def step_complete(self, name: str, step: int) -> bool:
            """Hear of a step; return whether to go on."""
            self.progress.stepped(name, step)
            self._tell()
            return is_wanted()

        def phase_finish(self, name: str) -> None:
            """Hear of a phase's end."""
            self.progress.finished(name)
            self._tell()

        def _tell(self) -> None:
            on_progress(self.progress.step, self.progress.fraction)

    return Monitor()
