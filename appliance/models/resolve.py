"""Joins a manifest with what the engine says of its model, and checks that the two agree.

PURE. Called by a worker for each model it loads: for a python model twice, since what it gives is
known only once it has run.
"""

from __future__ import annotations

from math import prod

from appliance.errors import ConfigError
from appliance.models.inputs import input_plan
from appliance.models.manifest import NO_AXIS, Input, Manifest, State, dtype_named
from appliance.models.plans import (
    InputPlan,
    Resolved,
    Signature,
    StatePlan,
    TensorSignature,
)
from appliance.models.shapes import (
    ALIGNMENT,
    aligned,
    check_batch_dimension,
    disagreement,
    merged_shape,
)
from appliance.wire.spec import FREE, ModelSpec, OutputSpec, with_hash
from appliance.wire.types import ITEM_BYTES, DType

DEFAULT_MAX_BATCH = 8


def resolve(
    manifest: Manifest,
    signature: Signature,
    name: str,
    version: str,
    *,
    where: str = "model.toml",
) -> Resolved:
    """Make the full description of a model version.

    Args:
        where: The manifest's path, for messages.

    Raises:
        ConfigError: The manifest and the model disagree, or leave something open: which key, what
            was found, what is allowed.
    """
    try:
        return _resolve(manifest, signature, name, version)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _resolve(manifest: Manifest, signature: Signature, name: str, version: str) -> Resolved:
    states = {state.input: state for state in manifest.state}
    max_batch = _max_batch(manifest, signature)
    plans = [
        input_plan(item, found, max_batch)
        for item, found in _matched_inputs(manifest, signature, states)
    ]
    state_plans = tuple(_state_plan(state, signature, max_batch) for state in manifest.state)
    outputs = _outputs(manifest, signature, max_batch)
    chunk = manifest.chunk
    spec = ModelSpec(
        model_id=name,
        version=version,
        inputs=tuple(plan.spec for plan in plans),
        outputs=outputs,
        max_batch=max_batch,
        output_bytes_per_row=_output_bytes(manifest, outputs),
        state_bytes=tuple(plan.bytes for plan in state_plans),
        horizon=chunk.horizon if chunk else 0,
        step_period_us=round(chunk.step_period_ms * 1000) if chunk else 0,
    )
    return Resolved(
        spec=with_hash(spec),
        inputs=tuple(plans),
        states=state_plans,
        buckets=_buckets(manifest, max_batch, plans),
    )


def _max_batch(manifest: Manifest, signature: Signature) -> int:
    """Return what the manifest says, or what the model's batch dimension allows."""
    axes = {state.input: state.batch_axis for state in manifest.state}
    fixed = NO_AXIS in axes.values()
    for tensor in signature.inputs or ():
        axis = axes.get(tensor.name, 0)
        if len(tensor.shape) > axis >= 0:
            fixed = fixed or tensor.shape[axis] != FREE
    if manifest.max_batch is not None:
        return manifest.max_batch
    return 1 if fixed else DEFAULT_MAX_BATCH


def _matched_inputs(
    manifest: Manifest, signature: Signature, states: dict[str, State]
) -> list[tuple[Input, TensorSignature | None]]:
    """Pair what the manifest says of each input with what the model says of it."""
    said = {item.name: item for item in manifest.inputs}
    if signature.inputs is None:
        if not said:
            raise ConfigError("inputs: are missing; a python model cannot say what it takes")
        return [(item, None) for item in manifest.inputs]
    names = [tensor.name for tensor in signature.inputs]
    for key, name in [("inputs", name) for name in said] + [("state", name) for name in states]:
        if name not in names:
            raise ConfigError(f"{key}: found {name!r}; the model's inputs are {_listed(names)}")
    return [
        (said.get(tensor.name, Input(name=tensor.name)), tensor)
        for tensor in signature.inputs
        if tensor.name not in states
    ]


def _state_plan(state: State, signature: Signature, max_batch: int) -> StatePlan:
    key = f"state.{state.input}"
    if state.batch_axis == NO_AXIS and max_batch != 1:
        raise ConfigError(
            f"{key}.batch_axis: found -1 (no batch dimension); then max_batch must be 1, "
            f"not {max_batch}"
        )
    shape = state.shape
    dtype = dtype_named(state.dtype) if state.dtype else None
    if signature.inputs is not None:
        tensor = next(tensor for tensor in signature.inputs if tensor.name == state.input)
        shape = _state_shape(state, tensor, max_batch)
        if dtype not in (None, tensor.dtype):
            raise disagreement(f"{key}.dtype", state.dtype, tensor.dtype.name.lower())
        dtype = tensor.dtype
    if shape is None or dtype is None:
        raise ConfigError(
            f"{key}: shape and dtype are missing; a python model cannot say what its state is"
        )
    if dtype in (DType.STRING, DType.BFLOAT16):
        raise ConfigError(f"{key}.dtype: found {dtype.name.lower()}; allowed: numbers of numpy's")
    return StatePlan(
        input=state.input, output=state.output, dtype=dtype, shape=shape, axis=state.batch_axis
    )


def _state_shape(state: State, tensor: TensorSignature, max_batch: int) -> tuple[int, ...]:
    """Return one row of a state, without the batch dimension."""
    key = f"state.{state.input}"
    shape = tensor.shape
    if state.batch_axis != NO_AXIS:
        if state.batch_axis >= len(shape):
            raise ConfigError(
                f"{key}.batch_axis: found {state.batch_axis}; the model's shape is {list(shape)}"
            )
        check_batch_dimension(key, shape[state.batch_axis], max_batch)
        shape = shape[: state.batch_axis] + shape[state.batch_axis + 1 :]
    if state.shape is not None:
        shape = merged_shape(f"{key}.shape", state.shape, shape)
    if FREE in shape:
        raise ConfigError(
            f"{key}.shape: is missing; the model leaves it open: {list(shape)} for one row"
        )
    return shape


def _outputs(manifest: Manifest, signature: Signature, max_batch: int) -> tuple[OutputSpec, ...]:
    """Return what clients get: every output that is not a state."""
    if signature.outputs is None:
        return ()
    names = [tensor.name for tensor in signature.outputs]
    fed_back = {state.output for state in manifest.state}
    for name in sorted(fed_back.difference(names)):
        raise ConfigError(f"state: found output {name!r}; the model's outputs are {_listed(names)}")
    outputs: list[OutputSpec] = []
    for tensor in signature.outputs:
        if tensor.name in fed_back:
            continue
        if not tensor.shape:
            raise ConfigError(f"output {tensor.name!r} has no batch dimension; it is one number")
        check_batch_dimension(f"output {tensor.name!r}", tensor.shape[0], max_batch)
        outputs.append(OutputSpec(tensor.name, tensor.dtype, tensor.shape[1:]))
    return tuple(outputs)


def _output_bytes(manifest: Manifest, outputs: tuple[OutputSpec, ...]) -> int:
    """Return an upper bound for one row's outputs, padding included."""
    open_ones = [
        output for output in outputs if output.dtype is DType.STRING or FREE in output.shape
    ]
    if open_ones or (not outputs and manifest.output_bytes):
        if manifest.output_bytes is None:
            output = open_ones[0]
            raise ConfigError(
                f"output_bytes: is missing; the size of output {output.name!r} is open "
                f"({output.dtype.name.lower()} {list(output.shape)} for one row), "
                "so an upper bound in bytes is needed"
            )
        return aligned(manifest.output_bytes) + ALIGNMENT * len(outputs)
    exact = sum(aligned(prod(output.shape) * ITEM_BYTES[output.dtype]) for output in outputs)
    return max(exact, ALIGNMENT)


def _buckets(manifest: Manifest, max_batch: int, plans: list[InputPlan]) -> tuple[int, ...]:
    unknown = sorted(set(manifest.warmup.shapes).difference(plan.spec.name for plan in plans))
    if unknown:
        raise ConfigError(f"warmup.shapes: found {unknown[0]!r}, which is no input")
    if manifest.buckets:
        if max(manifest.buckets) > max_batch:
            raise ConfigError(
                f"buckets: found {max(manifest.buckets)}; at most max_batch, {max_batch}"
            )
        return tuple(sorted(set(manifest.buckets)))
    return tuple(sorted({1 << power for power in range(max_batch.bit_length())} | {max_batch}))


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
