"""Three counts of the same requests, made independently: do they agree? PURE.

SDKs count what robots asked and heard, the server what came in and how it ended, the engines what
rows they ran. Before they are compared, what never left a robot is taken off the SDKs' count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

from appliance.cli.demo.reports import SdkLedger
from appliance.errors import Outcome
from appliance.metrics.status import Status


class SdksDocument(TypedDict):
    """All SDKs together; `unheard` were sent, but no answer came back."""

    asked: int
    sent: int
    outcomes: dict[str, int]
    superseded_locally: int
    cancelled_locally: int
    unheard: int


class ServerDocument(TypedDict):
    """The server's count; `replies_lost` are answers that could not be handed over, by cause."""

    asked: int
    outcomes: dict[str, int]
    replies_lost: dict[str, int]


class EnginesDocument(TypedDict):
    """Rows that ran to their end; `wasted` are those no OK came of, by cause."""

    rows_finished: int
    wasted: dict[str, int]


class Ledgers(TypedDict):
    """The three, and in which sentences they differ; `outcomes` of the SDKs are the wire's."""

    equal: bool
    differences: list[str]
    sdks: SdksDocument
    server: ServerDocument
    engines: EnginesDocument


def reconcile(sdks: Sequence[SdkLedger], status: Status) -> Ledgers:
    """Set the three counts side by side.

    Args:
        sdks: Of every client there was, taken after its last answer.
        status: Taken after that.
    """
    robots = _sdks(sdks)
    server = ServerDocument(
        asked=status["requests"]["asked"],
        outcomes=dict(status["outcomes"]),
        replies_lost=dict(status["replies_lost"]),
    )
    engines = EnginesDocument(
        rows_finished=sum(worker["rows_finished"] for worker in status["workers"]),
        wasted=dict(status["ledger"]["wasted"]),
    )
    differences = [
        *_alone(sdks),
        *_between(robots, server),
        *_engines_and_server(engines, server),
    ]
    return Ledgers(
        equal=not differences,
        differences=differences,
        sdks=robots,
        server=server,
        engines=engines,
    )


def _sdks(ledgers: Sequence[SdkLedger]) -> SdksDocument:
    outcomes: Counter[str] = Counter()
    for ledger in ledgers:
        outcomes.update(ledger["outcomes"])
        outcomes[Outcome.SUPERSEDED.name] -= ledger["superseded_locally"]
        outcomes[Outcome.CANCELLED.name] -= ledger["cancelled_locally"]
    sent = sum(ledger["sent"] for ledger in ledgers)
    return SdksDocument(
        asked=sum(ledger["asked"] for ledger in ledgers),
        sent=sent,
        outcomes={name: count for name, count in sorted(outcomes.items()) if count},
        superseded_locally=sum(ledger["superseded_locally"] for ledger in ledgers),
        cancelled_locally=sum(ledger["cancelled_locally"] for ledger in ledgers),
        unheard=sent - sum(outcomes.values()),
    )


def _alone(ledgers: Sequence[SdkLedger]) -> list[str]:
    """Say which SDK contradicts itself."""
    return [
        f"an SDK asked {ledger['asked']}, but {ended} ended"
        for ledger in ledgers
        if (ended := sum(ledger["outcomes"].values()) + ledger["unanswered"]) != ledger["asked"]
    ]


def _between(sdks: SdksDocument, server: ServerDocument) -> list[str]:
    """Say where robots and server differ; what no robot heard must be what the server lost."""
    differences: list[str] = []
    if sdks["sent"] != server["asked"]:
        differences.append(f"SDKs sent {sdks['sent']}, the server counts {server['asked']}")
    ended = sum(server["outcomes"].values())
    if ended != server["asked"]:
        differences.append(f"the server counts {server['asked']} asked, but {ended} ended")
    # Nobody is there to hear a CLIENT_GONE: it is an answer that was not heard, too.
    lost = sum(server["replies_lost"].values()) + server["outcomes"].get(
        Outcome.CLIENT_GONE.name, 0
    )
    if sdks["unheard"] != lost:
        differences.append(
            f"SDKs miss {sdks['unheard']} answers, the server could not hand over {lost}"
        )
    for name in sorted({*sdks["outcomes"], *server["outcomes"]} - {Outcome.CLIENT_GONE.name}):
        heard, counted = sdks["outcomes"].get(name, 0), server["outcomes"].get(name, 0)
        if heard != counted and not (lost and heard < counted):
            differences.append(f"{name}: SDKs heard {heard}, the server counts {counted}")
    return differences


def _engines_and_server(engines: EnginesDocument, server: ServerDocument) -> list[str]:
    answered = server["outcomes"].get(Outcome.OK.name, 0)
    useful = engines["rows_finished"] - sum(engines["wasted"].values())
    if useful == answered:
        return []
    return [f"engines finished {useful} rows that were of use, the server answered {answered}"]
