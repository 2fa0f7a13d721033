"""Model descriptions as messages: for the core (`ModelReady`) and for clients (`Spec`).

A worker describes each model it loaded in `ModelReady`, under the model's own input names and with
everything admission needs. A client that asks is sent a `Spec`, under the keys it has to use, and
nothing about the inside. The other worker messages are used as protobuf messages directly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from appliance.errors import PeerProtocolError
from appliance.wire.pb import session_pb2, worker_pb2
from appliance.wire.spec import InputSpec, ModelSpec, OutputSpec
from appliance.wire.types import DType, Encoding

MAX_DATAGRAM = 1 << 17
"""Bytes of the longest message on a worker's control channel.

Below what an unprivileged SOCK_SEQPACKET socket takes at Linux's default buffer size, and above
a `Stage` of 64 rows with 32 inputs each.
"""

WORKER_PROTOCOL = 7
"""`Hello.protocol`: core and worker of different releases do not talk."""


def encode_feed(head: bytes, offset: int) -> bytes:
    """Write one feed of a `Row`: `head` is a `Feed` without its offset, or wholly `ABSENT`.

    Protobuf messages that are written one after the other merge into one when read: a row is its
    feeds, and what else it has, in a row. So a head is written once for all rows of one form.
    """
    feed = head if head is ABSENT else head + b"\x08" + encode_varint(offset)
    return b"\x0a" + encode_varint(len(feed)) + feed


def encode_rows(rows: Iterable[bytes]) -> bytes:
    """Write rows of a `Stage`."""
    return b"".join([b"\x1a" + encode_varint(len(row)) + row for row in rows])


def encode_stage(stage: worker_pb2.Stage) -> bytes:
    """Write `ToWorker(stage=stage)`, without a copy of it."""
    message = stage.SerializeToString()
    return b"\x12" + encode_varint(len(message)) + message


def feed_head(length: int, dtype: DType, encoding: Encoding, shape: tuple[int, ...]) -> bytes:
    """Write a `Feed` without its offset."""
    feed = worker_pb2.Feed(length=length, shape=shape)
    feed.dtype = dtype  # pyright: ignore[reportAttributeAccessIssue]  any int enum does
    feed.encoding = encoding  # pyright: ignore[reportAttributeAccessIssue]  as above
    return feed.SerializeToString()


ABSENT = worker_pb2.Feed(absent=True).SerializeToString()
"""The head of an optional input that was left out."""


def encode_varint(value: int) -> bytes:
    """Write a protobuf varint; `value` is not negative."""
    if value < 0x80:
        return _SMALL[value]
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = [bytes((value,)) for value in range(0x80)]


def spec_to_message(spec: ModelSpec) -> session_pb2.Spec:
    """Describe a model to a client: inputs by the key it has to send."""
    return _message(spec, [item.source for item in spec.inputs])


def spec_from_message(message: session_pb2.Spec) -> ModelSpec:
    """Read what a client was told.

    What does not travel has its default; `state_bytes` of a recurrent model is `(0,)`.

    Raises:
        PeerProtocolError: An unknown dtype or encoding, or a size that is none.
    """
    inputs = [
        InputSpec(
            name=item.key,
            source=item.key,
            dtype=_dtype(item),
            shape=tuple(item.shape),
            row_shape=tuple(item.shape),
            encodings=_encodings(item),
            optional=item.optional,
            resize=_resize(item),
        )
        for item in message.inputs
    ]
    return _spec(message, inputs, state_bytes=(0,) if message.recurrent else ())


def spec_to_ready(
    spec: ModelSpec,
    *,
    model: int,
    times_ns: Mapping[int, int],
    load_ns: int = 0,
    memory_bytes: int = 0,
    is_urgent: bool = False,
    without_graphs: str = "",
    images_on_cpu: str = "",
) -> worker_pb2.ModelReady:
    """Describe a loaded model to the core.

    Args:
        spec: The model.
        model: Its index on this channel.
        times_ns: Batch size to measured nanoseconds.
        load_ns: How long it took until it was ready, measuring aside.
        memory_bytes: What it takes, of the GPU or of the process.
        is_urgent: Its batches run beside those of other models, and before them.
        without_graphs: Why they are not run as CUDA graphs; empty: they are, or there is no GPU.
        images_on_cpu: Why the GPU does not preprocess its images; empty: it does all it is to.
    """
    return worker_pb2.ModelReady(
        model=model,
        spec=_message(spec, [item.name for item in spec.inputs]),
        times=[
            worker_pb2.BatchTime(batch_size=size, ns=ns) for size, ns in sorted(times_ns.items())
        ],
        output_bytes_per_row=spec.output_bytes_per_row,
        state_bytes=spec.state_bytes,
        load_ns=load_ns,
        memory_bytes=memory_bytes,
        urgent=is_urgent,
        without_graphs=without_graphs,
        images_on_cpu=images_on_cpu,
        limits=[
            worker_pb2.InputLimit(
                source=item.source,
                row_shape=item.row_shape,
                max_pixels=item.max_pixels,
                max_samples=item.max_samples,
                max_bytes=item.max_bytes,
            )
            for item in spec.inputs
        ],
    )


def spec_from_ready(ready: worker_pb2.ModelReady) -> ModelSpec:
    """Read what `spec_to_ready` wrote, without loss.

    Raises:
        PeerProtocolError: An unknown dtype or encoding, a size that is none, or not one limit for
            each input.
    """
    message = ready.spec
    if len(ready.limits) != len(message.inputs):
        raise PeerProtocolError(
            f"model {message.model_id}: {len(message.inputs)} inputs, {len(ready.limits)} limits"
        )
    inputs = [
        InputSpec(
            name=item.key,
            source=limit.source,
            dtype=_dtype(item),
            shape=tuple(item.shape),
            row_shape=tuple(limit.row_shape),
            encodings=_encodings(item),
            optional=item.optional,
            max_pixels=limit.max_pixels,
            max_samples=limit.max_samples,
            max_bytes=limit.max_bytes,
            resize=_resize(item),
        )
        for item, limit in zip(message.inputs, ready.limits, strict=True)
    ]
    return _spec(
        message,
        inputs,
        state_bytes=tuple(ready.state_bytes),
        output_bytes_per_row=ready.output_bytes_per_row,
    )


def times_from_ready(ready: worker_pb2.ModelReady) -> dict[int, int]:
    """Batch size to measured nanoseconds."""
    return {time.batch_size: time.ns for time in ready.times}


def _message(spec: ModelSpec, keys: Sequence[str]) -> session_pb2.Spec:
    return session_pb2.Spec(
        model_id=spec.model_id,
        version=spec.version,
        hash=spec.hash,
        inputs=[
            session_pb2.TensorSpec(
                key=key,
                dtype=cast("session_pb2.DType", item.dtype),
                shape=item.shape,
                encodings=cast("tuple[session_pb2.Encoding, ...]", item.encodings),
                optional=item.optional,
                resize=item.resize,
            )
            for key, item in zip(keys, spec.inputs, strict=True)
        ],
        outputs=[
            session_pb2.TensorSpec(
                key=item.name, dtype=cast("session_pb2.DType", item.dtype), shape=item.shape
            )
            for item in spec.outputs
        ],
        max_batch=spec.max_batch,
        horizon=spec.horizon,
        step_period_us=spec.step_period_us,
        recurrent=spec.recurrent,
    )


def _spec(
    message: session_pb2.Spec,
    inputs: Iterable[InputSpec],
    *,
    state_bytes: tuple[int, ...],
    output_bytes_per_row: int = 0,
) -> ModelSpec:
    return ModelSpec(
        model_id=message.model_id,
        version=message.version,
        inputs=tuple(inputs),
        outputs=tuple(
            OutputSpec(name=item.key, dtype=_dtype(item), shape=tuple(item.shape))
            for item in message.outputs
        ),
        max_batch=message.max_batch,
        output_bytes_per_row=output_bytes_per_row,
        state_bytes=state_bytes,
        horizon=message.horizon,
        step_period_us=message.step_period_us,
        hash=message.hash,
    )


def _dtype(item: session_pb2.TensorSpec) -> DType:
    try:
        return DType(item.dtype)
    except ValueError:
        raise PeerProtocolError(f"spec of {item.key!r}: unknown dtype {item.dtype}") from None


def _encodings(item: session_pb2.TensorSpec) -> tuple[Encoding, ...]:
    try:
        return tuple(Encoding(encoding) for encoding in item.encodings)
    except ValueError:
        raise PeerProtocolError(
            f"spec of {item.key!r}: unknown encodings {list(item.encodings)}"
        ) from None


def _resize(item: session_pb2.TensorSpec) -> tuple[int, ...]:
    size = tuple(item.resize)
    if size and (len(size) != 2 or 0 in size):
        raise PeerProtocolError(f"spec of {item.key!r}: resize {list(size)} is no height and width")
    return size
