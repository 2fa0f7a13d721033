"""What a recording holds of those who asked: when, with what deadline, and how it ended.

Deadlines are computed anew, as admission does, from what came on the wire and the configuration.
What did not reach the scheduler, for it was invalid or came too often, is counted and left out.
"""

from __future__ import annotations

from collections import Counter, deque
from pathlib import Path

from attrs import define, evolve, field

from appliance.admission.deadline import deadline_of
from appliance.config import Config
from appliance.errors import MISSES, Outcome, RecordingError
from appliance.recording.messages import Topic
from appliance.recording.reader import Entry, RecordingReader
from appliance.simulation import Arrival
from appliance.wire.checks import BadObservation
from appliance.wire.pb import recording_pb2, session_pb2
from appliance.wire.session import decode_observation
from appliance.wire.types import Keep, Observation

MICROSECOND_NS = 1_000
MILLISECOND_NS = 1_000_000
AGREEING_NS = MILLISECOND_NS
"""Deadlines that are closer to what was recorded are the same."""

MOST_OBSERVATIONS = 1_000_000
REACHED_THE_SCHEDULER = MISSES | {Outcome.OK}
OUTCOMES: dict[int, Outcome] = {int(outcome): outcome for outcome in Outcome}
UNKNOWN = "unknown"
"""Of observations whose outcome is not in the file, and of outcomes whose observation is not."""

Key = tuple[bytes, int, int]
"""An observation: its session, its sequence and its client's time; the same twice: in order."""


@define(eq=False)
class Served:
    """An observation that reached the scheduler, and how it ended.

    Attributes:
        slack_ns: What was left to its deadline at the answer; only of OK.
    """

    observation: Observation
    client: str
    received_ns: int
    ended_ns: int
    outcome: Outcome
    late: bool
    slack_ns: int


@define(eq=False)
class Recorded:
    """One recording, read whole.

    Attributes:
        served: In the order of their arrivals.
        samples_ns: By model and batch size: how long batches took.
        hosted: By worker: the models that it is known to have had.
        left_out: How many observations did not reach the scheduler, by outcome, or `UNKNOWN`.
        dropped: Messages that the recording could not keep.
        cut_off_at: The byte at which the file ends too early.
    """

    path: Path
    config: Config
    served: list[Served] = field(factory=list[Served])
    samples_ns: dict[str, dict[int, list[int]]] = field(factory=dict[str, "dict[int, list[int]]"])
    hosted: dict[str, set[str]] = field(factory=dict[str, "set[str]"])
    left_out: Counter[str] = field(factory=Counter[str])
    dropped: int = 0
    cut_off_at: int | None = None
    _pending: dict[Key, deque[Observation]] = field(factory=dict[Key, "deque[Observation]"])

    @property
    def models(self) -> set[str]:
        """The models that were asked."""
        return {each.observation.model_id for each in self.served}

    def add(self, entry: Entry) -> None:
        """Take in one message."""
        if entry.topic is Topic.OBSERVATIONS:
            self._observation(entry.read(recording_pb2.Observation))
        elif entry.topic is Topic.OUTCOMES:
            self._outcome(entry.read(recording_pb2.Outcome))
        elif entry.topic is Topic.BATCHES:
            self._batch(entry.read(recording_pb2.Batch))
        elif entry.topic is Topic.WORKERS:
            worker = entry.read(recording_pb2.Worker)
            if worker.event == recording_pb2.Worker.MODEL_LOADED:
                self.hosted.setdefault(worker.worker, set()).add(worker.model_id)
        else:
            self.dropped += entry.read(recording_pb2.Dropped).messages

    def _observation(self, message: recording_pb2.Observation) -> None:
        envelope = message.envelope
        if not message.HasField("envelope") or envelope.kind != session_pb2.OBSERVE:
            return
        try:
            observation = decode_observation(envelope.SerializeToString(), message.payload_bytes)
        except BadObservation:
            return  # its outcome says so
        slim = evolve(observation, tensors=(), metadata={})
        key = (message.session, envelope.sequence, envelope.timestamp_ns)
        self._pending.setdefault(key, deque()).append(slim)

    def _outcome(self, message: recording_pb2.Outcome) -> None:
        outcome = OUTCOMES.get(message.outcome)
        observation = self._asked((message.session, message.sequence, message.timestamp_ns))
        if outcome is not None and outcome not in REACHED_THE_SCHEDULER:
            self.left_out[outcome.name] += 1
            return
        if outcome is None or observation is None:  # it was asked before the recording began
            self.left_out[UNKNOWN] += 1
            return
        self.served.append(
            Served(
                observation,
                message.client,
                message.received_ns,
                message.ended_ns,
                outcome,
                message.late,
                message.slack_us * MICROSECOND_NS,
            )
        )

    def _asked(self, key: Key) -> Observation | None:
        """Return, once, the observation that has ended."""
        pending = self._pending.get(key)
        if pending is None:
            return None
        observation = pending.popleft()
        if not pending:
            del self._pending[key]
        return observation

    def _batch(self, message: recording_pb2.Batch) -> None:
        self.hosted.setdefault(message.worker, set()).add(message.model_id)
        is_whole = message.end == recording_pb2.Batch.FINISHED and not message.failed_rows
        if is_whole and not message.error and message.rows:
            busy_ns = (message.batch_us + message.execute_us) * MICROSECOND_NS
            sizes = self.samples_ns.setdefault(message.model_id, {})
            sizes.setdefault(message.rows, []).append(max(MICROSECOND_NS, busy_ns))

    def finish(self) -> None:
        """Count who was still waiting at the end."""
        waiting = sum(map(len, self._pending.values()))
        if waiting:
            self.left_out[UNKNOWN] += waiting
        self._pending.clear()
        self.served.sort(key=lambda each: each.received_ns)

    def arrivals(self, planned_ns: dict[str, int]) -> list[Arrival]:
        """Return each of `served` as the scheduler gets to know it, from time 0 on.

        Args:
            planned_ns: What an idle box needs for one row, by model.
        """
        first_ns = self.served[0].received_ns
        return [self._arrival(each, first_ns, planned_ns) for each in self.served]

    def _arrival(self, served: Served, first_ns: int, planned_ns: dict[str, int]) -> Arrival:
        observation = served.observation
        clients = self.config.clients
        policy = clients.policy(served.client) or clients.defaults
        arrived_ns = served.received_ns - first_ns
        deadline = deadline_of(
            observation,
            policy,
            arrived_ns=arrived_ns,
            planned_ns=planned_ns[observation.model_id],
            longest_ns=round(self.config.scheduling.request_ttl_ms * MILLISECOND_NS),
        )
        keep = observation.keep
        return Arrival(
            client=served.client,
            model=observation.model_id,
            captured_ns=arrived_ns - observation.age_us * MICROSECOND_NS,
            arrived_ns=arrived_ns,
            deadline_ns=deadline.deadline_ns,
            tier=policy.tier,
            priority=policy.priority if observation.priority is None else observation.priority,
            firm=deadline.firm,
            dry=deadline.dry,
            runs_out=deadline.runs_out,
            keep_latest=keep is Keep.LATEST or (keep is Keep.DEFAULT and policy.keep == "latest"),
            period_ns=(observation.observation_period_us or 0) * MICROSECOND_NS,
        )

    def disagreeing(self, arrivals: list[Arrival]) -> int:
        """Return how many deadlines are not those of the recording: it had another configuration.

        Args:
            arrivals: Those of `arrivals`.
        """
        first_ns = self.served[0].received_ns
        return sum(
            each.outcome is Outcome.OK
            and abs(each.ended_ns - first_ns + each.slack_ns - arrival.deadline_ns) > AGREEING_NS
            for each, arrival in zip(self.served, arrivals, strict=True)
        )


def read(path: Path, config: Config) -> Recorded:
    """Read a recording.

    Args:
        config: What held for its clients.

    Raises:
        RecordingError: It is none, is broken, is too large, or nobody in it was served.
    """
    reader, found = RecordingReader(path), Recorded(path, config)
    for entry in reader.entries():
        found.add(entry)
        if len(found.served) > MOST_OBSERVATIONS:
            raise RecordingError(
                f"{path}: holds more than the {MOST_OBSERVATIONS} observations that are served "
                "anew; record a shorter time"
            )
    found.finish()
    found.cut_off_at = reader.cut_off_at
    if not found.served:
        raise RecordingError(f"{path}: there are no observations in it that reached the scheduler")
    return found
