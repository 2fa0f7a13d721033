"""What travels between the two sides of the door: calls that infer, and questions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Union

from attrs import define, field

from appliance.dispatch.ticket import UNTIMED
from appliance.errors import Rejected
from appliance.ingest import clients
from appliance.values import new_list
from appliance.wire.inference import Output, RowOutputs
from appliance.wire.pb import inference_pb2
from appliance.wire.spec import ModelSpec
from appliance.wire.types import Timing

if TYPE_CHECKING:  # there only with the extra `otel`
    from opentelemetry.sdk.trace import Span

NO_SESSION: Hashable = ()


@define(eq=False, kw_only=True)
class Call:
    """One inference request: made in asyncio, served in Trio, answered in asyncio.

    Attributes:
        trace_id: Of the trace it belongs to, as the caller says; empty: of none.
        received_ns: Monotonic.
        timeout_ns: What its caller gave it from then on; None: no bound.
        response: Set when it has ended.
        number: Of this call, unique within the process; its rows' tag.
        caller: What is known of its client.
        session: Whose mailbox its rows wait in.
        ends_sequence: The state of its session is not carried on after it.
        outputs: What is wanted of each row.
        rows: What its rows gave, as far as they have ended.
        contents: The bytes of each input.
        left: Rows that have not ended.
        is_closed: It was answered, refused or given up.
        is_answered: Its caller was told how it ended.
        held_bytes: Of its answer, which has not left; see `HeldAnswers`.
        span: What is told a collector of it; None: nothing.
        timing: Of the row that was waited for.
        finished_ns: When that row's engine was done; 0: it did not run.
        is_late: A row of it was.
        refusal: Why it is refused; when it comes already, if it could not be read.
    """

    request: inference_pb2.ModelInferRequest
    client: str
    trace_id: str
    received_ns: int
    timeout_ns: int | None
    response: asyncio.Future[None]
    contents: list[bytes] = field(factory=new_list)
    number: int = 0
    caller: clients.Caller = clients.NOBODY
    session: Hashable = NO_SESSION
    spec: ModelSpec | None = None
    ends_sequence: bool = False
    outputs: list[Output] = field(factory=new_list)
    rows: list[RowOutputs | None] = field(factory=new_list)
    is_batched: bool = False
    left: int = 0
    is_closed: bool = False
    is_answered: bool = False
    held_bytes: int = 0
    span: Span | None = None
    timing: Timing = UNTIMED
    finished_ns: int = 0
    is_late: bool = False
    refusal: Rejected | None = None


@define(eq=False)
class GivenUp:
    """A call whose caller does not wait any more."""

    call: Call


@define(eq=False)
class Question:
    """Something that is answered by Trio's side, where what it is about lives.

    Attributes:
        ask: Gives the answer, or what to wait for until it is there; or raises Rejected.
    """

    ask: Callable[[], Any]
    response: asyncio.Future[Any]
    answer: Any = None
    refusal: Rejected | None = None


Item = Union[Call, GivenUp, Question]  # noqa: UP007
