"""What a connection has sent and heard, and when it may go on. Pure.

By the recording's clock, outcomes come before or after what is sent next. What came after an
outcome may depend on it, as with a robot that waits for each answer, and is sent after it again.
Outcomes that nobody is told are not waited for: of the old wire, all but OK.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count

from attrs import define, field

from appliance.cli.replay.comparison import Ending
from appliance.errors import Outcome

NOT_TOLD = frozenset({Outcome.CANCELLED, Outcome.CLIENT_GONE})


@define(eq=False)
class Sent:
    """An observation on its way; `recorded` is how it ended before."""

    model: str
    about: str
    recorded: Ending | None
    is_answered: bool = False


@define(eq=False)
class Line:
    """One recorded connection.

    Args:
        is_old: It speaks the old wire.

    Attributes:
        waiting: Observations sent and not answered, by sequence.
        sent, answers: Of the old wire: all of them, in order.
        is_waited_for: What it sends waits for what it heard before.
    """

    is_old: bool
    waiting: dict[int, deque[Sent]] = field(factory=dict[int, "deque[Sent]"])
    sent: list[Sent] = field(factory=list["Sent"])
    answers: list[Ending] = field(factory=list[Ending])
    is_waited_for: bool = True
    _told: deque[Sent] = field(factory=deque["Sent"])  # of the old wire: those that were answered
    _awaited: list[tuple[int, int, Sent]] = field(factory=list["tuple[int, int, Sent]"])
    _numbers: count[int] = field(factory=count)

    def expect(self, sent: Sent, sequence: int) -> None:
        """Note that an observation was sent."""
        recorded = sent.recorded
        if self.is_old:
            self.sent.append(sent)
            told = recorded is not None and recorded.outcome is Outcome.OK
            if told:
                self._told.append(sent)
        else:
            self.waiting.setdefault(sequence, deque()).append(sent)
            told = recorded is not None and recorded.outcome not in NOT_TOLD
        if recorded is not None and told:
            heapq.heappush(self._awaited, (recorded.ended_ns, next(self._numbers), sent))

    def answered(self, sequence: int, ending: Ending) -> Sent | None:
        """Note an answer; return what it is of, where the wire says so."""
        if self.is_old:
            self.answers.append(ending)
            if self._told:
                self._told.popleft().is_answered = True
            return None
        waiting = self.waiting.get(sequence)
        if not waiting:
            return None
        sent = waiting.popleft()
        if not waiting:
            del self.waiting[sequence]
        sent.is_answered = True
        return sent

    def is_due(self, received_ns: int) -> bool:
        """Return whether all is answered that had been when this was received."""
        awaited = self._awaited
        while awaited and awaited[0][2].is_answered:
            heapq.heappop(awaited)
        return not (self.is_waited_for and awaited and awaited[0][0] < received_ns)
