"""The robots of a simulated fleet, for real: one connection each, all in one process.

They observe when those of `appliance.simulation` would; the way to the box and back is real. A
message is encoded once; for each observation only its number and its age are written anew. The
number is also in the tensor, which the models give back: so an answer is known by its payload, the
peer's too, whose wire has no numbers. What comes is put aside and read when all is over.
"""

from __future__ import annotations

import heapq
import select
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import zmq
from attrs import define, field

from appliance.errors import Outcome
from appliance.simulation import LinearEngine, Span
from appliance.simulation.population import population
from appliance.simulation.robots import PeriodicRobot
from appliance.wire.session import decode_response, encode_observation
from appliance.wire.types import DType, Keep, Lateness, Observation, Tensor
from appliance.wire.worker import encode_varint
from benchmarks.clients import SEQUENCE_TAG, dealer
from benchmarks.scheduling.workloads import WORKLOADS, Variation, fleet_of, slowed, with_engines
from benchmarks.stdio import answer

MICROSECOND_NS = 1_000
SECOND_NS = 1_000_000_000
LEAD_NS = SECOND_NS // 5
"""From the question to the first moment at which anybody may observe."""
PATIENCE_NS = SECOND_NS
"""So long after the last observation they wait for answers."""
AGE_TAG = b"\xa8\x01"  # field 21, varint
STATE = struct.Struct("<4f")


def captures(
    robots: Sequence[PeriodicRobot], random: Random, horizon_ns: int
) -> Iterator[tuple[int, int]]:
    """Yield when who observes until `horizon_ns`, as time goes on: nanoseconds, index of a robot.

    What a robot does depends on no other, nor on when it is asked for.
    """
    randoms = [Random(random.getrandbits(64)) for _ in robots]
    agenda: list[tuple[int, int]] = []
    for index, robot in enumerate(robots):
        robot.cadence.plan(randoms[index])
        agenda.append((robot.due_ns, index))
    heapq.heapify(agenda)
    while agenda and agenda[0][0] < horizon_ns:
        due_ns, index = agenda[0]
        yield due_ns, index
        cadence = robots[index].cadence
        cadence.captured()
        cadence.plan(randoms[index])
        heapq.heapreplace(agenda, (cadence.due_ns, index))


@define(eq=False)
class _Connection:
    """One robot's.

    Attributes:
        captured_ns: Of each observation, by its number - 1.
        heard: When which message came, with its payload.
    """

    robot: PeriodicRobot
    socket: zmq.Socket[bytes]
    head: bytes
    captured_ns: list[int] = field(factory=list[int])
    heard: list[tuple[int, bytes, bytes]] = field(factory=list[tuple[int, bytes, bytes]])

    def send(self, captured_ns: int) -> None:
        """Send the observation that was due at `captured_ns`."""
        self.captured_ns.append(captured_ns)
        number = len(self.captured_ns)
        age_us = max(0, time.monotonic_ns() - captured_ns) // MICROSECOND_NS
        envelope = (
            self.head + SEQUENCE_TAG + encode_varint(number) + AGE_TAG + encode_varint(age_us)
        )
        self.socket.send_multipart((b"", envelope, STATE.pack(number, 0, 0, 0)))
        self.hear()  # sending may take in what came, and then nothing shows that it is there

    def hear(self) -> None:
        """Take what has come."""
        receive, heard = self.socket.recv_multipart, self.heard
        try:
            while True:
                _, envelope, payload = receive(zmq.NOBLOCK)
                heard.append((time.monotonic_ns(), envelope, payload))
        except zmq.Again:
            pass

    def ended(self) -> Iterator[tuple[int, Outcome, int]]:
        """Yield number, outcome and when it was heard of all that has come."""
        for heard_ns, envelope, payload in self.heard:
            if payload:
                yield round(STATE.unpack(payload)[0]), Outcome.OK, heard_ns
            else:
                response = decode_response(envelope, 0)
                yield response.sequence, response.outcome, heard_ns


def fleet(
    *,
    address: str,
    workload: str,
    load: float,
    scale: float,
    seed: int,
    engines: Sequence[dict[str, Any]] = (),
) -> None:
    """Be all robots of a workload for `seconds`, once; answer with who was answered in time.

    By their own clock: within the budget of their class from the capture to the answer.

    Args:
        engines: Take the place of the workload's: they decide how many robots there are.
    """
    chosen = with_engines(WORKLOADS[workload], tuple(LinearEngine(**each) for each in engines))
    kinds = slowed(fleet_of(chosen, load, Variation()), scale)
    random = Random(seed)
    robots = [each for each in population(kinds, random) if isinstance(each, PeriodicRobot)]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    connections = [
        _Connection(robot, dealer(context, address, robot.client.encode()), _head(robot, nonce))
        for nonce, robot in enumerate(robots, 1)
    ]
    files = {int(each.socket.get(zmq.FD)): each for each in connections}

    def hear_until(moment_ns: int) -> None:
        while (left_ns := moment_ns - time.monotonic_ns()) > 0:
            for file in select.select(files, (), (), left_ns / SECOND_NS)[0]:
                files[file].hear()

    def run(seconds: float) -> dict[str, Any]:
        begin_ns, horizon_ns = time.monotonic_ns() + LEAD_NS, round(seconds * SECOND_NS)
        sent_late_ns: list[int] = []
        for due_ns, index in captures(robots, random, horizon_ns):
            hear_until(begin_ns + due_ns)
            connections[index].send(begin_ns + due_ns)
            sent_late_ns.append(time.monotonic_ns() - begin_ns - due_ns)
        hear_until(begin_ns + horizon_ns + PATIENCE_NS)
        return {**_account(connections, begin_ns, horizon_ns), "sent_late_us": _p99(sent_late_ns)}

    answer(run)


def _head(robot: PeriodicRobot, nonce: int) -> bytes:
    kind = robot.kind
    assert kind.budget_ns is not None
    return encode_observation(
        Observation(
            client_id=robot.client,
            client_type="benchmark",
            model_id=kind.model,
            tensors=(Tensor("state", DType.FLOAT32, (4,), 0, STATE.size),),
            timestamp_ns=time.time_ns(),
            priority=1,
            protocol_version=1,
            session_nonce=nonce,
            latency_budget_us=(kind.budget_ns - kind.network.return_ns) // MICROSECOND_NS,
            observation_period_us=kind.period_ns // MICROSECOND_NS,
            lateness=Lateness.FIRM,
            keep=Keep.LATEST,
            wants_status=True,
        )
    )


def _account(connections: Sequence[_Connection], begin_ns: int, horizon_ns: int) -> dict[str, Any]:
    """Count who asked in the span that is looked at, and who was answered in time."""
    span = Span.settled(horizon_ns)
    asked: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for each in connections:
        kind = each.robot.kind
        due_ns = [at_ns + (kind.budget_ns or 0) for at_ns in each.captured_ns]
        in_time = {
            number
            for number, outcome, heard_ns in each.ended()
            if outcome is Outcome.OK and heard_ns <= due_ns[number - 1]
        }
        for number, at_ns in enumerate(each.captured_ns, 1):
            if span.from_ns <= at_ns - begin_ns < span.to_ns:
                asked[kind.name] += 1
                missed[kind.name] += number not in in_time
    sent = sum(len(each.captured_ns) for each in connections)
    return {"sent": sent, "asked": asked, "missed": missed}


def _p99(times_ns: list[int]) -> float:
    return sorted(times_ns)[int(0.99 * (len(times_ns) - 1))] / MICROSECOND_NS
