"""Sends what was recorded again, at its pace, and takes the answers. Blocking, in one thread.

Each recorded connection has a socket of its own. Clients of the old wire are known by their routing
id, so theirs is used again; all others get a new one, as the SDK does. An answer is matched to its
observation by its sequence. The old wire has none: there, answers are matched in order, if there
are as many as observations.
"""

from __future__ import annotations

import resource
import secrets
import time
from collections import deque
from collections.abc import Generator
from pathlib import Path

import zmq
from attrs import define, field

from appliance.cli.replay.comparison import Comparison, Ending, Verdict
from appliance.cli.replay.survey import Key, Survey
from appliance.errors import PeerGone, RecordingError
from appliance.recording.messages import Topic
from appliance.recording.reader import RecordingReader
from appliance.wire.pb import recording_pb2, session_pb2
from appliance.wire.session import decode_response, encode_observation
from appliance.wire.types import PROTOCOL_VERSION, Kind, Observation

SECOND_NS = 1_000_000_000
GREETING_S = 5.0
PATIENCE_S = 10.0
"""Without any answer, after the last observation; or for a socket to take one."""
FILES_PER_SOCKET = 4


@define(eq=False)
class Line:
    """One recorded connection.

    Attributes:
        is_old: It speaks the old wire.
        waiting: Observations sent and not answered, by sequence.
        sent, answers: Of the old wire: all of them, in order.
    """

    session: bytes
    socket: zmq.Socket[bytes]
    is_old: bool
    waiting: dict[int, deque[Sent]] = field(factory=dict[int, "deque[Sent]"])
    sent: list[Sent] = field(factory=list["Sent"])
    answers: list[Ending] = field(factory=list[Ending])


@define(eq=False)
class Sent:
    """An observation on its way; `recorded` is how it ended before."""

    model: str
    about: str
    recorded: Ending | None


@define(eq=False)
class Replay:
    """See the module's docstring.

    Args:
        server: Its address.
        speed: Times as fast as recorded.

    Attributes:
        sent: Observations sent.
        late_us: How late the latest of them was.
    """

    path: Path
    survey: Survey
    comparison: Comparison
    server: str
    speed: float
    sent: int = field(default=0, init=False)
    late_us: int = field(default=0, init=False)
    _lines: dict[zmq.Socket[bytes], Line] = field(
        factory=dict["zmq.Socket[bytes]", Line], init=False
    )
    _waiting: int = field(default=0, init=False)
    _poller: zmq.Poller = field(factory=zmq.Poller, init=False)

    def run(self) -> None:
        """Send everything and take what comes.

        Raises:
            PeerGone: No appliance answers at the address.
            RecordingError: The file has changed since it was surveyed.
        """
        _allow_files(FILES_PER_SOCKET * len(self.survey.sessions) + 64)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        context.set(zmq.MAX_SOCKETS, len(self.survey.sessions) + 16)
        try:
            self._greet(context)
            lines = {
                session: self._connect(context, session, is_old=is_old)
                for session, is_old in self.survey.sessions.items()
            }
            self._send_all(lines)
            self._wait_for_answers()
        finally:
            context.destroy(linger=0)
        self._settle(lines)

    def _greet(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Find out whether somebody is there."""
        socket = context.socket(zmq.DEALER)
        socket.connect(self.server)
        beat = Observation(kind=Kind.HEARTBEAT, protocol_version=PROTOCOL_VERSION)
        socket.send_multipart([b"", encode_observation(beat), b""])
        if not socket.poll(round(GREETING_S * 1000)):
            raise PeerGone(f"{self.server}: no appliance answers there within {GREETING_S:g} s")
        socket.close(linger=0)

    def _connect(
        self, context: zmq.Context[zmq.Socket[bytes]], session: bytes, *, is_old: bool
    ) -> Line:
        socket = context.socket(zmq.DEALER)
        # The first byte of a routing id that ZeroMQ makes is 0, and nobody may choose such a one.
        own = is_old and not session.startswith(b"\0")
        socket.set(zmq.ROUTING_ID, session if own else b"r" + secrets.token_bytes(12))
        socket.connect(self.server)
        self._poller.register(socket, zmq.POLLIN)
        line = self._lines[socket] = Line(session, socket, is_old)
        return line

    # ----------------------------------------------------------------------------- out, and in

    def _send_all(self, lines: dict[bytes, Line]) -> None:
        started_ns = time.monotonic_ns()
        for message in self._observations():
            offset_ns = message.received_ns - self.survey.first_ns
            due_ns = started_ns + round(offset_ns / self.speed)
            while (left_ns := due_ns - time.monotonic_ns()) > 0:
                whole_ms = left_ns // 1_000_000
                if not whole_ms:
                    time.sleep(left_ns / SECOND_NS)
                else:
                    self._take(whole_ms)
            self.late_us = max(self.late_us, (time.monotonic_ns() - due_ns) // 1000)
            line = lines.get(message.session)
            if line is None:
                raise RecordingError(f"{self.path}: was changed while it was replayed")
            self._send(line, message)
            self._take(0)

    def _observations(self) -> Generator[recording_pb2.Observation, None, None]:
        for entry in RecordingReader(self.path).entries():
            if entry.topic is Topic.OBSERVATIONS:
                yield entry.read(recording_pb2.Observation)

    def _send(self, line: Line, message: recording_pb2.Observation) -> None:
        envelope = message.envelope
        is_observation = envelope.kind == session_pb2.OBSERVE
        key: Key = (message.session, envelope.sequence, envelope.timestamp_ns)
        recorded = self.survey.ending(key) if is_observation else None
        if message.unreadable or message.omitted:
            if is_observation:
                self.comparison.count(envelope.model_id, Verdict.LEFT_OUT)
            return
        if not line.is_old:
            envelope.wants_status = True  # or a refusal would not be told
        self._hand_over(line.socket, [b"", envelope.SerializeToString(), message.payload])
        if not is_observation:
            return
        self.sent += 1
        client = envelope.client.id or line.session.decode("utf-8", "replace")
        about = f"{client} {envelope.model_id} sequence {envelope.sequence}"
        sent = Sent(envelope.model_id, about, recorded)
        if line.is_old:
            line.sent.append(sent)
        else:
            line.waiting.setdefault(envelope.sequence, deque()).append(sent)
            self._waiting += 1

    def _hand_over(self, socket: zmq.Socket[bytes], parts: list[bytes]) -> None:
        """Give a message to ZeroMQ, taking answers while its queue is full."""
        until_ns = time.monotonic_ns() + round(PATIENCE_S * SECOND_NS)
        while not socket.poll(0, zmq.POLLOUT):
            if time.monotonic_ns() > until_ns:
                raise PeerGone(f"{self.server}: takes nothing any more")
            self._take(1)
        socket.send_multipart(parts)

    def _take(self, timeout_ms: int) -> int:
        """Take the answers that are there, or come in time; return how many."""
        taken = 0
        for socket, _ in self._poller.poll(timeout_ms):
            line = self._lines[socket]
            while True:
                try:
                    parts = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                taken += 1
                self._answered(line, parts)
        return taken

    def _answered(self, line: Line, parts: list[bytes]) -> None:
        if len(parts) != 3:
            return
        response = decode_response(parts[1], len(parts[2]))
        if response.kind is not Kind.OBSERVE:
            return
        ending = Ending(response.outcome, response.model_version, response.tensors, parts[2])
        if line.is_old:
            line.answers.append(ending)
            return
        waiting = line.waiting.get(response.sequence)
        if waiting:
            sent = waiting.popleft()
            self._waiting -= 1
            if not waiting:
                del line.waiting[response.sequence]
            self.comparison.judge(sent.model, sent.about, sent.recorded, ending)

    def _wait_for_answers(self) -> None:
        """Wait for what is missing, as long as something comes."""
        old = sum(len(line.sent) for line in self._lines.values())
        while self._waiting or sum(len(line.answers) for line in self._lines.values()) < old:
            if not self._take(round((PATIENCE_S if self._waiting else 1.0) * 1000)):
                return

    def _settle(self, lines: dict[bytes, Line]) -> None:
        """Judge what was not answered, and the old wire."""
        for line in lines.values():
            for sent in (each for waiting in line.waiting.values() for each in waiting):
                self.comparison.judge(sent.model, sent.about, sent.recorded, None)
            in_order = len(line.answers) == len(line.sent)
            for index, sent in enumerate(line.sent):
                if in_order:
                    answer = line.answers[index]
                    self.comparison.judge(sent.model, sent.about, sent.recorded, answer)
                else:
                    self.comparison.count(sent.model, Verdict.UNKNOWN)


def _allow_files(number: int) -> None:
    """Let this process open so many files, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        most = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
