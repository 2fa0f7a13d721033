"""What the core remembers of one model: its observations and their answers."""

from __future__ import annotations

from weakref import ref

from attrs import define, field

from appliance.client.cadence import Cadence
from appliance.client.images import Job
from appliance.client.pending import Pending
from appliance.client.result import Result
from appliance.client.specs import Known
from appliance.errors import Outcome
from appliance.wire.spec import ModelSpec
from appliance.wire.types import Keep, Observation

SLOTS = 2
"""Observations of a model on the wire and unanswered: one executed, one to follow it."""

SLOT_NS = 1_000_000_000


@define(eq=False)
class Asked:
    """One outstanding observation.

    Attributes:
        job: Its images are to be compressed first; None: it can be sent.
        moved_ns: By how much its instant had been moved by advice.
    """

    channel: Channel
    observation: Observation
    payload: bytes
    asked_ns: int
    sent_ns: int | None = None
    withdrawn: bool = False
    job: Job | None = None
    moved_ns: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        cadence = self.channel.cadence
        if cadence is not None:
            self.moved_ns = cadence.asked(self.observation.sequence)


@define(eq=False)
class Channel:
    """Everything about one model on one connection. Owned by the core.

    Attributes:
        keep: DEFAULT behaves as LATEST here and leaves the choice to the appliance.
        window: Observations that may be outstanding or uncollected at once.
        latest: Sequence of the newest observation; 0 is none.
        status: How the latest ended; None while it has not.
        episode: Sent with each observation; 0 until episodes are used.
        held: Sequences outstanding; under `keep` latest the older ones only wait to be counted.
        answers: By sequence, not yet collected.
        describing: Sequence of the DESCRIBE under way; 0 is none.
        takes_older: Under `keep` latest, too, each answer is collected: chunks that come late are
            of use.
        waiting: Under `keep` latest, the newest, as long as `SLOTS` are on the wire unanswered.
        on_wire: Sequences that take a slot, and when they were sent.
        pending: What waits for an image to be compressed.
        known: What the model takes.
    """

    model_id: str
    keep: Keep
    window: int
    latest: int = 0
    status: Outcome | None = None
    message: str = ""
    episode: int = 0
    held: dict[int, Asked] = field(factory=dict[int, Asked])
    answers: dict[int, Result] = field(factory=dict[int, Result])
    describing: int = 0
    spec: ModelSpec | None = None
    takes_older: bool = False
    waiting: Asked | None = None
    on_wire: dict[int, int] = field(factory=dict[int, int])
    pending: Pending = field(factory=Pending)
    known: Known = field(factory=Known)
    _cadence: ref[Cadence] | None = field(default=None, init=False)

    @property
    def cadence(self) -> Cadence | None:
        """The instants it is observed at, as long as somebody keeps to them, who owns this."""
        return None if self._cadence is None else self._cadence()

    def follow(self, period_ns: int) -> Cadence:
        """Begin a cadence; the one before hears no advice any more."""
        cadence = Cadence(period_ns, self.latest)
        self._cadence = ref(cadence)
        return cadence

    def forget_cadence(self) -> None:
        """Nobody keeps to a cadence any more."""
        self._cadence = None

    def advised(self, asked: Asked, advice_us: int) -> None:
        """Take in what an answer says about when to observe."""
        cadence = self.cadence
        if cadence is not None:
            cadence.answered(asked.observation.sequence, asked.moved_ns, advice_us)

    def forget_advice(self) -> None:
        """Drop the advice of an appliance that is not asked any more."""
        cadence = self.cadence
        if cadence is not None:
            cadence.forget_advice()

    @property
    def keeps_all(self) -> bool:
        """Whether no observation replaces another."""
        return self.keep is Keep.ALL

    @property
    def unsent(self) -> list[Asked]:
        """The observations that were not sent yet, newest first."""
        found: list[Asked] = []
        for asked in reversed(self.held.values()):
            if asked.sent_ns is not None:  # they leave in order
                break
            found.append(asked)
        return found

    def replaced_by(self, job: Job | None) -> list[Asked]:
        """Return what is not sent any more under `keep` latest when a newer one is asked.

        What can be sent already, or is in the encoder's hands, is kept as long as the newest has to
        wait for the encoder: or who observes faster than it works would never send anything.

        Args:
            job: Of the newest.
        """
        encoding = self.pending.encoding
        return [
            asked
            for asked in self.unsent
            if job is None or (asked.job is not None and asked.job.sequence != encoding)
        ]

    def has_slot(self, now_ns: int) -> bool:
        """Whether another observation may be sent.

        What is on the wire nothing here replaces. A slot whose answer is long overdue is free
        again: it may have been lost.
        """
        while self.on_wire and now_ns - next(iter(self.on_wire.values())) >= SLOT_NS:
            del self.on_wire[next(iter(self.on_wire))]
        return self.keeps_all or len(self.on_wire) < SLOTS

    def awaits(self, sequence: int) -> bool:
        """Whether an answer to this observation is outstanding and would be given to somebody."""
        asked = self.held.get(sequence)
        if asked is None or asked.withdrawn:
            return False
        return self.keeps_all or self.takes_older or sequence == self.latest

    def take(self, sequence: int) -> Result | None:
        """Collect the answer to one observation."""
        return self.answers.pop(sequence, None)

    def take_first(self) -> Result | None:
        """Collect the answer that came first."""
        return self.answers.pop(next(iter(self.answers))) if self.answers else None
