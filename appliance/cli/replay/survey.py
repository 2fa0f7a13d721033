"""What a recording holds: read whole and checked, before anything is sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from attrs import define, evolve, field, frozen

from appliance.cli.replay.comparison import Ending
from appliance.errors import Outcome, RecordingError, Rejected
from appliance.recording.messages import Topic
from appliance.recording.reader import Entry, RecordingReader
from appliance.wire.pb import recording_pb2, session_pb2
from appliance.wire.tensors import decode_tensors
from appliance.wire.types import Tensor

Key = tuple[bytes, int, int]
"""An observation: its session, its sequence and its client's time; the same twice: in order."""


LONGEST_ID_BYTES = 255
"""Of a connection's routing id; ZeroMQ has no longer ones."""


@frozen
class Session:
    """One recorded connection.

    Attributes:
        is_old: It speaks the old wire.
        client: Who it was to the appliance; empty if that is not known.
    """

    is_old: bool = False
    client: str = ""


@define(eq=False)
class Survey:
    """See the module's docstring.

    Attributes:
        observations: Recorded observations; messages that cancel or end something are none.
        sessions: Connections, by routing id.
        endings: How observations ended, in order.
        first_ns, last_ns: When the first message came, and the last.
        dropped: Messages that the recording could not keep.
        cut_off_at: The byte at which the file ends too early.
    """

    observations: int = 0
    sessions: dict[bytes, Session] = field(factory=dict[bytes, Session])
    endings: dict[Key, deque[Ending]] = field(factory=dict[Key, "deque[Ending]"])
    first_ns: int = 0
    last_ns: int = 0
    dropped: int = 0
    cut_off_at: int | None = None

    def ending(self, key: Key) -> Ending | None:
        """Return, once, how an observation ended, if that was recorded."""
        endings = self.endings.get(key)
        return endings.popleft() if endings else None


def survey(path: Path) -> Survey:
    """Read a recording.

    Raises:
        RecordingError: It is none, is broken, or holds no observations.
    """
    reader, found = RecordingReader(path), Survey()
    for entry in reader.entries():
        if entry.topic is Topic.OBSERVATIONS:
            _add_observation(found, entry)
        elif entry.topic is Topic.OUTCOMES:
            _add_ending(found, entry)
        elif entry.topic is Topic.DROPPED:
            found.dropped += entry.read(recording_pb2.Dropped).messages
    if not found.observations:
        raise RecordingError(f"{path}: there are no observations in it")
    found.cut_off_at = reader.cut_off_at
    return found


def _add_observation(found: Survey, entry: Entry) -> None:
    message = entry.read(recording_pb2.Observation)
    if not 1 <= len(message.session) <= LONGEST_ID_BYTES:
        raise RecordingError(
            f"{entry.path}: at byte {entry.at}: a connection's id has {len(message.session)} "
            f"bytes; it has 1 to {LONGEST_ID_BYTES}"
        )
    if not found.sessions:
        found.first_ns = message.received_ns
    found.last_ns = max(found.last_ns, message.received_ns)
    found.observations += message.envelope.kind == session_pb2.OBSERVE
    session = found.sessions.get(message.session) or Session()
    is_old = message.HasField("envelope") and message.envelope.protocol_version == 0
    found.sessions[message.session] = Session(
        session.is_old or is_old, session.client or message.envelope.client.id
    )


def _add_ending(found: Survey, entry: Entry) -> None:
    message = entry.read(recording_pb2.Outcome)
    key = (message.session, message.sequence, message.timestamp_ns)
    try:
        ending = Ending(
            Outcome(message.outcome),
            message.model_version,
            _tensors(message.tensors, message),
            None if message.payload_omitted else message.payload,
            message.ended_ns,
        )
    except (ValueError, Rejected) as error:
        raise RecordingError(
            f"{entry.path}: at byte {entry.at}: an outcome cannot be read: {error}"
        ) from error
    session = found.sessions.get(message.session)
    if session is not None and message.client:  # the appliance knows better than who sent
        found.sessions[message.session] = evolve(session, client=message.client)
    found.endings.setdefault(key, deque()).append(ending)


def _tensors(
    tensors: Sequence[session_pb2.Tensor], message: recording_pb2.Outcome
) -> tuple[Tensor, ...]:
    """Return the headers of outputs, checked against their bytes if those are there."""
    if message.payload_omitted:
        return ()
    return decode_tensors(tensors, len(message.payload))
