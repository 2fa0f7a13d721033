"""The SDK's ledger: every observation asked ends in exactly one count, or is still outstanding."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field, frozen

from appliance.errors import Outcome


@frozen(kw_only=True)
class Statistics:
    """A snapshot of one connection's counts; `asked == ended + outstanding`, always.

    Attributes:
        asked: Observations handed to the SDK.
        sent: Of these, handed to the network.
        answers: How observations ended, those decided here included.
        superseded_locally: Replaced by a newer one before they could be sent.
        cancelled_locally: Cancelled before they could be sent.
        encoding_failed: Ended as INVALID here: an image could not be compressed.
        unanswered: Given up: no answer in time, or the connection was closed.
        outstanding: Neither ended nor given up.
        stale_dropped: Answers that nobody was given, because a newer observation was asked or the
            observation was cancelled; their answers are counted in `answers`.
        unmatched: Answers to nothing outstanding: duplicates, or later than the giving up.
        bad_answers: Messages that could not be read.
        round_trip_us: Estimate of the network's share of an answer's time, microseconds.
    """

    asked: int
    sent: int
    answers: Mapping[Outcome, int]
    superseded_locally: int
    cancelled_locally: int
    encoding_failed: int
    unanswered: int
    outstanding: int
    stale_dropped: int
    unmatched: int
    bad_answers: int
    round_trip_us: int | None

    @property
    def ended(self) -> int:
        """Observations that are not outstanding any more."""
        return sum(self.answers.values()) + self.unanswered


@define(eq=False)
class Ledger:
    """The counts behind `Statistics`. Owned by the core."""

    asked: int = 0
    sent: int = 0
    answers: dict[Outcome, int] = field(factory=dict[Outcome, int])
    superseded_locally: int = 0
    cancelled_locally: int = 0
    encoding_failed: int = 0
    unanswered: int = 0
    stale_dropped: int = 0
    unmatched: int = 0
    bad_answers: int = 0

    def ended(self, outcome: Outcome) -> None:
        """Count one observation's end."""
        self.answers[outcome] = self.answers.get(outcome, 0) + 1

    def snapshot(self, *, outstanding: int, round_trip_us: int | None) -> Statistics:
        """Return the counts as they are now."""
        return Statistics(
            asked=self.asked,
            sent=self.sent,
            answers=dict(self.answers),
            superseded_locally=self.superseded_locally,
            cancelled_locally=self.cancelled_locally,
            encoding_failed=self.encoding_failed,
            unanswered=self.unanswered,
            outstanding=outstanding,
            stale_dropped=self.stale_dropped,
            unmatched=self.unmatched,
            bad_answers=self.bad_answers,
            round_trip_us=round_trip_us,
        )
