"""The actions a robot still has, each for its instant. PURE: times are passed in.

A model gives a chunk: rows for the instants `captured + (first_step + i) * step`. What counts is
when the observation was captured, never when the answer came: a late answer is used from the row
that is due, and one that is over is not used at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray

Rows = NDArray[Any]
Merge = Callable[[Rows, Rows, int], Rows]
"""Called with the rows of the present plan and those of the new chunk, both from the present
instant on, and how many of the former the model was told are committed; returns what replaces the
latter, in the same shape. The inputs must not be written to."""


def replace(present: Rows, new: Rows, committed: int) -> Rows:  # noqa: ARG001  as declared
    """Merge: the new chunk, at once."""
    return new


def freeze(present: Rows, new: Rows, committed: int) -> Rows:
    """Merge: what is committed stays, the new chunk follows (real-time chunking)."""
    kept = min(committed, len(present), len(new))
    return np.concatenate([present[:kept], new[kept:]]) if kept else new


@frozen
class Blend:
    """Merge: from the present plan to the new chunk, linearly, over `steps` steps."""

    steps: int

    def __call__(self, present: Rows, new: Rows, committed: int) -> Rows:  # noqa: ARG002
        """See `Merge`."""
        count = min(self.steps, len(present), len(new))
        if count == 0:
            return new
        weights = np.arange(1, count + 1, dtype=np.float64) / (count + 1)
        weights = weights.reshape(-1, *[1] * (new.ndim - 1))
        blended = (1 - weights) * present[:count] + weights * new[:count]
        return np.concatenate([blended.astype(new.dtype), new[count:]])


MERGES: Mapping[str, Merge] = {"replace": replace, "freeze": freeze}


@frozen
class Chunk:
    """One answer.

    Attributes:
        rows: [horizon, ...].
        captured_ns: When what it answers was captured.
        start_ns: The instant of the first row.
        step_ns: Between two rows.
        committed_until_ns: Rows of the plan before this instant were committed.
    """

    rows: Rows
    captured_ns: int
    start_ns: int
    step_ns: int
    committed_until_ns: int = 0


@frozen
class _Segment:
    """Rows for the instants from `start_ns` on."""

    rows: Rows
    start_ns: int
    step_ns: int

    def index(self, now_ns: int) -> int:
        """Return which row an instant belongs to; negative before the first."""
        # A loop's instants are not exact: this much too early still counts as the row's time.
        return (now_ns - self.start_ns + self.step_ns // 8) // self.step_ns

    def after(self, now_ns: int) -> Rows:
        """Return the rows from an instant on."""
        return self.rows[max(0, self.index(now_ns)) :]

    def continues(self, other: _Segment) -> bool:
        """Return whether rows of either can take each other's place."""
        return self.step_ns == other.step_ns and self.rows.shape[1:] == other.rows.shape[1:]


@define(eq=False)
class Plan:
    """The rows to come, from the latest chunk and what was merged with it.

    Attributes:
        latest_ns: Capture of the latest chunk taken; None before the first.
        last: The row that `at` returned last; None before the first.
    """

    merge: Merge = replace
    latest_ns: int | None = field(default=None, init=False)
    last: Rows | None = field(default=None, init=False)
    _segment: _Segment | None = field(default=None, init=False)
    _until: _Segment | None = field(default=None, init=False)  # as long as that has not begun

    def take(self, chunk: Chunk, now_ns: int) -> bool:
        """Go on with a chunk from now on; return whether it was of any use.

        It is not if a later capture was answered before, or if its last row is over.

        Raises:
            ValueError: What `merge` returned has another shape than the chunk.
        """
        if self.latest_ns is not None and chunk.captured_ns <= self.latest_ns:
            return False
        new = _Segment(chunk.rows, chunk.start_ns, chunk.step_ns)
        first = new.index(now_ns)
        if first >= len(new.rows):
            return False
        due = _Segment(new.after(now_ns), new.start_ns + max(0, first) * new.step_ns, new.step_ns)
        present = self._at(now_ns)
        if (
            present is not None
            and present.continues(due)
            and present.index(due.start_ns) >= 0  # else they have no instant in common yet
        ):
            due = self._merged(present, due, chunk.committed_until_ns)
        self._until = present if first < 0 else None
        self._segment = due
        self.latest_ns = chunk.captured_ns
        return True

    def _merged(self, present: _Segment, due: _Segment, committed_until_ns: int) -> _Segment:
        after = present.after(due.start_ns)
        if not len(after):
            return due
        before = present.index(committed_until_ns) - present.index(due.start_ns)
        rows = self.merge(after, due.rows, max(0, before))
        if rows.shape != due.rows.shape:
            raise ValueError(f"merge returned shape {rows.shape}, expected {due.rows.shape}")
        return _Segment(rows, due.start_ns, due.step_ns)

    def at(self, now_ns: int) -> Rows | None:
        """Return the row for an instant; None: there is none."""
        segment = self._at(now_ns)
        if segment is None:
            return None
        index = segment.index(now_ns)
        if 0 <= index < len(segment.rows):
            self.last = row = segment.rows[index]
            return row
        return None

    def _at(self, now_ns: int) -> _Segment | None:
        """Return the segment that an instant belongs to."""
        if self._until is not None and self._segment is not None:
            if self._segment.index(now_ns) < 0:
                return self._until
            self._until = None
        return self._segment

    @property
    def step_ns(self) -> int:
        """Between two rows; 1 before the first chunk."""
        return 1 if self._segment is None else self._segment.step_ns

    def remaining(self, now_ns: int) -> int:
        """Return how many rows there are without a gap from an instant on, its own included."""
        segment, latest = self._at(now_ns), self._segment
        if segment is None or latest is None or segment.index(now_ns) < 0:
            return 0
        rows = len(segment.after(now_ns))
        if segment is latest:
            return rows
        before = segment.index(latest.start_ns) - segment.index(now_ns)
        return before + len(latest.rows) if rows >= before else rows

    def clear(self) -> None:
        """Forget all, for another episode."""
        self.latest_ns = self._segment = self._until = self.last = None
