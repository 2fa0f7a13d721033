"""The batches that a device runs or has ahead, and waiting for the next one that is done.

Batches of one model are done in the order they were submitted in, those of different models in any.
"""

from __future__ import annotations

import select
import socket
import time

from attrs import define, field

from appliance import overtaking
from appliance.engines.overlap import LISTEN_AT_LEAST_NS, listen_ns, spins
from appliance.engines.staged import Submitted
from appliance.errors import EngineError


@define(eq=False)
class Flying:
    """See the module's docstring; whoever waits finishes what has come.

    Attributes:
        is_overtaken: A message may bring a batch that is not to wait for those that run.
    """

    is_overtaken: bool = field(default=False, init=False)
    _batches: list[Submitted] = field(factory=list[Submitted], init=False)

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, batch: Submitted) -> None:
        """Take in a batch that was submitted."""
        self._batches.append(batch)

    def remove(self, batch: Submitted, now_ns: int) -> None:
        """Let go of one that is done."""
        overtaking.account_for(batch, self._batches, now_ns)
        self._batches.remove(batch)

    def has(self, model: int) -> bool:
        """Tell whether one of a model is there."""
        return any(each.model == model for each in self._batches)

    def remaining_ns(self) -> int:
        """Return how long the one that was submitted first will still take."""
        first = self._batches[0]
        return first.since_ns + first.expected_ns - time.monotonic_ns()

    def wait(self) -> Submitted:
        """Wait for one that is done; return it, or the only one, which is then waited for alone."""
        while True:
            first = overtaking.may_be_next(self._batches)
            done = first[0] if len(first) == 1 else _done(first)
            if done is not None:
                return done
            time.sleep(min(_nap_ns(each) for each in first) / 1e9)

    def wait_or_hear(self, control: socket.socket) -> Submitted | None:
        """Do the same, but return None as soon as a message has come."""
        while True:
            first = overtaking.may_be_next(self._batches)
            done = _done(first)
            if done is not None:
                return done
            is_near = not self.is_overtaken and len(first) == 1 and _is_near(first[0])
            nap_ns = 0 if is_near else min(_nap_ns(each) for each in first)
            if select.select([control], [], [], nap_ns / 1e9)[0]:
                return None
            if is_near:
                return first[0]


def _done(batches: list[Submitted]) -> Submitted | None:
    return next((each for each in batches if _is_done(each)), None)


def _is_done(batch: Submitted) -> bool:
    try:
        return batch.buffers.is_done()
    except EngineError:
        return True  # finishing it says so once more


def _is_near(batch: Submitted) -> bool:
    """Return whether only the device is waited for, asleep, as it will soon be done."""
    elapsed_ns = time.monotonic_ns() - batch.since_ns
    is_spinning = spins(batch.expected_ns, elapsed_ns)
    return not is_spinning and not listen_ns(batch.expected_ns, elapsed_ns)


def _nap_ns(batch: Submitted) -> int:
    """Return how long to sleep before the device is asked again."""
    elapsed_ns = time.monotonic_ns() - batch.since_ns
    if spins(batch.expected_ns, elapsed_ns):
        return 0
    return listen_ns(batch.expected_ns, elapsed_ns) or LISTEN_AT_LEAST_NS
