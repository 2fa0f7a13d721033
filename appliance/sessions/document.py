"""The session table as `GET /v1/clients` and `GET /v1/status` show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from appliance.errors import Outcome, Rejected
from appliance.metrics.status import Client, Clients, FirstDry
from appliance.sessions.table import Session, SessionTable


def client_documents(
    table: SessionTable,
    tier_of: Callable[[str], int],
    overdue_ns: Mapping[str, int],
    now_ns: int,
) -> list[Client]:
    """Return every session, the most recently seen first.

    Args:
        overdue_ns: How overdue clients are, by name; who waits for an answer is not.
    """
    documents = [_client(session, tier_of, overdue_ns, now_ns) for session in table]
    documents.reverse()
    return documents


def client_counts(table: SessionTable, now_ns: int) -> Clients:
    """Return how many sessions there are, and who of them runs dry first."""
    return Clients(
        connected=table.connected(),
        known=len(table),
        disconnects=table.gone,
        first_dry=_first_dry(table, now_ns),
    )


def _first_dry(table: SessionTable, now_ns: int) -> FirstDry | None:
    first: tuple[int, str] | None = None
    for session in table:
        dry_ns = session.dry_ns
        if dry_ns is None or session.silent:
            continue
        waits = _queued(session) or session.last_outcome is not Outcome.OK
        # Whoever has run out and waits for nothing has stopped by itself.
        if (waits or dry_ns > now_ns) and (first is None or dry_ns < first[0]):
            first = dry_ns, session.client
    if first is None:
        return None
    return FirstDry(id=first[1], runs_dry_in_ms=_left_ms(first[0], now_ns))


def _queued(session: Session) -> int:
    return session.observations - session.ended_count


def _left_ms(instant_ns: int, now_ns: int) -> float:
    return round((instant_ns - now_ns) / 1e6, 1)


def _overdue_ms(session: Session, overdue_ns: Mapping[str, int]) -> float | None:
    if session.silent or _queued(session):
        return None
    late_ns = overdue_ns.get(session.client)
    return None if late_ns is None else round(late_ns / 1e6, 1)


def _client(
    session: Session,
    tier_of: Callable[[str], int],
    overdue_ns: Mapping[str, int],
    now_ns: int,
) -> Client:
    try:
        tier = tier_of(session.client)
    except Rejected:  # it may not come; it is shown all the same
        tier = -1
    dry_ns = session.dry_ns
    return Client(
        id=session.client,
        door="robots",
        session=session.routing_id.hex(),
        type=session.client_type,
        protocol=session.protocol,
        tier=tier,
        connected=not session.silent,
        observations=session.observations,
        **session.counted(),
        runs_dry_in_ms=None if dry_ns is None else _left_ms(dry_ns, now_ns),
        overdue_ms=_overdue_ms(session, overdue_ns),
        silent_s=round((now_ns - session.last_seen_ns) / 1e9, 2),
        queued=_queued(session),
        address="",
    )
