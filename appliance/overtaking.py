"""Batches of one worker that a GPU runs side by side: since when each has had its turn. PURE.

The worker counts how long a batch took by it, and the core how long one may still take. A batch
waits for those that were begun before it, unless it overtakes them; those lose the time it took.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Running(Protocol):
    """A batch that was begun, or will be when those before it are done.

    Attributes:
        model: Batches of one model never overtake each other.
        since_ns: When its turn came, later by what has overtaken it.
    """

    @property
    def model(self) -> int:
        """See above."""
        ...

    since_ns: int


Batch = TypeVar("Batch", bound=Running)


def may_be_next(running: Iterable[Batch]) -> list[Batch]:
    """Return those that may be done next: the first of each model."""
    first: dict[int, Batch] = {}
    for each in running:
        first.setdefault(each.model, each)
    return list(first.values())


def account_for(batch: Batch, running: Iterable[Batch], now_ns: int) -> None:
    """Take one that is done into account, in `since_ns` of the others.

    Args:
        running: In the order in which they were told to run; `batch` is among them.
    """
    took_ns, is_behind = max(0, now_ns - batch.since_ns), False
    for each in running:
        if each is batch:
            is_behind = True
        elif is_behind:  # its turn comes now
            each.since_ns = max(each.since_ns, now_ns)
        else:  # it lost that time, but no more than it has had by now
            each.since_ns = min(each.since_ns + took_ns, max(each.since_ns, now_ns))
