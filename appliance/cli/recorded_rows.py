"""Rows out of a recording, for a model to be verified with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.admission.tensors import match
from appliance.engines.samples import Sample
from appliance.engines.verification import Row
from appliance.errors import RecordingError, Rejected
from appliance.recording.messages import Topic
from appliance.recording.reader import RecordingReader
from appliance.wire.checks import BadObservation
from appliance.wire.pb import recording_pb2, session_pb2
from appliance.wire.session import decode_observation
from appliance.wire.spec import ModelSpec

MOST_ROWS = 256


def recorded_rows(path: Path, model: str) -> Callable[[ModelSpec], Sequence[Row]]:
    """Return what gives the first rows that a model was asked, of the shape it was asked most."""

    def rows(spec: ModelSpec) -> Sequence[Row]:
        """Return them.

        Raises:
            RecordingError: The recording cannot be read, or has none of this model.
        """
        by_shape: dict[tuple[tuple[int, ...], ...], list[Row]] = defaultdict(list)
        for entry in RecordingReader(path).entries():
            if entry.topic is not Topic.OBSERVATIONS:
                continue
            message = entry.read(recording_pb2.Observation)
            envelope = message.envelope
            if envelope.kind != session_pb2.OBSERVE or envelope.model_id != model:
                continue
            try:
                observation = decode_observation(
                    envelope.SerializeToString(), message.payload_bytes
                )
                feeds, shapes = match(spec, observation, memoryview(message.payload))
            except (BadObservation, Rejected):
                continue  # it was refused then, too, or its images were left out
            by_shape[shapes].append(
                [
                    None
                    if feed.data is None
                    else Sample(bytes(feed.data), feed.dtype, feed.encoding, feed.shape)
                    for feed in feeds
                ]
            )
            if len(by_shape[shapes]) == MOST_ROWS:
                break
        if not by_shape:
            raise RecordingError(f"{path}: has no observation that model {model!r} takes")
        return max(by_shape.values(), key=len)

    return rows
