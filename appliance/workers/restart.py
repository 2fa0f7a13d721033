"""When a worker process that ended is started again, and what it may then load. PURE.

The first restart is at once: robots wait. Only a process that ends again and again without having
been of any use is slowed down. A model that takes its process with it while it loads is left out,
so that the other models of the slot are served.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field, frozen

_MS = 1_000_000
_SECOND = 1_000_000_000


@frozen
class Life:
    """One generation of a worker, ended.

    Attributes:
        ready_ns: When it became READY; None if it never did.
        ended_ns: When its process was gone.
        finished_batch: Whether it finished a batch.
    """

    ready_ns: int | None
    ended_ns: int
    finished_batch: bool


@frozen(kw_only=True)
class RestartPolicy:
    """How long to wait before the next generation.

    Attributes:
        useful_after_ns: READY for this long counts as having been of use.
        first_backoff_ns: Before the second restart in a row; then it doubles.
        longest_backoff_ns: It grows no further.
        loads: Times in a row a process may end while loading one model before that model is
            left out.
    """

    useful_after_ns: int = 10 * _SECOND
    first_backoff_ns: int = 100 * _MS
    longest_backoff_ns: int = 10 * _SECOND
    loads: int = 2

    def delay_ns(self, history: Sequence[Life], now_ns: int) -> int:
        """Return how long from now the next start has to wait.

        Args:
            history: The slot's lives so far, the latest last; older ones than matter may be
                missing.
            now_ns: Monotonic nanoseconds.
        """
        useless = 0
        for life in reversed(history):
            if self._useful(life):
                break
            useless += 1
        if useless < 2:
            return 0
        # Bounded before it is shifted: a slot may fail for months.
        doublings = min(useless - 2, self.longest_backoff_ns.bit_length())
        backoff = min(self.first_backoff_ns << doublings, self.longest_backoff_ns)
        return max(0, history[-1].ended_ns + backoff - now_ns)

    def _useful(self, life: Life) -> bool:
        if life.ready_ns is None:
            return False
        return life.finished_batch or life.ended_ns - life.ready_ns >= self.useful_after_ns


@define(eq=False)
class Quarantine:
    """Which models of a slot are left out, because their processes ended while loading them.

    Counted for each model over the times it was loaded, so that two such models in one slot do
    not hide each other. It lasts as long as the slot.
    """

    loads: int
    _deaths: dict[int, int] = field(factory=dict[int, int], init=False)
    _reasons: dict[int, str] = field(factory=dict[int, str], init=False)

    def loaded(self, model: int) -> None:
        """Count that a model got through loading (to READY or its own error) alive."""
        self._deaths.pop(model, None)

    def died(self, model: int, cause: str) -> None:
        """Count that a process ended, for `cause`, while loading a model."""
        deaths = self._deaths[model] = self._deaths.get(model, 0) + 1
        if deaths >= self.loads:
            self._reasons[model] = (
                f"left out: its worker process ended {deaths} times in a row while loading it"
                f" (last: {cause})"
            )

    def reason(self, model: int) -> str | None:
        """Return why a model is left out; None if it is not."""
        return self._reasons.get(model)
