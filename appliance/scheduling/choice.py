"""What a strategy is asked, and what it may say.

A strategy decides one thing: which requests of one lane a worker runs next. Who may wait, who is
refused, who is answered and when a worker may be given a batch is the scheduler's. What any but the
default says is checked (`guard`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Union

from appliance.scheduling.events import Lane, Request
from appliance.scheduling.line import Line
from appliance.values import value

FOREVER_NS = 1 << 62


@value
class Contender:
    """A lane that a worker may serve next.

    Attributes:
        times_ns: Planned time by batch size up to the largest; index 0 is 0. Where tier 0 waits,
            those of `careful_ns`.
        careful_ns: As `times_ns`, for tier 0, which had better not be late.
        alone_ns: Planned time of a single row, whoever waits.
        delay_ns: What `start_ns` is later than when the worker can begin (see `Strategy.choose`).
        switch_ns: Of that worker's change to the lane's model, and of loading it if that is not in
            its memory; 0: it runs that one now.
        usual_switch_ns: The same, whatever it runs now.
        others_free_ns: When another worker that hosts the model is free.
        dry_from_ns: From when on a dry robot may go before all others.
        late_from_ns: From when on who is late may.
        unit: What a row is worth: its time in the largest batch, times what each of its timely
            requests is worth, if that is the same.
    """

    lane: Lane
    line: Line
    times_ns: Sequence[int]
    careful_ns: Sequence[int]
    alone_ns: int
    delay_ns: int
    switch_ns: int
    usual_switch_ns: int
    others_free_ns: int
    dry_from_ns: int
    late_from_ns: int
    unit: float

    @property
    def most(self) -> int:
        """The largest batch."""
        return len(self.times_ns) - 1


@value
class Choice:
    """Run these requests of `lane`; at least one.

    Attributes:
        lead: The one without a deadline to lose that goes before all others.
    """

    lane: Lane
    requests: list[Request]
    lead: Request | None = None


@value
class Wait:
    """Run nothing yet; ask again when it is `until_ns`, whatever happens before."""

    until_ns: int


Decided = Union[Choice, Wait, None]  # noqa: UP007


class Strategy(Protocol):
    """See the module's docstring. Nothing is to be changed by it."""

    def choose(self, contenders: Sequence[Contender], start_ns: int) -> Decided:
        """Return what a worker should run next; None: nothing for it.

        Args:
            start_ns: When it can begin, and what comes to a batch's own time until its answers
                have left: they have by `start_ns` and that time.
            contenders: The lanes that have something waiting; at least one.
        """
        ...
