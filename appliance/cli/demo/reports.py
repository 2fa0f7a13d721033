"""What a robot's process says on its standard output: one JSON document a line."""

from __future__ import annotations

from typing import TypedDict

from appliance.cli.demo.roster import Role


class Progress(TypedDict):
    """Each second: the robot so far."""

    rate_hz: float
    answered: int
    misses: int
    p50_ms: float
    p99_ms: float


class SdkLedger(TypedDict):
    """The SDK's count, `Connection.statistics()`; `outcomes` are by name."""

    asked: int
    sent: int
    outcomes: dict[str, int]
    superseded_locally: int
    cancelled_locally: int
    unanswered: int
    stale_dropped: int
    unmatched: int
    bad_answers: int


class RobotReport(TypedDict):
    """At the end: everything. `histogram` is HDR, encoded, in microseconds.

    `wrong` are answers that were checked and found wrong; `dry_steps` the control periods in which
    an arm had no action, after its first one; `held_back` what the SDK's window refused to ask.
    """

    name: str
    role: Role
    model: str
    rate_hz: float
    p50_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float
    answered: int
    misses: int
    dry_steps: int
    wrong: int
    held_back: int
    sdk: SdkLedger
    histogram: str


class Message(TypedDict, total=False):
    """One line: exactly one of these."""

    ready: bool
    progress: Progress
    report: RobotReport
    error: str
