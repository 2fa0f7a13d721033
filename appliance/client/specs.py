"""What models take and give, as the appliance describes them: asked by users, and for images. PURE.

A user's DESCRIBE and its answer belong to the user. Where images are compressed, what the model
takes decides how, so it is asked about without a word to the user: at the start, for another
connection, and when a version answers that nothing is known of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from attrs import define, field

from appliance.client.line import Line
from appliance.errors import Outcome
from appliance.wire.spec import InputSpec, ModelSpec
from appliance.wire.types import Kind, Response

if TYPE_CHECKING:
    from appliance.client.channel import Channel

ANSWER_NS = 1_000_000_000
"""An appliance that does not say for so long what a model takes is not waited for any more."""


@define(eq=False)
class Known:
    """What a model takes, as far as it was told, for the images of one channel.

    Attributes:
        wanted: Whether anybody needs it.
        model_version: The only version asked about; empty: the one that is served.
        asking: Sequence of the DESCRIBE under way; 0 is none.
        sent_ns: When that was sent.
        inputs: By key; empty until it is known.
    """

    wanted: bool = False
    model_version: str = ""
    asking: int = 0
    sent_ns: int | None = None
    inputs: Mapping[str, InputSpec] = field(factory=dict[str, InputSpec])
    _spec: ModelSpec | None = None

    def told(self, spec: ModelSpec | None) -> None:
        """Take what the appliance said; None: it refused, and what was known before holds."""
        self.asking = 0
        if spec is not None:
            self._spec = spec
            self.inputs = {item.source: item for item in spec.inputs}

    def is_awaited(self, now_ns: int) -> bool:
        """Return whether nothing is known, and soon will be."""
        if self._spec is not None or not self.asking:
            return False
        return self.sent_ns is None or now_ns - self.sent_ns < ANSWER_NS

    def is_outdated(self, model_version: str) -> bool:
        """Return whether to ask again, as this version answered."""
        known = self._spec is not None and self._spec.version == model_version
        return self.wanted and not self.asking and not known


@define(eq=False)
class Specs:
    """The descriptions under way on one connection. Owned by the core."""

    _line: Line
    _asked: dict[int, Channel] = field(factory=dict[int, "Channel"])

    def describe(self, channel: Channel, model_version: str = "") -> None:
        """Ask for a user, who is told: `channel.describing` turns 0 then."""
        self._asked.pop(channel.describing, None)
        channel.spec = None
        channel.status = None
        channel.message = ""
        channel.describing = self._ask(channel, model_version)

    def learn(self, channel: Channel, model_version: str = "") -> None:
        """Ask for the images, unless a user asks."""
        known = channel.known
        known.wanted = True
        known.model_version = model_version
        if not channel.describing:
            self._asked.pop(known.asking, None)
            self._ask(channel, model_version)

    def learn_anew(self, channels: Iterable[Channel]) -> None:
        """Nothing that was sent is answered any more, and it may be another appliance."""
        for channel in channels:
            if channel.known.wanted:
                self._asked.pop(channel.known.asking, None)
                sequence = self._ask(channel, channel.known.model_version)
                if channel.describing:  # it was not answered either
                    channel.describing = sequence

    def _ask(self, channel: Channel, model_version: str) -> int:
        sequence = self._line.number()
        self._asked[sequence] = channel
        self._line.say(Kind.DESCRIBE, channel, sequence=sequence, model_version=model_version)
        channel.known.asking = sequence  # in the line there is only this one
        channel.known.sent_ns = None
        return sequence

    def sent(self, sequence: int, now_ns: int) -> None:
        """The network took a message; perhaps it was one of these."""
        channel = self._asked.get(sequence)
        if channel is not None:
            channel.known.sent_ns = now_ns

    def answered(self, response: Response) -> bool:
        """Take an answer; return whether it was asked for."""
        channel = self._asked.pop(response.sequence, None)
        if channel is None:
            return False
        channel.known.told(response.spec)
        if response.sequence != channel.describing:
            return True
        channel.describing = 0
        if response.outcome is Outcome.OK:
            channel.spec = response.spec
        else:
            channel.status = response.outcome
            channel.message = response.message
        return True

    def observed(self, channel: Channel, response: Response) -> None:
        """An answer of the model came: learn anew if its version is not the one that is known.

        Or if nothing is known, and what was sent was not to its liking.
        """
        known, outcome = channel.known, response.outcome
        tells = outcome is Outcome.OK or (outcome is Outcome.INVALID and not known.inputs)
        if tells and known.is_outdated(response.model_version):
            self.learn(channel, known.model_version)
