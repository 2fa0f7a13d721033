"""The session table as `GET /v1/clients` shows it."""

from __future__ import annotations

from collections.abc import Callable

from appliance.errors import Rejected
from appliance.metrics.status import Client
from appliance.sessions.table import Session, SessionTable


def client_documents(
    table: SessionTable, tier_of: Callable[[str], int], now_ns: int
) -> list[Client]:
    """Return every session, the most recently seen first."""
    documents = [_client(session, tier_of, now_ns) for session in table]
    documents.reverse()
    return documents


def _client(session: Session, tier_of: Callable[[str], int], now_ns: int) -> Client:
    try:
        tier = tier_of(session.client)
    except Rejected:  # it may not come; it is shown all the same
        tier = -1
    dry_ns = session.dry_ns
    return Client(
        id=session.client,
        session=session.routing_id.hex(),
        type=session.client_type,
        protocol=session.protocol,
        tier=tier,
        connected=not session.silent,
        cadence_hz=round(1e9 / session.period_ns, 2) if session.period_ns else None,
        jitter_ms=round(session.jitter_ns / 1e6, 2) if session.period_ns else None,
        observations=session.observations,
        answered=session.answered,
        late=session.late,
        misses=session.misses,
        last_outcome=session.last_outcome.name if session.last_outcome else None,
        slack_ms=None if session.slack_us is None else round(session.slack_us / 1e3, 2),
        runs_dry_in_ms=None if dry_ns is None else round((dry_ns - now_ns) / 1e6, 1),
        silent_s=round((now_ns - session.last_seen_ns) / 1e9, 2),
        queued=session.observations - session.ended_count,
        address="",
    )
