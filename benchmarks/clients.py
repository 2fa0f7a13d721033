"""Roles that ask: lean raw loops on the session wire, and the same through the SDK.

The raw loops encode their message once; for each observation only its number is written anew. So
they cost little beside what they measure, and what an echo or the peer's server gets from them is
byte for byte what the appliance gets.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from itertools import count
from typing import Any

import zmq

from appliance.errors import Outcome
from appliance.wire.session import decode_response, encode_observation
from appliance.wire.types import DType, Keep, Lateness, Observation, Tensor
from appliance.wire.worker import encode_varint
from benchmarks.stdio import answer

PATIENCE_MS = 5000
HWM = 1000
SEQUENCE_TAG = b"\x98\x01"  # field 19, varint


def dealer(
    context: zmq.Context[zmq.Socket[bytes]], address: str, routing_id: bytes
) -> zmq.Socket[bytes]:
    """Return a DEALER that is connected."""
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.ROUTING_ID, routing_id)
    socket.set(zmq.SNDHWM, HWM)
    socket.set(zmq.RCVHWM, HWM)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.RCVTIMEO, PATIENCE_MS)
    socket.set(zmq.SNDTIMEO, PATIENCE_MS)
    socket.connect(address)
    return socket


class Asker:
    """A DEALER and the message it sends.

    Args:
        shape: Of the one tensor, `key`.
        keep_all: Each observation is answered; else a newer one replaces one that waits.
        budget_ms: Latency budget, milliseconds.
    """

    def __init__(
        self,
        address: str,
        *,
        number: int = 0,
        model: str = "noop",
        key: str = "state",
        dtype: str = "FLOAT32",
        shape: tuple[int, ...] | list[int] = (256,),
        keep_all: bool = False,
        budget_ms: float = 1000.0,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        self.socket = dealer(context or zmq.Context(), address, b"client-%d" % number)
        size = 4 if dtype == "FLOAT32" else 1
        for dimension in shape:
            size *= dimension
        self._payload = bytes(size)
        self._head = encode_observation(
            Observation(
                client_id=f"client-{number}",
                client_type="benchmark",
                model_id=model,
                tensors=(Tensor(key, DType[dtype], tuple(shape), 0, size),),
                timestamp_ns=time.time_ns(),
                priority=1,
                protocol_version=1,
                session_nonce=1 + number,
                latency_budget_us=round(budget_ms * 1000),
                lateness=Lateness.SOFT,
                keep=Keep.ALL if keep_all else Keep.LATEST,
                wants_status=True,
            )
        )
        self._numbers = count(1)

    def send(self) -> None:
        """Send the next observation."""
        envelope = self._head + SEQUENCE_TAG + encode_varint(next(self._numbers))
        # The payload is handed over if that is cheaper; see zmq.COPY_THRESHOLD.
        self.socket.send_multipart((b"", envelope, self._payload), copy=False)

    def check(self, parts: list[bytes]) -> None:
        """Refuse to measure refusals. A reply of the echo or the peer has no status to check.

        Raises:
            RuntimeError: It is not an answer.
        """
        response = decode_response(parts[1], len(parts[2]))
        if response.outcome is not Outcome.OK:
            raise RuntimeError(f"{response.outcome.name}: {response.message}")


def _percentiles(times_ns: list[int]) -> dict[str, float]:
    """Return p50 and p99, microseconds."""
    ordered = sorted(times_ns) or [0]
    ranks = {"p50_us": 0.5, "p99_us": 0.99}
    return {name: ordered[int(rank * (len(ordered) - 1))] / 1000 for name, rank in ranks.items()}


def ping(*, checked: bool = True, **options: Any) -> None:
    """Ask for `seconds`, one observation outstanding; answer with the round trip."""
    asker = Asker(**options)

    def run(seconds: float) -> dict[str, float]:
        receive, clock = asker.socket.recv_multipart, time.monotonic_ns
        times: list[int] = []
        end = clock() + round(seconds * 1e9)
        sent, parts = clock(), [b""]
        while sent < end:
            asker.send()
            parts = receive()
            received = clock()
            times.append(received - sent)
            sent = received
        if checked:
            asker.check(parts)
        return {"count": len(times), **_percentiles(times)}

    answer(run)


def sdk_ping(*, address: str) -> None:
    """Do as `ping` does, through the SDK."""
    import numpy as np  # noqa: PLC0415  only this role needs them

    from appliance import Connection  # noqa: PLC0415

    model = Connection(address, client_id="sdk").model("noop", latency_budget_ms=1000)
    state = np.zeros(256, np.float32)

    def run(seconds: float) -> dict[str, float]:
        clock = time.monotonic_ns
        times: list[int] = []
        end = clock() + round(seconds * 1e9)
        sent = clock()
        while sent < end:
            model.observe(state=state)
            if model.get_result(PATIENCE_MS) is None:
                raise RuntimeError(f"{model.last_status}: {model.last_message}")
            received = clock()
            times.append(received - sent)
            sent = received
        return {"count": len(times), **_percentiles(times)}

    answer(run)


def pump(*, window: int, **options: Any) -> None:
    """Keep `window` observations outstanding for `seconds`; answer with the replies."""
    asker = Asker(keep_all=True, **options)

    def run(seconds: float) -> dict[str, float]:
        receive, clock = asker.socket.recv_multipart, time.monotonic
        for _ in range(window):
            asker.send()
        outstanding, replies = window, 0
        start = clock()
        end = start + seconds
        while clock() < end:
            receive()
            burst = 1
            try:
                while burst < window:
                    receive(zmq.NOBLOCK)
                    burst += 1
            except zmq.Again:
                pass
            replies += burst
            for _ in range(burst):
                asker.send()
        elapsed = clock() - start
        total = replies
        try:
            while outstanding:
                receive()
                outstanding -= 1
                total += 1
        except zmq.Again:
            pass
        return {"rate": replies / elapsed, "total": total, "lost": outstanding}

    answer(run)


def pace(*, hz: float, **options: Any) -> None:
    """Ask `hz` times a second for `seconds`; answer with every round trip and what was missed."""
    asker = Asker(**options)
    asker.socket.set(zmq.RCVTIMEO, round(1000 / hz))

    def run(seconds: float) -> dict[str, Any]:
        times: list[int] = []
        missed = 0
        start = time.monotonic_ns() + round(random.random() * 1e9 / hz)
        for index in range(round(seconds * hz)):
            _sleep_until(start + round(index * 1e9 / hz))
            while asker.socket.poll(0):  # what came too late
                asker.socket.recv_multipart()
            sent = time.monotonic_ns()
            asker.send()
            try:
                asker.socket.recv_multipart()
            except zmq.Again:
                missed += 1
            else:
                times.append(time.monotonic_ns() - sent)
        return {"times_us": [time_ns / 1000 for time_ns in times], "missed": missed}

    answer(run)


def beat(*, hz: float, **options: Any) -> None:
    """Ask `hz` times a second for `seconds` and until answered, whatever comes back; see `Beat`."""
    answer(Beat(hz, Asker(**options)).run)


class Beat:
    """Asks in a fixed cadence, and takes down how each observation ends."""

    def __init__(self, hz: float, asker: Asker) -> None:
        self._period_ns = round(1e9 / hz)
        self._asker = asker
        self._sent_ns: list[int] = []  # by sequence number

    def run(self, seconds: float, pid: int) -> dict[str, Any]:
        """Ask for `seconds` and until something is answered, then wait for every reply.

        A process `pid` is killed first, unless it is 0. Answers with how many observations ended
        how, with the round trips of the answers, and with the time until the first of them came.
        """
        self._ended: Counter[str] = Counter()
        self._times_ns: list[int] = []
        self._answered_ns = 0
        start = time.monotonic_ns()
        if pid:
            os.kill(pid, signal.SIGKILL)
        end = start + round(seconds * 1e9)
        moment = start + round(random.random() * self._period_ns)
        asked = 0
        while moment < end or not self._answered_ns:
            if moment > end + PATIENCE_MS * 1_000_000:
                raise RuntimeError(f"not one answer in {(moment - start) / 1e9:.1f} s")
            self._hear_until(moment)
            self._sent_ns.append(time.monotonic_ns())
            self._asker.send()
            asked += 1
            moment += self._period_ns
        while self._ended.total() < asked:
            self._hear()
        return {
            "ended": self._ended,
            "times_us": [time_ns / 1000 for time_ns in self._times_ns],
            "answered_s": (self._answered_ns - start) / 1e9,
        }

    def _hear_until(self, moment_ns: int) -> None:
        while (left_ns := moment_ns - time.monotonic_ns()) > 0:
            if self._asker.socket.poll(left_ns // 1_000_000 + 1):
                self._hear()

    def _hear(self) -> None:
        parts = self._asker.socket.recv_multipart()
        now_ns = time.monotonic_ns()
        response = decode_response(parts[1], len(parts[2]))
        self._ended[response.outcome.name] += 1
        if response.outcome is Outcome.OK:
            self._times_ns.append(now_ns - self._sent_ns[response.sequence - 1])
            self._answered_ns = self._answered_ns or now_ns


def rain(*, models: list[str], hz: float, **options: Any) -> None:
    """Ask at random moments (Poisson), `hz` times a second on average, one of `models` each time.

    Answers are taken when they come and not waited for.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    askers = [
        Asker(number=number, model=model, keep_all=True, context=context, **options)
        for number, model in enumerate(models)
    ]

    def run(seconds: float) -> dict[str, float]:
        sent = answered = 0
        moment = time.monotonic_ns()
        end = moment + round(seconds * 1e9)
        while moment < end:
            _sleep_until(moment)
            asker = random.choice(askers)
            answered += _drained(asker)
            asker.send()
            sent += 1
            moment += round(random.expovariate(hz) * 1e9)
        time.sleep(0.5)
        answered += sum(map(_drained, askers))
        return {"sent": sent, "answered": answered}

    answer(run)


def _sleep_until(moment_ns: int) -> None:
    left = moment_ns - time.monotonic_ns()
    if left > 0:
        time.sleep(left / 1e9)


def crowd(*, address: str, size: int, hz: float) -> None:
    """Connect `size` clients; let each ask `hz` times a second for `seconds`, evenly spread."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, size + 16)
    askers = [Asker(address, number=1000 + n, context=context) for n in range(size)]

    def run(seconds: float) -> dict[str, float]:
        sent = answered = 0
        start = time.monotonic_ns()
        for index in range(round(seconds * size * hz)):
            _sleep_until(start + round(index * 1e9 / (size * hz)))
            asker = askers[index % size]
            answered += _drained(asker)
            asker.send()
            sent += 1
        time.sleep(0.5)
        answered += sum(map(_drained, askers))
        return {"sent": sent, "answered": answered}

    answer(run)


def _drained(asker: Asker) -> int:
    """Take what has come; return how many answers that was."""
    answers = 0
    try:
        while True:
            asker.socket.recv_multipart(zmq.NOBLOCK)
            answers += 1
    except zmq.Again:
        return answers


def sdk_loop(*, address: str, number: int, wait_ms: float) -> None:
    """Be a closed-loop robot through the SDK for `seconds`: observe, wait, again."""
    import numpy as np  # noqa: PLC0415  only this role needs them

    from appliance import Connection  # noqa: PLC0415

    connection = Connection(address, client_id=f"robot-{number}")
    model = connection.model("busy", latency_budget_ms=wait_ms)
    state = np.zeros(256, np.float32)

    def run(seconds: float) -> dict[str, float]:
        replies = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            model.observe(state=state)
            replies += model.get_result(wait_ms) is not None
        return {"replies": replies}

    answer(run)
