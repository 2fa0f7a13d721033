"""Records and recordings for tests."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve

from appliance.errors import Outcome
from appliance.recording.buffers import Record
from appliance.recording.files import RecordingFile
from appliance.recording.messages import Topic
from appliance.wire.answers import encode_headers
from appliance.wire.pb import recording_pb2
from appliance.wire.session import encode_observation
from appliance.wire.types import DType, Encoding, Observation, Tensor

MS = 1_000_000
STATE = Tensor("state", DType.FLOAT32, (2,), 0, 8)
CAMERA = Tensor("camera", DType.UINT8, (2, 2, 3), 8, 12)
PHOTO = Tensor("photo", DType.UINT8, (), 20, 5, Encoding.JPEG)
OBSERVATION = Observation(
    client_id="arm-3",
    model_id="policy",
    tensors=(STATE, CAMERA, PHOTO),
    protocol_version=1,
    sequence=1,
)
PAYLOAD = bytes(range(25))
OUTPUTS = (Tensor("y", DType.UINT8, (4,), 0, 4),)


def observation(
    sequence: int,
    *,
    at_ns: int = 0,
    padding: int = 0,
    session: bytes = b"one",
    protocol_version: int = 1,
    of: Observation = OBSERVATION,
) -> Record:
    """A record of an observation, of about `padding` bytes more."""
    made = evolve(
        of,
        sequence=sequence,
        trace_id="x" * padding,
        protocol_version=protocol_version,
    )
    fields = (session, encode_observation(made), PAYLOAD, len(PAYLOAD), ())
    return Topic.OBSERVATIONS, at_ns, 1000, fields


def outcome(
    sequence: int,
    *,
    at_ns: int = MS,
    payload: bytes = b"abcd",
    took_ns: int = MS,
    session: bytes = b"one",
    client: str = "arm-3",
    code: Outcome = Outcome.OK,
    slack_us: int = 3000,
) -> Record:
    """A record of its answer."""
    about = (session, client, "policy", "1", sequence, 0, 0, at_ns - took_ns)
    ended = (int(code), "", slack_us < 0, slack_us, 7, 0, False)
    fields = (about, ended, (1, 2, 3, 4, 5), encode_headers(OUTPUTS), payload)
    return Topic.OUTCOMES, at_ns, 1000, fields


def batch(rows: int, busy_ns: int, *, at_ns: int = MS, failed: int = 0) -> Record:
    """A record of a finished batch."""
    about = (7, "policy", "1", "cpu-0", 1, rows, 0)
    times = (at_ns - busy_ns, at_ns - busy_ns, at_ns, 0, busy_ns // 1000)
    fields = (about, recording_pb2.Batch.FINISHED, times, failed, "")
    return Topic.BATCHES, at_ns, 1000, fields


def write(path: Path, records: list[Record], *, images: bool = True) -> RecordingFile:
    """Write a whole recording."""
    file = RecordingFile(path, images=images, wall_offset_ns=1_700_000_000_000_000_000)
    file.open({"appliance_id": "cell-4"})
    file.write(records)
    file.finish({"dropped_messages": "0"})
    return file
