"""Which gRPC status tells of which outcome, and how a call is refused with it."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc.aio
from grpc import StatusCode

from appliance.errors import Outcome, Rejected
from appliance.wire.inference import LONGEST_MESSAGE

Context = grpc.aio.ServicerContext[Any, Any]

CODES: dict[Outcome, StatusCode] = {
    Outcome.OK: StatusCode.OK,
    Outcome.SUPERSEDED: StatusCode.ABORTED,
    Outcome.INFEASIBLE: StatusCode.DEADLINE_EXCEEDED,
    Outcome.EXPIRED: StatusCode.DEADLINE_EXCEEDED,
    Outcome.SHED: StatusCode.RESOURCE_EXHAUSTED,
    Outcome.RATE_LIMITED: StatusCode.RESOURCE_EXHAUSTED,
    Outcome.QUEUE_FULL: StatusCode.UNAVAILABLE,
    Outcome.DRAINING: StatusCode.UNAVAILABLE,
    Outcome.LOADING: StatusCode.UNAVAILABLE,
    Outcome.WORKER_LOST: StatusCode.UNAVAILABLE,
    Outcome.INVALID: StatusCode.INVALID_ARGUMENT,
    Outcome.TOO_LARGE: StatusCode.INVALID_ARGUMENT,
    Outcome.UNKNOWN_MODEL: StatusCode.NOT_FOUND,
    Outcome.UNAUTHENTICATED: StatusCode.UNAUTHENTICATED,
    Outcome.FORBIDDEN: StatusCode.PERMISSION_DENIED,
    Outcome.ENGINE_FAILED: StatusCode.INTERNAL,
    Outcome.CANCELLED: StatusCode.CANCELLED,
    Outcome.CLIENT_GONE: StatusCode.CANCELLED,
}

PUSHBACK = "grpc-retry-pushback-ms"
"""The trailer that gRPC's own retries obey."""
CODE = "appliance-code"
"""The trailer with the outcome's name."""
MILLISECOND_NS = 1_000_000


class RefusedWith(Rejected):
    """A refusal with a status of its own: no outcome of a robot's request is like it."""

    def __init__(self, status: StatusCode, message: str) -> None:
        super().__init__(Outcome.INVALID, message)
        self.status = status


def status_of(rejected: Rejected) -> StatusCode:
    """Return the status that tells of a refusal."""
    return rejected.status if isinstance(rejected, RefusedWith) else CODES[rejected.outcome]


def message_of(rejected: Rejected) -> str:
    """Return what a refusal says, as text that gRPC can send.

    A path in it may have bytes that are none; with them the call would never be answered. And what
    is longer than metadata may be would come as another status.
    """
    return rejected.message[:LONGEST_MESSAGE].encode(errors="backslashreplace").decode()


def trailers(outcome: Outcome, retry_after_ns: int | None) -> tuple[tuple[str, str], ...]:
    """Return what goes with a refusal: its stable code, and when to ask again."""
    if retry_after_ns is None:
        return ((CODE, outcome.name),)
    return ((CODE, outcome.name), (PUSHBACK, str(max(1, retry_after_ns // MILLISECOND_NS))))


async def refuse(context: Context, rejected: Rejected) -> NoReturn:
    """End a call with a refusal."""
    await context.abort(
        status_of(rejected),
        message_of(rejected),
        trailers(rejected.outcome, rejected.retry_after_ns),
    )
    raise AssertionError("abort raises")
