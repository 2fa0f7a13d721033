"""Which robots are shown, in which order, and which of them need attention. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from attrs import frozen
from rich.text import Text

from appliance.cli.tables import CLIENT_COLUMNS, client_row
from appliance.cli.text import duration
from appliance.cli.top.table import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.metrics.status import Client

SOON_MS = 20.0
"""A robot that waits for an answer and has actions for less than this runs dry soon."""


class Attention(enum.IntEnum):
    """Why to look at a robot, the most urgent last."""

    HERE = 0
    GONE = 1
    OVERDUE = 2
    LATE = 3
    SOON = 4
    MISSES = 5
    DRY = 6


STYLES = {
    Attention.HERE: "green",
    Attention.GONE: "yellow",
    Attention.OVERDUE: "yellow",
    Attention.LATE: "yellow",
    Attention.SOON: "bold yellow",
    Attention.MISSES: "bold red",
    Attention.DRY: "bold red",
}
MARKS = {
    Attention.HERE: " ",
    Attention.GONE: "-",
    Attention.OVERDUE: "?",
    Attention.LATE: "*",
    Attention.SOON: "*",
}
"""What stands before the row, where colours do not show; `!` for the others."""


@frozen
class Robot:
    """A session as it is shown.

    Attributes:
        risen: Misses of the last seconds.
    """

    client: Client
    attention: Attention
    risen: int

    @property
    def key(self) -> str:
        """Tell it from the others, whatever they call themselves."""
        return self.client["session"]

    @property
    def words(self) -> str:
        """Say what is the matter, in few words."""
        client = self.client
        return {
            Attention.HERE: "here",
            Attention.GONE: f"gone {duration(client['silent_s'])}",
            Attention.OVERDUE: f"overdue {client.get('overdue_ms') or 0:.0f} ms",
            Attention.LATE: "late",
            Attention.SOON: "dry soon",
            Attention.MISSES: f"misses +{self.risen}",
            Attention.DRY: "dry",
        }[self.attention]


def robots(clients: Sequence[Client], risen: Callable[[str], int]) -> list[Robot]:
    """Judge sessions, and leave out those that ended and whose client has come back.

    Args:
        risen: How many misses a session had lately.
    """
    here = {client["id"] for client in clients if client["connected"]}
    return [
        Robot(client, _attention(client, missed), missed)
        for client in clients
        if client["connected"] or client["id"] not in here
        for missed in (risen(client["session"]),)
    ]


def _attention(client: Client, risen: int) -> Attention:
    if not client["connected"]:
        return Attention.GONE
    # Whoever has run out and waits for nothing has stopped by itself.
    waits = client["queued"] or client["last_outcome"] != "OK"
    dry_ms = client["runs_dry_in_ms"] if waits else None
    slack_ms = client.get("slack_ms")
    holds = {
        Attention.DRY: dry_ms is not None and dry_ms <= 0,
        Attention.MISSES: risen > 0,
        Attention.SOON: dry_ms is not None and dry_ms < SOON_MS,
        Attention.LATE: slack_ms is not None and slack_ms < 0,
        Attention.OVERDUE: client.get("overdue_ms") is not None,
    }
    return max((each for each, does in holds.items() if does), default=Attention.HERE)


# ------------------------------------------------------------------------------------ columns

_RANKS = {
    "last": 1,
    "jitter ms": 2,
    "answered": 3,
    "late": 4,
    "type": 5,
    "queued": 6,
    "observed": 7,
    "tier": 8,
    "address": 9,
}
COLUMNS = tuple(
    column._replace(header=column.header or "state", rank=_RANKS.get(column.header, 0))
    for column in CLIENT_COLUMNS
)


def row(robot: Robot) -> Row:
    """Return a row of `COLUMNS`."""
    cells = client_row(robot.client, Text(robot.words, STYLES[robot.attention]))
    style = "dim" if robot.attention is Attention.GONE else ""
    return Row(robot.key, cells, MARKS.get(robot.attention, "!"), style)


# -------------------------------------------------------------------------------------- order


@frozen
class Order:
    """A way to sort.

    Attributes:
        header: Of the column that it goes by.
        value: What is compared; None is unknown, and last.
        descending: It is when it is chosen; `r` turns it round.
    """

    header: str
    value: Callable[[Robot], float | str | None]
    descending: bool = True


ORDERS = (
    Order("state", lambda robot: robot.attention),
    Order("client", lambda robot: robot.client["id"].casefold(), descending=False),
    Order("Hz", lambda robot: robot.client["cadence_hz"]),
    Order("jitter ms", lambda robot: robot.client["jitter_ms"]),
    Order("misses", lambda robot: robot.client["misses"]),
    Order("slack ms", lambda robot: robot.client.get("slack_ms"), descending=False),
    Order("dry in ms", lambda robot: robot.client["runs_dry_in_ms"], descending=False),
)


def ordered(robots: Iterable[Robot], order: Order, *, turned: bool = False) -> list[Robot]:
    """Sort; among equals by name. What is not known comes last, whichever way round."""
    by_name = sorted(robots, key=lambda robot: (robot.client["id"].casefold(), robot.key))
    known: list[tuple[float | str, Robot]] = []
    unknown: list[Robot] = []
    for each in by_name:
        value = order.value(each)
        if value is None:
            unknown.append(each)
        else:
            known.append((value, each))
    known.sort(key=_first, reverse=order.descending is not turned)  # keeps the order of equals
    return [each for _, each in known] + unknown


def _first(pair: tuple[float | str, Robot]) -> float | str:
    return pair[0]


# ------------------------------------------------------------------------------------- filter


def filtered(robots: Iterable[Robot], text: str) -> list[Robot]:
    """Return the robots in which each word of `text` is found.

    It is looked for in id, type, address, last outcome and what is the matter; robots that ever
    missed an action are `missed`, those that are connected `here`.
    """
    words = text.casefold().split()
    if not words:
        return list(robots)
    return [robot for robot in robots if _matches(robot, words)]


def _matches(robot: Robot, words: Sequence[str]) -> bool:
    client = robot.client
    about = "\n".join(
        [
            *(client["id"], client["type"], client["address"]),
            client["last_outcome"] or "",
            robot.words,
            "here" if client["connected"] else "gone",
            "missed" if client["misses"] else "",
        ]
    ).casefold()
    return all(word in about for word in words)
