"""The SDK's state machine: what is asked, sent, answered and given up. No socket, no clock.

Theory of operation. An observation is `ask`ed, waits in one ordered line of unsent messages until
the link takes it (`outgoing`, then `sent`), and is outstanding until its answer (`receive`), until
it is replaced or cancelled before it was sent, or until it is given up (`tick`). Answers are
matched by sequence, so that the answer to an older observation is never taken for a newer one's.

Per model, `keep` decides what a newer observation does:

- latest: it replaces the one that still waits here, and at most two are on the wire unanswered, so
  that the newest is never far behind; answers to older ones are counted and dropped, unless the
  channel `takes_older`.
- all: nothing is replaced, every answer is kept until collected, and a full window refuses.

An observation with images to be compressed is `pending` before it comes into the line: `jobs` says
what to compress now, `encoded` takes what came of it.

Bounded: the window limits what one model has outstanding and uncollected; the line holds no more
than that, one CANCEL for each and one message of each other kind per model; what is older than
`give_up_ns` is given up.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, evolve, field

from appliance.client.channel import Asked, Channel
from appliance.client.codec import read_answer
from appliance.client.images import Done, Job
from appliance.client.line import Line, Outgoing
from appliance.client.result import Result, refused
from appliance.client.roundtrip import RoundTrip
from appliance.client.specs import Specs
from appliance.client.statistics import Ledger, Statistics
from appliance.errors import LocalProtocolError, Outcome, PeerProtocolError, WindowFull
from appliance.wire.types import Keep, Kind, Observation

HEARTBEAT_NS = 1_000_000_000


@define(eq=False, kw_only=True)
class Core:
    """One connection's memory.

    Attributes:
        nonce: Random, one per connection.
        give_up_ns: Age at which an unanswered observation is given up.
        heartbeat_ns: Something is said at least so often.
        watches_silence: Something is to be heard as often, too.
        asked_ns: Since when something was sent and nothing heard.
        draining: The appliance said that it is about to end.
        last_heard_ns: When the appliance was last heard; None is never.
        specs: What models take; to be asked for there.
        refusal: Why the appliance answers but does not serve this client; empty if it does.
        closed: Nothing can be asked any more.
    """

    client_id: str
    client_type: str
    nonce: int
    give_up_ns: int
    started_ns: int
    heartbeat_ns: int = HEARTBEAT_NS
    last_heard_ns: int | None = None
    watches_silence: bool = False
    draining: bool = False
    asked_ns: int | None = None
    refusal: str = ""
    closed: bool = False
    ledger: Ledger = field(factory=Ledger)
    round_trip: RoundTrip = field(factory=RoundTrip)
    _channels: dict[str, Channel] = field(factory=dict[str, Channel])
    _outstanding: dict[int, Asked] = field(factory=dict[int, Asked])
    _line: Line = field(init=False)
    specs: Specs = field(init=False)
    _spoke_ns: int = field(init=False)
    _greeted_ns: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._spoke_ns = self._greeted_ns = self.started_ns
        self._line = Line(self.client_id, self.client_type, self.nonce, self.round_trip)
        self.specs = Specs(self._line)

    # ------------------------------------------------------------------------------ asking

    def channel(self, model_id: str, *, keep: Keep = Keep.DEFAULT, window: int = 256) -> Channel:
        """Return the model's channel, opened at the first call.

        Raises:
            ValueError: It is open with another `keep`.
        """
        channel = self._channels.get(model_id)
        if channel is None:
            channel = self._channels[model_id] = Channel(model_id, keep, window)
        elif keep not in (Keep.DEFAULT, channel.keep):
            raise ValueError(
                f"model {model_id!r} is open on this connection with keep={channel.keep.name}, "
                f"not {keep.name}"
            )
        return channel

    def next_sequence(self, channel: Channel) -> int:
        """Return the number for the channel's next observation.

        Raises:
            LocalProtocolError: The connection is closed.
            WindowFull: Under `keep` all, when `window` are outstanding or uncollected.
        """
        if self.closed:
            raise LocalProtocolError("the connection is closed")
        if channel.keeps_all and len(channel.held) + len(channel.answers) >= channel.window:
            raise WindowFull(
                f"model {channel.model_id!r}: {len(channel.held)} observations outstanding and "
                f"{len(channel.answers)} answers uncollected, window {channel.window}"
            )
        return self._line.number()

    def ask(
        self,
        channel: Channel,
        observation: Observation,
        payload: bytes,
        now_ns: int,
        job: Job | None = None,
    ) -> None:
        """Put an observation numbered by `next_sequence` in the line.

        Args:
            job: What is to be compressed before; the tensors and the payload come with it.
        """
        if not channel.keeps_all:
            self._make_room(channel, job)
        sequence = observation.sequence
        asked = Asked(channel, observation, payload, now_ns, job=job)
        self._outstanding[sequence] = channel.held[sequence] = asked
        if job is not None or channel.pending:
            channel.pending.add(sequence, asked)
        elif channel.has_slot(now_ns):
            self._line.put(sequence, asked)
        else:
            channel.waiting = asked
        channel.latest = sequence
        channel.status = None
        channel.message = ""
        self.ledger.asked += 1

    def _make_room(self, channel: Channel, job: Job | None) -> None:
        """Under `keep` latest: whatever is older is not wanted any more."""
        if not channel.takes_older:
            self.drop_answers(channel)
        elif len(channel.answers) >= channel.window:
            self.ledger.stale_dropped += 1
            del channel.answers[next(iter(channel.answers))]
        for older in channel.replaced_by(job):
            self._supersede(older)
        while len(channel.held) >= channel.window:
            self._give_up(next(iter(channel.held.values())))

    def _supersede(self, asked: Asked) -> None:
        self._end(asked, Outcome.SUPERSEDED)
        self.ledger.superseded_locally += 1

    def cancel(self, channel: Channel, sequence: int) -> None:
        """Withdraw an observation; the appliance's word on it is still counted."""
        asked = channel.held.get(sequence)
        if asked is None or asked.withdrawn:
            return
        if asked.sent_ns is None:
            self._end(asked, Outcome.CANCELLED)
            self.ledger.cancelled_locally += 1
            self._note(asked, Outcome.CANCELLED, "cancelled before it was sent")
            return
        asked.withdrawn = True
        self._line.say(Kind.CANCEL, channel, sequence=sequence)

    def end_episode(self, channel: Channel) -> None:
        """Tell the appliance that the episode is over; the next observation starts another."""
        key, message = self._line.message(Kind.END_EPISODE, channel, sequence=self._line.number())
        channel.episode += 1
        channel.pending.add(key, message)  # after what was asked before
        self._release(channel)

    def greet(self) -> None:
        """Ask for a sign of life."""
        self._line.say(Kind.HEARTBEAT, None, sequence=self._line.number())

    # ------------------------------------------------------------------------- compressing

    def jobs(self, now_ns: int) -> list[Job]:
        """Return what is to be compressed now: of each model one, when the last is `encoded`."""
        found = [
            each.pending.next_job(each.known.inputs)
            for each in self._channels.values()
            if each.pending and not each.known.is_awaited(now_ns)
        ]
        return [job for job in found if job is not None]

    def encoded(self, done: Done, now_ns: int) -> None:
        """Take what came of a job; if it failed, its observation ends as INVALID."""
        channel = self._channels[done.model_id]
        channel.pending.encoding = 0
        asked = self._outstanding.get(done.sequence)
        if asked is None:  # replaced or taken back meanwhile
            return
        asked.job = None
        if done.error:
            self.ledger.encoding_failed += 1
            refusal = refused(asked.observation, Outcome.INVALID, done.error)
            self._answered(asked, Result({}, refusal, elapsed_ns=now_ns - asked.asked_ns))
        else:
            asked.observation = evolve(asked.observation, tensors=done.headers)
            asked.payload = done.payload
            self._release(channel)

    def _release(self, channel: Channel) -> None:
        """Put in the line what waits for no image any more."""
        for key, message in channel.pending.released():
            if isinstance(message, Observation):
                self._let_go(channel)
            elif not channel.keeps_all:
                for older in channel.unsent:
                    if older.observation.sequence < message.observation.sequence:
                        self._supersede(older)
                channel.waiting = message  # until the next tick at most, if there is a slot
                continue
            self._line.put(key, message)

    # ----------------------------------------------------------------------------- sending

    def tick(self, now_ns: int) -> None:
        """Give up what is too old, and say that we are here if nothing was said for a second.

        What waited for a slot is put in the line when there is one.
        """
        while self._outstanding:
            oldest = next(iter(self._outstanding.values()))
            if now_ns - oldest.asked_ns < self.give_up_ns:
                break
            self._give_up(oldest)
        for channel in self._channels.values():
            if channel.waiting is not None and channel.has_slot(now_ns):
                self._let_go(channel)
        if not self._line and now_ns - self._spoke_ns >= self.heartbeat_ns:
            self._greeted_ns = now_ns
            self.greet()
        elif self.watches_silence and now_ns - self._greeted_ns >= self.heartbeat_ns:
            # What is under way may take long: that is no reason to say nothing.
            heard_ns = self.started_ns if self.last_heard_ns is None else self.last_heard_ns
            if now_ns - heard_ns >= self.heartbeat_ns:
                self._greeted_ns = now_ns
                self.greet()

    def _let_go(self, channel: Channel) -> None:
        """Put what waited for a slot in the line."""
        asked, channel.waiting = channel.waiting, None
        if asked is not None:
            self._line.put(asked.observation.sequence, asked)

    def lost(self) -> None:
        """The connection is over: nothing that was sent will be answered."""
        self.draining, self.asked_ns = False, None
        for channel in self._channels.values():
            channel.forget_advice()
        for asked in [asked for asked in self._outstanding.values() if asked.sent_ns is not None]:
            self._give_up(asked)
        self.specs.learn_anew(self._channels.values())

    @property
    def has_outgoing(self) -> bool:
        """Whether a message waits to be sent."""
        return bool(self._line)

    def outgoing(self, now_ns: int) -> Outgoing:
        """Encode the message at the head of the line; it stays there until `sent`."""
        return self._line.head(now_ns)

    def sent(self, outgoing: Outgoing, now_ns: int) -> None:
        """The network took the message."""
        self._spoke_ns = now_ns
        if self.asked_ns is None:
            self.asked_ns = now_ns
        asked = self._line.take(outgoing.key)
        if isinstance(asked, Asked):
            asked.sent_ns = now_ns
            asked.payload = b""
            self.ledger.sent += 1
            if not asked.channel.keeps_all:
                asked.channel.on_wire[asked.observation.sequence] = now_ns
        else:
            self.specs.sent(asked.sequence, now_ns)

    # --------------------------------------------------------------------------- receiving

    def receive(self, frames: Sequence[bytes], now_ns: int, *, prompt: bool) -> None:
        """Take one message of the appliance, whatever it is; nothing is ever raised.

        Args:
            frames: As received: an empty one, the envelope, the payload.
            now_ns: When it was read from the socket.
            prompt: It was read as soon as it came, so that its time may be measured.
        """
        try:
            response, tensors = read_answer(frames)
        except PeerProtocolError:
            self.ledger.bad_answers += 1
            return
        self.asked_ns = None
        if response.kind is Kind.HEARTBEAT:
            refused = response.outcome not in (Outcome.OK, Outcome.DRAINING)
            self.refusal = f"{response.outcome.name}: {response.message}" if refused else ""
            if refused:
                return
        self.last_heard_ns = now_ns
        self.draining = response.outcome is Outcome.DRAINING
        if response.kind is Kind.DESCRIBE:
            self.ledger.unmatched += not self.specs.answered(response)
        elif response.kind is Kind.OBSERVE:
            asked = self._outstanding.get(response.sequence)
            if asked is None or asked.sent_ns is None:
                self.ledger.unmatched += 1
                return
            sample_ns = max(0, now_ns - asked.sent_ns - response.timing.total_us * 1000)
            (self.round_trip.measured if prompt else self.round_trip.at_most)(sample_ns)
            result = Result(tensors, response, elapsed_ns=now_ns - asked.asked_ns)
            self._answered(asked, result)
            self.specs.observed(asked.channel, response)

    def _answered(self, asked: Asked, result: Result) -> None:
        channel = asked.channel
        awaited = channel.awaits(result.sequence)
        self._end(asked, result.status)
        channel.advised(asked, result.response.phase_advice_us)
        if awaited:
            channel.answers[result.sequence] = result
        else:
            self.ledger.stale_dropped += 1
        self._note(asked, result.status, result.message)

    # -------------------------------------------------------------------------- collecting

    def take_latest(self, channel: Channel) -> Result | None:
        """Collect the answer to the latest observation; uncollected older ones are dropped."""
        result = channel.answers.pop(channel.latest, None)
        if result is not None:
            self.drop_answers(channel)
        return result

    def drop_answers(self, channel: Channel) -> None:
        """Count what was not collected as stale: nobody is given it any more."""
        self.ledger.stale_dropped += len(channel.answers)
        channel.answers.clear()

    # ------------------------------------------------------------------------------ ending

    def close(self) -> None:
        """Give up everything: nobody will listen any more."""
        self.closed = True
        self._line.clear()
        for asked in list(self._outstanding.values()):
            self._give_up(asked)

    def _end(self, asked: Asked, outcome: Outcome) -> None:
        self._forget(asked)
        self.ledger.ended(outcome)

    def _give_up(self, asked: Asked) -> None:
        self._forget(asked)
        self.ledger.unanswered += 1

    def _forget(self, asked: Asked) -> None:
        sequence = asked.observation.sequence
        channel = asked.channel
        self._line.discard(sequence)
        del self._outstanding[sequence]
        del channel.held[sequence]
        if channel.waiting is asked:
            channel.waiting = None
        elif channel.pending.discard(sequence):
            self._release(channel)
        elif channel.on_wire.pop(sequence, None) is not None:
            self._let_go(channel)

    def _note(self, asked: Asked, outcome: Outcome, message: str) -> None:
        if asked.observation.sequence == asked.channel.latest:
            asked.channel.status = outcome
            asked.channel.message = message

    @property
    def outstanding(self) -> int:
        """Observations that have not ended."""
        return len(self._outstanding)

    def statistics(self) -> Statistics:
        """Return a snapshot of the ledger."""
        return self.ledger.snapshot(
            outstanding=len(self._outstanding), round_trip_us=self.round_trip.estimate_us
        )
