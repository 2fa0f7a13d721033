"""What an observation's header may hold, and the words of its refusal.

`session.decode_observation` compares on the hot path; what it cannot accept ends here, where the
first offending field is found and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from math import isfinite

from appliance.errors import Outcome, Rejected
from appliance.wire.pb import session_pb2
from appliance.wire.tensors import DAY_US
from appliance.wire.types import Keep, Kind, Lateness, Observation

MAX_ENVELOPE_BYTES = 1 << 17
MAX_NAME_BYTES = 255
MAX_METADATA_ENTRIES = 64
MAX_METADATA_BYTES = 1 << 16

KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}
LATENESS: dict[int, Lateness] = {int(lateness): lateness for lateness in Lateness}
KEEP: dict[int, Keep] = {int(keep): keep for keep in Keep}


class BadObservation(Rejected):
    """A message that is not structurally valid: INVALID or TOO_LARGE.

    Attributes:
        header: Who sent it and what it was about, as far as that is valid, so that it can be
            answered; without tensors and metadata. None if the envelope could not be read.
    """

    def __init__(
        self, outcome: Outcome, message: str, *, header: Observation | None = None
    ) -> None:
        super().__init__(outcome, message)
        self.header = header


def header(message: session_pb2.Observation) -> Observation:
    """Return what an answer to an invalid message needs; a name that is too long is empty."""
    names = {
        field: name if len(name.encode()) <= MAX_NAME_BYTES else ""
        for field, name in _names(message).items()
    }
    return Observation(
        client_id=names["client.id"],
        client_type=names["client.type"],
        model_id=names["model_id"],
        timestamp_ns=message.timestamp_ns,
        protocol_version=message.protocol_version,
        kind=KINDS.get(message.kind, Kind.OBSERVE),
        session_nonce=message.session_nonce,
        sequence=message.sequence,
        episode=message.episode,
        wants_status=message.wants_status,
        model_version=names["model_version"],
        spec_hash=names["spec_hash"],
        trace_id=names["trace_id"],
    )


def check_lengths(message: session_pb2.Observation) -> None:
    """Refuse names and metadata that are too long.

    Raises:
        Rejected: INVALID for a name, TOO_LARGE for metadata.
    """
    for field, name in _names(message).items():
        # A character takes at most 4 bytes.
        if len(name) > MAX_NAME_BYTES // 4 and len(name.encode()) > MAX_NAME_BYTES:
            raise Rejected(
                Outcome.INVALID,
                f"{field}: at most {MAX_NAME_BYTES} bytes are allowed, {len(name.encode())} came",
            )
    metadata = message.metadata
    if not metadata:
        return
    if len(metadata) > MAX_METADATA_ENTRIES:
        raise Rejected(
            Outcome.TOO_LARGE,
            f"metadata: at most {MAX_METADATA_ENTRIES} entries are allowed, {len(metadata)} came",
        )
    size = sum(len(key.encode()) + len(text.encode()) for key, text in metadata.items())
    if size > MAX_METADATA_BYTES:
        raise Rejected(
            Outcome.TOO_LARGE,
            f"metadata: at most {MAX_METADATA_BYTES} bytes are allowed, {size} came",
        )


def refuse_field(message: session_pb2.Observation) -> Rejected:
    """Return why a message with a bad enumeration, urgency or duration is refused."""
    enumerations: Mapping[str, tuple[int, Mapping[int, IntEnum]]] = {
        "kind": (message.kind, KINDS),
        "lateness": (message.lateness, LATENESS),
        "keep": (message.keep, KEEP),
    }
    for field, (number, members) in enumerations.items():
        if number not in members:
            choices = ", ".join(f"{value} {member.name}" for value, member in members.items())
            return Rejected(Outcome.INVALID, f"{field}: {choices} are known, {number} came")
    if not isfinite(message.urgency):
        return Rejected(
            Outcome.INVALID, f"urgency: a number from 0 to 1 is expected, {message.urgency} came"
        )
    durations = {
        "age_us": message.age_us,
        "round_trip_us": message.round_trip_us,
        "latency_budget_us": message.latency_budget_us,
        "step_period_us": message.step_period_us,
        "observation_period_us": message.observation_period_us,
    }
    field = max(durations, key=durations.__getitem__)
    return Rejected(
        Outcome.INVALID,
        f"{field}: at most one day ({DAY_US}) is expected, {durations[field]} came",
    )


def _names(message: session_pb2.Observation) -> dict[str, str]:
    return {
        "client.id": message.client.id,
        "client.type": message.client.type,
        "model_id": message.model_id,
        "model_version": message.model_version,
        "spec_hash": message.spec_hash,
        "trace_id": message.trace_id,
    }
