"""Sends what was recorded again, at its pace, and takes the answers. Blocking, in one thread.

Each recorded connection has a socket of its own. Clients of the old wire are known by their routing
id, so theirs is used again; all others get a new one, as the SDK does. An answer is matched to its
observation by its sequence. The old wire has none: there, answers are matched in order, if there
are as many as observations.

A robot that waits for an answer before it asks again is replayed so (`lines`): what came after an
outcome of the same connection is sent after that outcome, however long that takes now. All that
follows waits with it, so that the order and the pauses stay as they were.
"""

from __future__ import annotations

import resource
import secrets
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import zmq
from attrs import define, field

from appliance.cli.replay.comparison import Comparison, Ending, Verdict
from appliance.cli.replay.entry import ANSWER_FRAMES, Keys, greet
from appliance.cli.replay.lines import Line, Sent
from appliance.cli.replay.survey import Key, Survey
from appliance.client.curve import use_keys
from appliance.errors import PeerGone, RecordingError
from appliance.recording.messages import Topic
from appliance.recording.reader import RecordingReader
from appliance.wire.pb import recording_pb2, session_pb2
from appliance.wire.session import decode_response
from appliance.wire.types import Kind

SECOND_NS = 1_000_000_000
PATIENCE_S = 10.0
"""For an answer that is missing, for a socket to take an observation; and, after the last
observation, without any answer."""
LONGEST_POLL_MS = 60_000
LONGEST_S = 7 * 86_400
"""Of a replay: what takes longer was not meant."""
FILES_PER_SOCKET = 2
SPARE_FILES = 64
SPARE_SOCKETS = 16


@define(eq=False)
class Replay:
    """See the module's docstring.

    Args:
        server: Its address.
        keys: Those of each connection.
        speed: Times as fast as recorded.

    Attributes:
        sent: Observations sent.
        late_us: How late the latest of them was.
        held_up_ns: By how much all that follows was put off, to wait for answers.
    """

    path: Path
    survey: Survey
    comparison: Comparison
    server: str
    keys: Keys
    speed: float
    sent: int = field(default=0, init=False)
    late_us: int = field(default=0, init=False)
    held_up_ns: int = field(default=0, init=False)
    _lines: dict[bytes, Line] = field(factory=dict[bytes, Line], init=False)
    _sockets: dict[bytes, zmq.Socket[bytes]] = field(
        factory=dict[bytes, "zmq.Socket[bytes]"], init=False
    )
    _sessions: dict[zmq.Socket[bytes], bytes] = field(
        factory=dict["zmq.Socket[bytes]", bytes], init=False
    )
    _waiting: int = field(default=0, init=False)
    _poller: zmq.Poller = field(factory=zmq.Poller, init=False)

    def run(self) -> None:
        """Send everything and take what comes.

        Raises:
            PeerGone: No appliance answers at the address, or it refuses somebody.
            RecordingError: The file has changed since it was surveyed, would take too long, or has
                more connections than this process may make.
        """
        self._check_length()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._allow(context)
            greet(context, self.server, self.keys)
            for session, each in self.survey.sessions.items():
                self._connect(context, session, is_old=each.is_old)
            self._send_all()
            self._wait_for_answers()
        except zmq.ZMQError as error:  # such as no memory or descriptors left
            raise PeerGone(f"{self.server}: {zmq.strerror(error.errno or 0)}") from error
        finally:
            context.destroy(linger=0)
        self._settle()

    def _check_length(self) -> None:
        seconds = (self.survey.last_ns - self.survey.first_ns) / SECOND_NS / self.speed
        if seconds > LONGEST_S:
            raise RecordingError(
                f"{self.path}: at {self.speed:g}x this takes {seconds / 86_400:.3g} days, and more "
                f"than {LONGEST_S // 86_400} are not replayed; a higher --speed is quicker"
            )

    def _allow(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Make room for all connections."""
        connections = len(self.survey.sessions)
        files = _allow_files(FILES_PER_SOCKET * connections + SPARE_FILES)
        most = min(
            (files - SPARE_FILES) // FILES_PER_SOCKET,
            int(context.get(zmq.SOCKET_LIMIT)) - SPARE_SOCKETS,
        )
        if connections > most:
            raise RecordingError(
                f"{self.path}: has {connections} connections, and this process may make {most}; "
                f"it may open {files} files (ulimit -Hn)"
            )
        context.set(zmq.MAX_SOCKETS, connections + SPARE_SOCKETS)

    def _connect(
        self, context: zmq.Context[zmq.Socket[bytes]], session: bytes, *, is_old: bool
    ) -> None:
        socket = context.socket(zmq.DEALER)
        # The first byte of a routing id that ZeroMQ makes is 0, and nobody may choose such a one.
        own = is_old and not session.startswith(b"\0")
        socket.set(zmq.ROUTING_ID, session if own else b"r" + secrets.token_bytes(12))
        use_keys(socket, self.keys[session])
        socket.connect(self.server)
        self._poller.register(socket, zmq.POLLIN)
        self._sockets[session], self._sessions[socket] = socket, session
        self._lines[session] = Line(is_old)

    # ----------------------------------------------------------------------------- out, and in

    def _send_all(self) -> None:
        started_ns = time.monotonic_ns()
        for message in self._observations():
            offset_ns = max(0, message.received_ns - self.survey.first_ns)
            planned_ns = started_ns + round(offset_ns / self.speed)
            due_ns = planned_ns + self.held_up_ns
            while (left_ns := due_ns - time.monotonic_ns()) > 0:
                whole_ms = left_ns // 1_000_000
                if not whole_ms:
                    time.sleep(left_ns / SECOND_NS)
                else:
                    self._take(min(whole_ms, LONGEST_POLL_MS))
            line = self._lines.get(message.session)
            if line is None:
                raise RecordingError(f"{self.path}: was changed while it was replayed")
            if not line.is_due(message.received_ns):
                self._wait_until_due(line, message.received_ns)
                self.held_up_ns += max(0, time.monotonic_ns() - due_ns)
            self.late_us = max(self.late_us, (time.monotonic_ns() - planned_ns) // 1000)
            self._send(line, message)
            self._take(0)

    def _wait_until_due(self, line: Line, received_ns: int) -> None:
        """Wait, within bounds, until a connection has heard what it had heard before it sent."""
        until_ns = time.monotonic_ns() + round(PATIENCE_S * SECOND_NS)
        has_heard = False
        while not line.is_due(received_ns):
            left_ms = (until_ns - time.monotonic_ns()) // 1_000_000
            if left_ms <= 0:
                # From here on at the recorded pace; if there was nothing at all, for everybody.
                for each in [line] if has_heard else self._lines.values():
                    each.is_waited_for = False
                return
            has_heard |= self._take(left_ms) > 0

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
        self._hand_over(
            self._sockets[message.session], [b"", envelope.SerializeToString(), message.payload]
        )
        if not is_observation:
            return
        self.sent += 1
        client = envelope.client.id or message.session.decode("utf-8", "replace")
        about = f"{client} {envelope.model_id} sequence {envelope.sequence}"
        sent = Sent(envelope.model_id, about, recorded)
        line.expect(sent, envelope.sequence)
        self._waiting += not line.is_old

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
            line = self._lines[self._sessions[socket]]
            while True:
                try:
                    parts = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                taken += 1
                self._answered(line, parts)
        return taken

    def _answered(self, line: Line, parts: list[bytes]) -> None:
        if len(parts) != ANSWER_FRAMES:
            return
        response = decode_response(parts[1], len(parts[2]))
        if response.kind is not Kind.OBSERVE:
            return
        ending = Ending(response.outcome, response.model_version, response.tensors, parts[2])
        sent = line.answered(response.sequence, ending)
        if sent is not None:
            self._waiting -= 1
            self.comparison.judge(sent.model, sent.about, sent.recorded, ending)

    def _wait_for_answers(self) -> None:
        """Wait for what is missing, as long as something comes."""
        old = sum(len(line.sent) for line in self._lines.values())
        while self._waiting or sum(len(line.answers) for line in self._lines.values()) < old:
            if not self._take(round((PATIENCE_S if self._waiting else 1.0) * 1000)):
                return

    def _settle(self) -> None:
        """Judge what was not answered, and the old wire."""
        for line in self._lines.values():
            for sent in (each for waiting in line.waiting.values() for each in waiting):
                self.comparison.judge(sent.model, sent.about, sent.recorded, None)
            in_order = len(line.answers) == len(line.sent)
            for index, sent in enumerate(line.sent):
                if in_order:
                    answer = line.answers[index]
                    self.comparison.judge(sent.model, sent.about, sent.recorded, answer)
                else:
                    self.comparison.give_up(sent.model, sent.recorded)


def _allow_files(number: int) -> int:
    """Let this process open so many files, if it may; return how many it may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        most = number if hard == resource.RLIM_INFINITY else min(number, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
