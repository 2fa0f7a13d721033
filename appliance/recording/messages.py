"""From what was taken down to the messages of `proto/recording.proto`. Pure; not for the hot path.

An observation's envelope is copied into its message as it came, byte for byte, and so are the
headers of outputs: both were written as protobuf before.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError, Message

from appliance.recording.buffers import Record
from appliance.wire.checks import MAX_ENVELOPE_BYTES
from appliance.wire.pb import recording_pb2, session_pb2
from appliance.wire.worker import encode_varint


class Topic(enum.IntEnum):
    """Kinds of records; each has its topic in the file."""

    OBSERVATIONS = 0
    OUTCOMES = 1
    BATCHES = 2
    WORKERS = 3
    DROPPED = 4

    @property
    def path(self) -> str:
        """Its name in the file."""
        return f"/{self.name.lower()}"


MESSAGES: dict[Topic, type[Message]] = {
    Topic.OBSERVATIONS: recording_pb2.Observation,
    Topic.OUTCOMES: recording_pb2.Outcome,
    Topic.BATCHES: recording_pb2.Batch,
    Topic.WORKERS: recording_pb2.Worker,
    Topic.DROPPED: recording_pb2.Dropped,
}

_ENVELOPE, _PAYLOAD = b"\x1a", b"\x22"  # tags: fields 3 and 4
_COMPRESSED_IMAGES = {session_pb2.JPEG, session_pb2.PNG}


def schema(topic: Topic) -> tuple[str, bytes]:
    """Return name and definition of a topic's message: a FileDescriptorSet with what it imports."""
    descriptor = MESSAGES[topic].DESCRIPTOR
    files = FileDescriptorSet()

    def add(file: Any) -> None:  # of whichever protobuf runtime there is
        for needed in file.dependencies:
            add(needed)
        if all(known.name != file.name for known in files.file):
            file.CopyToProto(files.file.add())

    add(descriptor.file)
    return descriptor.full_name, files.SerializeToString()


def encode(record: Record, *, images: bool) -> bytes:
    """Return a record's message."""
    kind, at_ns, _, fields = record
    if kind == Topic.OBSERVATIONS:
        return _observation(at_ns, fields, images=images)
    return _ENCODERS[kind](at_ns, *fields).SerializeToString()


def _observation(at_ns: int, fields: tuple[Any, ...], *, images: bool) -> bytes:
    session, envelope, payload, length, omitted = fields
    found = parse(envelope)
    if not images and not omitted:
        payload, omitted = without_images(found, payload)
    head = recording_pb2.Observation(
        session=session, received_ns=at_ns, payload_bytes=length, omitted=omitted
    )
    if found is None:
        head.unreadable = envelope
        envelope = b""
    return b"".join(
        [
            head.SerializeToString(),
            *((_ENVELOPE, encode_varint(len(envelope)), envelope) if found is not None else ()),
            *((_PAYLOAD, encode_varint(len(payload)), payload) if len(payload) else ()),
        ]
    )


def parse(envelope: bytes) -> session_pb2.Observation | None:
    """Return an envelope's message, if it is one."""
    if len(envelope) > MAX_ENVELOPE_BYTES:
        return None
    message = session_pb2.Observation()
    try:
        message.ParseFromString(envelope)
    except (DecodeError, UnicodeDecodeError):  # the second: protobuf's pure Python runtime
        return None
    return message


def without_images(
    message: session_pb2.Observation | None, payload: bytes | memoryview
) -> tuple[bytes | memoryview, tuple[str, ...]]:
    """Return a payload without its images, tensor by tensor, and their keys.

    An image is what is compressed as one, or raw uint8 of two or more dimensions. Of what nobody
    can read, nothing is left.
    """
    if message is None:
        return b"", ()
    images = [tensor for tensor in message.tensors if _is_image(tensor)]
    if not images:
        return payload, ()
    kept = [tensor for tensor in message.tensors if not _is_image(tensor)]
    if sum(tensor.byte_length for tensor in kept) > len(payload):
        kept = []  # they overlap, as no valid observation's do
    view = memoryview(payload)
    parts = [view[t.byte_offset : t.byte_offset + t.byte_length] for t in kept]
    return b"".join(parts), tuple(tensor.key for tensor in images)


def _is_image(tensor: session_pb2.Tensor) -> bool:
    if tensor.encoding in _COMPRESSED_IMAGES:
        return True
    raw = tensor.encoding in (session_pb2.ENCODING_UNSPECIFIED, session_pb2.RAW)
    return raw and tensor.dtype == session_pb2.UINT8 and len(tensor.shape) >= 2


def _outcome(
    at_ns: int,
    about: tuple[Any, ...],
    ended: tuple[Any, ...],
    timing: tuple[int, int, int, int, int],
    headers: bytes,
    payload: bytes,
) -> recording_pb2.Outcome:
    session, client, model, version, sequence, timestamp_ns, episode, received_ns = about
    outcome, message, late, slack_us, batch_id, row, omitted = ended
    queue_us, batch_us, execute_us, total_us, batch_size = timing
    made = recording_pb2.Outcome(
        session=session,
        client=client,
        model_id=model,
        model_version=version,
        sequence=sequence,
        timestamp_ns=timestamp_ns,
        episode=episode,
        received_ns=received_ns,
        ended_ns=at_ns,
        outcome=outcome,
        message=message,
        late=late,
        slack_us=slack_us,
        batch_id=batch_id,
        row=row,
        payload=payload,
        payload_omitted=omitted,
    )
    made.timing.queue_us = max(0, queue_us)
    made.timing.batch_us = batch_us
    made.timing.execute_us = execute_us
    made.timing.total_us = total_us
    made.timing.batch_size = batch_size
    made.MergeFromString(headers)
    return made


def _batch(
    at_ns: int, about: tuple[Any, ...], end: int, times: tuple[int, ...], failed: int, error: str
) -> recording_pb2.Batch:
    number, model, version, worker, generation, rows, expected_ns = about
    staged_ns, started_ns, finished_ns, batch_us, execute_us = times
    made = recording_pb2.Batch(
        id=number,
        model_id=model,
        model_version=version,
        worker=worker,
        generation=generation,
        rows=rows,
        staged_ns=staged_ns,
        started_ns=started_ns,
        finished_ns=max(0, finished_ns),
        ended_ns=at_ns,
        expected_us=max(0, expected_ns) // 1000,
        batch_us=batch_us,
        execute_us=execute_us,
        failed_rows=failed,
        error=error,
    )
    made.end = end  # pyright: ignore[reportAttributeAccessIssue]  an enum's number
    return made


def _worker(
    at_ns: int, worker: str, generation: int, event: int, model: str, message: str
) -> recording_pb2.Worker:
    made = recording_pb2.Worker(
        at_ns=at_ns, worker=worker, generation=generation, model_id=model, message=message
    )
    made.event = event  # pyright: ignore[reportAttributeAccessIssue]  an enum's number
    return made


def _dropped(at_ns: int, messages: int, size: int) -> recording_pb2.Dropped:
    return recording_pb2.Dropped(at_ns=at_ns, messages=messages, bytes=size)


_ENCODERS: dict[int, Callable[..., Message]] = {
    Topic.OUTCOMES: _outcome,
    Topic.BATCHES: _batch,
    Topic.WORKERS: _worker,
    Topic.DROPPED: _dropped,
}
