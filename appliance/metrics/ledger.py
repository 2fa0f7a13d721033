"""The server's own count of requests: one of the three ledgers that must reconcile.

Invariant: asked = ended + in flight, per model and in total, and nothing in flight is ever
negative; a second outcome for one request is therefore a `LocalProtocolError` at the moment it
is one too many. Bounded as the registry is: a name that was not added counts under "". Add a
model before a door lets its requests in.
"""

from __future__ import annotations

from attrs import define, field

from appliance.errors import LocalProtocolError, Outcome
from appliance.metrics.status import LedgerDocument

_SLOTS = max(Outcome) + 1


@define(eq=False)
class Count:
    """Requests of one model, or of all.

    Attributes:
        asked: Requests that came in.
        ended: Requests that have their outcome.
        late: Of those ended in OK, how many after their deadline.
    """

    asked: int = field(default=0, init=False)
    ended: int = field(default=0, init=False)
    late: int = field(default=0, init=False)
    _outcomes: list[int] = field(factory=lambda: [0] * _SLOTS, init=False)

    @property
    def in_flight(self) -> int:
        """Requests without an outcome yet."""
        return self.asked - self.ended

    @property
    def answered(self) -> int:
        """Requests that ended in OK."""
        return self._outcomes[Outcome.OK]

    def outcomes(self) -> dict[str, int]:
        """Return how many requests ended in which outcome, by name, without zeros."""
        return {each.name: self._outcomes[each] for each in Outcome if self._outcomes[each]}

    def end(self, outcome: Outcome, *, late: bool) -> None:
        """Count one outcome."""
        self.ended += 1
        self._outcomes[outcome] += 1
        if late and outcome is Outcome.OK:
            self.late += 1

    def answer(self, requests: int, late: int) -> None:
        """Count OK several times, `late` of them late."""
        self.ended += requests
        self._outcomes[Outcome.OK] += requests
        self.late += late


@define(eq=False)
class Ledger:
    """The count. `overall` is the sum over `models`; `models[""]` are the names not served."""

    overall: Count = field(factory=Count, init=False)
    models: dict[str, Count] = field(factory=lambda: {"": Count()}, init=False)
    replies_lost: dict[str, int] = field(factory=dict[str, int], init=False)
    wasted: dict[str, int] = field(factory=dict[str, int], init=False)

    def add_model(self, name: str) -> None:
        """Count `name` by itself from now on."""
        self.models.setdefault(name, Count())

    def model(self, name: str) -> Count:
        """Return the count `name` goes to."""
        return self.models.get(name) or self.models[""]

    def asked(self, model: str) -> None:
        """A request came in."""
        self.model(model).asked += 1
        self.overall.asked += 1

    def ended(self, model: str, outcome: Outcome, *, late: bool = False) -> None:
        """A request has its one outcome.

        Raises:
            LocalProtocolError: More requests for this model would have ended than came in.
        """
        count = self.model(model)
        if count.ended >= count.asked:
            raise LocalProtocolError(
                f"model {model!r}: outcome {outcome.name} for a request that already has one: "
                f"{count.asked} asked, {count.ended} ended"
            )
        count.end(outcome, late=late)
        self.overall.end(outcome, late=late)

    def answered(self, model: str, requests: int, late: int) -> None:
        """Requests ended in OK, `late` of them late.

        Raises:
            LocalProtocolError: As `ended`.
        """
        count = self.model(model)
        if count.ended + requests > count.asked:
            raise LocalProtocolError(
                f"model {model!r}: {requests} answers for requests that already have an outcome: "
                f"{count.asked} asked, {count.ended} ended"
            )
        count.answer(requests, late)
        self.overall.answer(requests, late)

    def reply_lost(self, cause: str) -> None:
        """An answer could not be handed to its client; its request keeps the outcome it has."""
        self.replies_lost[cause] = self.replies_lost.get(cause, 0) + 1

    def rows_wasted(self, cause: str, rows: int) -> None:
        """An engine finished rows, and no OK came of them."""
        if rows:
            self.wasted[cause] = self.wasted.get(cause, 0) + rows

    def document(self, rows_finished: int, rows_abandoned: int = 0) -> LedgerDocument:
        """Set the count beside the rows the engines finished, read after the last outcome.

        With nothing in flight, balanced means `rows_finished == ok + sum(wasted)`; a row that is
        finished but not yet answered belongs to a request in flight.

        Args:
            rows_finished: By the engines' own count.
            rows_abandoned: May be among them, and belong to nobody any more.
        """
        count = self.overall
        unclaimed = rows_finished - count.answered - sum(self.wasted.values())
        return LedgerDocument(
            asked=count.asked,
            ended=count.ended,
            in_flight=count.in_flight,
            rows_finished=rows_finished,
            ok=count.answered,
            wasted=dict(self.wasted),
            balanced=0 <= unclaimed <= count.in_flight + rows_abandoned,
        )
