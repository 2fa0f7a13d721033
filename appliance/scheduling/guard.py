"""Between the scheduler and a strategy that somebody chose: what breaks a rule is not done.

A strategy that raises, answers what may not be done, takes too long or lets everybody wait is not
asked again: the default decides instead, from that decision on. What it cannot hold back is a
strategy that never returns, or changes what it is shown.
"""

from __future__ import annotations

import traceback
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, cast

from attrs import define, field, frozen

from appliance.errors import StrategyError
from appliance.scheduling.choice import Choice, Contender, Decided, Strategy, Wait
from appliance.scheduling.events import Request
from appliance.scheduling.line import Line
from appliance.scheduling.streams import Streams

SLOW_NS = 5_000_000
SLOW_IN_A_ROW = 3
"""So many decisions in a row that each took longer than `SLOW_NS`."""

ASK_AGAIN_NS = 10_000_000
"""While somebody could run, a strategy that waits is asked at least so often."""

IDLE_NS = 1_000_000_000
IDLE_IN_A_ROW = 50
"""So many times in a row, and for so long, it chose nobody though somebody could run."""

LONGEST_MESSAGE = 300


@frozen
class StrategyMaker:
    """A strategy by its name, and how it is made out of what the scheduler knows of its clients."""

    name: str
    make: Callable[[Streams], Strategy]


@frozen
class StrategyFault:
    """Why the default decides instead of the strategy that was chosen.

    Attributes:
        strategy: Its name.
        cause: `raised`, `nonsense`, `unknown_lane`, `not_waiting`, `repeated`, `too_many`, `late`,
            `not_a_number`, `slow` or `idle`.
        traceback: Of what it raised, if it did.
    """

    strategy: str
    cause: str
    message: str
    traceback: str = ""


@define(eq=False)
class Guard:
    """A strategy, and the default that takes its place. See the module's docstring.

    Args:
        clock_ns: Measures how long the strategy takes; None: nobody does.

    Attributes:
        fault: Why the default has taken over; None: it has not.
    """

    name: str
    strategy: Strategy
    default: Strategy
    clock_ns: Callable[[], int] | None = None
    fault: StrategyFault | None = field(default=None, init=False)
    _slow: int = field(default=0, init=False)
    _idle: int = field(default=0, init=False)
    _idle_since_ns: int = field(default=0, init=False)

    def choose(self, contenders: Sequence[Contender], start_ns: int) -> Decided:
        """See `Strategy.choose`."""
        if self.fault is None:
            try:
                return self._ask(tuple(contenders), start_ns)
            except StrategyError as error:
                self.fault = StrategyFault(self.name, error.cause, _cut(str(error)))
            except (Exception, SystemExit) as error:  # noqa: BLE001  the robots are not to notice
                # Not str(error): that is its code, too.
                said = traceback.format_exception_only(error)[-1].strip()
                told = "".join(traceback.format_exception(error))
                self.fault = StrategyFault(self.name, "raised", f"it raised {_cut(said)}", told)
        return self.default.choose(contenders, start_ns)

    def _ask(self, contenders: Sequence[Contender], start_ns: int) -> Decided:
        if self.clock_ns is None:
            decided = self.strategy.choose(contenders, start_ns)
        else:
            began_ns = self.clock_ns()
            decided = self.strategy.choose(contenders, start_ns)
            self._took(self.clock_ns() - began_ns)
        if isinstance(decided, Choice):
            self._idle = 0
            return checked(decided, contenders, start_ns)
        return self._nobody(decided, contenders, start_ns)

    def _took(self, took_ns: int) -> None:
        self._slow = self._slow + 1 if took_ns > SLOW_NS else 0
        if self._slow >= SLOW_IN_A_ROW:
            raise StrategyError(
                "slow",
                f"it took more than {SLOW_NS / 1e6:g} ms for each of {self._slow} decisions in a "
                f"row, {took_ns / 1e6:.1f} ms for the last",
            )

    def _nobody(
        self, decided: Wait | None, contenders: Sequence[Contender], start_ns: int
    ) -> Decided:
        """Let a worker have nothing for a while, and ask again soon if somebody could run."""
        now_ns = start_ns - contenders[0].delay_ns if contenders else start_ns
        if decided is not None and (
            not isinstance(cast("object", decided), Wait)
            or type(decided.until_ns) is not int
            or decided.until_ns <= now_ns
        ):
            raise StrategyError(
                "nonsense",
                f"it answered {_kind(decided)}; expected a Choice, None, or a Wait with an integer "
                f"until_ns after {now_ns}",
            )
        if not any(_could_run(one, start_ns) for one in contenders):
            return decided
        if not self._idle:
            self._idle_since_ns = start_ns
        self._idle += 1
        idle_ns = start_ns - self._idle_since_ns
        if self._idle > IDLE_IN_A_ROW and idle_ns > IDLE_NS:
            raise StrategyError(
                "idle", f"it chose nobody for {idle_ns / 1e9:.1f} s, though somebody could run"
            )
        again_ns = start_ns + ASK_AGAIN_NS
        return Wait(again_ns if decided is None else min(decided.until_ns, again_ns))


def checked(choice: Choice, contenders: Sequence[Contender], start_ns: int) -> Choice:
    """Return a choice that may be done.

    Raises:
        StrategyError: It may not.
    """
    one = next((one for one in contenders if one.lane == choice.lane), None)
    if one is None:
        raise StrategyError("unknown_lane", f"it chose the lane {choice.lane!r}: not asked about")
    model, requests = one.lane.model.name, cast("Any", choice.requests)
    if not isinstance(requests, (list, tuple)) or not requests:
        raise StrategyError(
            "nonsense",
            f"it chose {_kind(choice.requests)} of the model {model!r}; expected a list of "
            "requests, not empty",
        )
    members = list(cast("Sequence[Request]", requests))
    if len(members) > one.most:
        raise StrategyError(
            "too_many", f"it chose {len(members)} of the model {model!r}, which takes {one.most}"
        )
    takes_ns = one.alone_ns if len(members) == 1 else one.times_ns[len(members)]
    finish_ns = start_ns + one.switch_ns + takes_ns
    for request in members:
        if not isinstance(cast("object", request), Request) or not _waits(one.line, request):
            raise StrategyError(
                "not_waiting",
                f"it chose {_kind(request)}, which does not wait for the model {model!r}",
            )
        if request.firm and request.deadline_ns < finish_ns:
            raise StrategyError(
                "late",
                f"it chose a firm request of client {request.client!r} for a batch that is over "
                f"{(finish_ns - request.deadline_ns) / 1e6:.1f} ms after its deadline",
            )
    if len({request.id for request in members}) < len(members):
        raise StrategyError("repeated", f"it chose a request of the model {model!r} twice")
    return Choice(one.lane, members)


def _waits(line: Line, request: Request) -> bool:
    part = line.part(request)
    index = bisect_left(part.ranks, request.rank)
    return index < len(part) and part.requests[index] is request


def _could_run(one: Contender, start_ns: int) -> bool:
    alone_ns = start_ns + one.switch_ns + one.times_ns[1]
    return any(not request.firm or alone_ns <= request.deadline_ns for request in one.line)


def _kind(thing: object) -> str:
    """Say what a thing is: all of a request would be too much."""
    return repr(thing) if isinstance(thing, (int, str, Wait)) else f"some {type(thing).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 3] + "..."
