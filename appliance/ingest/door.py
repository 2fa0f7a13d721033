"""Trio's side of the gRPC door: calls become requests like the robots', their outcomes responses.

A call with several rows is as many requests. It is answered when the last of them is, and refused
with the first that is refused; what is left of it is taken back then.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from itertools import count
from typing import Protocol

import structlog
from attrs import define, field

from appliance.dispatch.intake import Intake
from appliance.dispatch.ticket import Delivery, Ended, Reply, Ticket
from appliance.errors import Outcome, Rejected
from appliance.ingest import documents
from appliance.ingest.calls import NO_SESSION, Call, GivenUp, Item, Question
from appliance.ingest.clients import PROTOCOL, CallerTable
from appliance.ingest.held_answers import HeldAnswers
from appliance.ingest.statistics import ModelStatistics
from appliance.wire.checks import MAX_NAME_BYTES
from appliance.wire.inference import (
    Options,
    RowOutputs,
    read_options,
    read_outputs,
)
from appliance.wire.inference_rows import read_rows
from appliance.wire.pb import inference_pb2
from appliance.wire.types import Keep, Lateness, Observation

MICROSECOND_NS = 1_000
IDLE_NS = 10_000_000_000
"""A session that asked nothing for so long is over; the state of its models is forgotten."""

_OK = Outcome.OK  # members are slow to find before Python 3.12


@define(eq=False)
class _Session:
    """One mailbox.

    Attributes:
        open: Calls that have not ended.
        last_ns: When one ended last.
    """

    open: int = 0
    last_ns: int = 0


class ModelControl(Protocol):
    """Changes what is served. Raises `Rejected`; then all is as before."""

    async def load(self, name: str) -> str:
        """Serve a model as it lies in the repository now; return its version."""
        ...

    async def unload(self, name: str) -> None:
        """Serve a model no more."""
        ...


@define(eq=False)
class GrpcDoor:
    """See the module's docstring.

    Args:
        answer: Takes calls and questions that have ended back to gRPC. Seldom called, with many:
            it costs a wake-up.
        clock: Monotonic nanoseconds.
        models: Changes what is served.

    Attributes:
        held: Answers that wait to leave.
        clients: Who asks.
        start_soon: Starts what takes longer, in the nursery of the door; None: it is closing.
    """

    intake: Intake
    answer: Callable[[list[Call | Question]], None]
    clock: Callable[[], int]
    models: ModelControl
    held: HeldAnswers = field(factory=HeldAnswers, init=False)
    clients: CallerTable = field(factory=CallerTable, init=False)
    start_soon: Callable[..., None] | None = field(default=None, init=False)
    _ended: list[Call | Question] = field(factory=list["Call | Question"], init=False)
    _numbers: count[int] = field(factory=lambda: count(1), init=False)
    _sessions: dict[Hashable, _Session] = field(factory=dict[Hashable, _Session], init=False)
    _statistics: dict[str, ModelStatistics] = field(factory=dict[str, ModelStatistics], init=False)

    # ------------------------------------------------------------------------------------- in

    def take(self, items: Iterable[Item]) -> None:
        """Take what has come, and let the dispatcher have its turn."""
        for item in items:
            if isinstance(item, Call):
                self._infer_safely(item)
            elif isinstance(item, GivenUp):
                self._give_up(item.call)
            else:
                self._take_question(item)
        self.intake.dispatcher.turn()
        self._hand_out()

    def _hand_out(self) -> None:
        if self._ended:
            ended, self._ended = self._ended, []
            self.answer(ended)

    def _take_question(self, question: Question) -> None:
        try:
            question.answer = question.ask()
        except Rejected as rejected:
            question.refusal = rejected
        except Exception as error:  # noqa: BLE001  as in `_finish`
            question.refusal = _fault(error)
        if not inspect.iscoroutine(question.answer):
            self._ended.append(question)
        elif self.start_soon is not None:
            self.start_soon(self._finish, question, question.answer)
        else:
            question.answer.close()
            question.refusal = Rejected(Outcome.DRAINING, "the appliance is shutting down")
            self._ended.append(question)

    async def _finish(self, question: Question, answer: Awaitable[object]) -> None:
        try:
            question.answer = await answer
        except Rejected as rejected:
            question.refusal = rejected
        except Exception as error:  # noqa: BLE001  a fault of ours here is not the robots' affair
            question.refusal = _fault(error)
        self.answer([question])

    def _infer_safely(self, call: Call) -> None:
        """Let a fault of ours in reading one call cost that call alone."""
        call.number = next(self._numbers)
        call.caller = self.clients.called(call.client, call.received_ns)
        try:
            self._infer(call)
        except Exception as error:  # noqa: BLE001  the robots are not to pay for it
            if call.is_closed:
                return
            is_open = call.session is not NO_SESSION
            if is_open:
                self._take_back(call)
            self._refuse(call, _fault(error), is_open=is_open)

    def _refuse(self, call: Call, rejected: Rejected, *, is_open: bool = False) -> None:
        """End a call that could not be read."""
        call.refusal = rejected
        if not is_open:
            self._open(call, (PROTOCOL, call.client))
        call.caller.asked += 1
        self.intake.refuse(
            Observation(
                model_id=_bounded(call.request.model_name),
                wants_status=True,
                trace_id=call.trace_id,
            ),
            rejected,
            door=self,
            route=(call, 0),
            session=call.session,
            client=call.client,
            now_ns=call.received_ns,
        )

    def _infer(self, call: Call) -> None:
        caller, request = call.caller, call.request
        try:
            if call.refusal is not None:
                raise call.refusal
            options = read_options(request)
            spec = self.find(request.model_name, request.model_version)
            self.intake.admission.catalog.check_ready(request.model_name)
            call.outputs = read_outputs(request, spec)
            rows = read_rows(request, call.contents, spec)
            if spec.recurrent and len(rows.tensors) > 1:
                raise Rejected(  # noqa: TRY301
                    Outcome.INVALID, f"model {spec.model_id!r} has a state: ask row by row"
                )
        except Rejected as rejected:
            self._refuse(call, rejected)
            return
        call.spec, call.is_batched = spec, rows.is_batched
        call.ends_sequence = options.sequence_end
        self._open(call, (PROTOCOL, call.client, options.sequence_id))
        if options.sequence_start:
            self.intake.end_episode(call.session, spec.model_id, 0)
        call.left = len(rows.tensors)
        call.rows = [None] * call.left
        about = self._about(call, options)
        for row, tensors in enumerate(rows.tensors):
            if call.is_closed:
                break  # one before was refused
            caller.asked += 1
            self.intake.offer(
                about(tensors=tensors, metadata=rows.metadata[row]),
                rows.payload,
                door=self,
                route=(call, row),
                session=call.session,
                client=call.client,
                now_ns=call.received_ns,
            )
        call.contents = []  # it lies in the arena by now
        del request.raw_input_contents[:]

    def find(self, name: str, version: str) -> documents.ModelSpec:
        """Return the spec of a model that can answer.

        Raises:
            Rejected: INVALID, versions are numbers here; or as `Catalog.find`.
        """
        if not (_bounded(name) == name and _bounded(version) == version):
            raise Rejected(Outcome.INVALID, f"a name has at most {MAX_NAME_BYTES} bytes")
        served = self.intake.admission.catalog.models.get(name)
        if version and not version.isdecimal() and (not served or version != served.version):
            raise Rejected(Outcome.INVALID, f"a version is a number, came {version!r}")
        return self.intake.admission.catalog.find(name, version)

    def _about(self, call: Call, options: Options) -> Callable[..., Observation]:
        """Return what makes a row's observation: what is true of all rows of a call."""
        bounds_us = [options.timeout_us] if options.timeout_us is not None else []
        if call.timeout_ns is not None:
            bounds_us.append(max(0, call.timeout_ns) // MICROSECOND_NS)
        request, number = call.request, call.number
        budget_us = min(bounds_us, default=None)
        lateness = Lateness.DEFAULT if budget_us is None else Lateness.FIRM

        def make(**row: object) -> Observation:
            return Observation(
                client_id=call.client,
                client_type=PROTOCOL,
                model_id=request.model_name,
                model_version=request.model_version,
                priority=options.priority,
                sequence=number,
                latency_budget_us=budget_us,
                lateness=lateness,
                keep=Keep.LATEST if options.latest else Keep.ALL,
                trace_id=call.trace_id,
                wants_status=True,
                **row,  # pyright: ignore[reportArgumentType]
            )

        return make

    def _give_up(self, call: Call) -> None:
        if not call.is_closed:
            self._close(call)
            took_ns = self.clock() - call.received_ns
            self._statistics_of(call.request.model_name).refused(took_ns)
            self._take_back(call)

    def _take_back(self, call: Call) -> None:
        self.intake.withdraw(call.session, call.request.model_name, call.number)

    # -------------------------------------------------------------------------------- sessions

    def _open(self, call: Call, key: Hashable) -> None:
        session = self._sessions.setdefault(key, _Session())
        session.open += 1
        call.session = key

    def _close(self, call: Call) -> None:
        call.is_closed = True
        session = self._sessions[call.session]
        session.open -= 1
        session.last_ns = self.clock()

    def expire(self) -> None:
        """End sessions that have been idle for long, and forget clients that have been longer."""
        before_ns = self.clock() - IDLE_NS
        over = [key for key, s in self._sessions.items() if not s.open and s.last_ns < before_ns]
        for key in over:
            del self._sessions[key]
            self.intake.gone(key)
        self.clients.expire(self.clock())

    # ------------------------------------------------------------------------------------ out

    def deliver(self, ended: Sequence[Ended]) -> list[Delivery]:
        """See `Door.deliver`."""
        delivered = [self._deliver(ticket, reply) for ticket, reply in ended]
        self._hand_out()
        return delivered

    def _deliver(self, ticket: Ticket, reply: Reply) -> Delivery:
        call, row = ticket.route
        caller, outcome = call.caller, reply.outcome
        if call.is_closed:
            # Its caller has its answer already, or has gone.
            gone = outcome is _OK
            caller.ended(Outcome.CLIENT_GONE if gone else outcome, late=False)
            return Delivery.GONE if gone else Delivery.SILENT
        caller.ended(outcome, late=reply.late, slack_us=reply.slack_us)
        call.timing, call.finished_ns = reply.timing, reply.finished_ns
        call.is_late |= reply.late
        if outcome is not _OK:
            self._fail(call, Rejected(outcome, reply.message, retry_after_ns=reply.retry_after_ns))
            return Delivery.TOLD
        statistics = self._statistics_of(call.request.model_name)
        statistics.ran(reply)
        row_bytes = sum(map(len, reply.parts))
        if not self.held.has_room(call, row_bytes):
            unread = (
                f"client {call.client!r} has {caller.held_bytes} bytes of answers to read first"
            )
            self._fail(call, Rejected(Outcome.RATE_LIMITED, unread))
            return Delivery.LOST
        self.held.hold(call, row_bytes)
        call.rows[row] = RowOutputs(reply.tensors, [bytes(part) for part in reply.parts])
        call.left -= 1
        if not call.left:
            statistics.succeeded(reply, self.clock() - call.received_ns)
            self._close(call)
            if call.ends_sequence:
                self.intake.end_episode(call.session, call.request.model_name, 0)
            self._ended.append(call)
        return Delivery.TOLD

    def _fail(self, call: Call, rejected: Rejected) -> None:
        """End a call whose row did not get an answer; what is left of it is taken back."""
        self.held.let_go(call)
        call.refusal = call.refusal or rejected
        self._statistics_of(call.request.model_name).refused(self.clock() - call.received_ns)
        self._close(call)
        if len(call.rows) > 1:
            self._take_back(call)
        self._ended.append(call)

    def _statistics_of(self, model: str) -> ModelStatistics:
        """Return a model's; of one that is not served they are not kept."""
        if model not in self.intake.admission.catalog.models:
            return ModelStatistics()
        return self._statistics.setdefault(model, ModelStatistics())

    # ------------------------------------------------------------------------------- questions

    def is_ready(self, name: str, version: str) -> bool:
        """Return whether a model can answer now."""
        served = self.intake.admission.catalog.models.get(name)
        if served is None or (version and version != served.version):
            self.find(name, version)  # says what is wrong
            return False
        return bool(served.workers) and not self.intake.admission.draining

    def readiness(self) -> dict[str, bool]:
        """Return of each model whether it can answer now; of the empty name, whether all can."""
        models = self.intake.admission.catalog.models
        draining = self.intake.admission.draining
        ready = {name: bool(served.workers) and not draining for name, served in models.items()}
        return {"": all(ready.values()) and not draining, **ready}

    def all_ready(self) -> bool:
        """Return whether every model can answer."""
        return self.readiness()[""]

    async def load(self, name: str) -> inference_pb2.RepositoryModelLoadResponse:
        """Serve a model as it lies in the repository now."""
        await self.models.load(name)
        return inference_pb2.RepositoryModelLoadResponse()

    async def unload(self, name: str) -> inference_pb2.RepositoryModelUnloadResponse:
        """Serve a model no more."""
        await self.models.unload(name)
        return inference_pb2.RepositoryModelUnloadResponse()

    def statistics(self, name: str, version: str) -> inference_pb2.ModelStatisticsResponse:
        """Return the statistics of one model, or of all if none is named."""
        catalog = self.intake.admission.catalog
        if name:
            self.find(name, version)
        return inference_pb2.ModelStatisticsResponse(
            model_stats=[
                self._statistics_of(served.name).document(served.name, served.version)
                for served in catalog.models.values()
                if name in ("", served.name)
            ]
        )


def _fault(error: Exception) -> Rejected:
    """Return the refusal of what met a fault of ours, which goes to the log."""
    log = structlog.get_logger("appliance")
    log.error("fault in the gRPC door", exception="".join(traceback.format_exception(error)))
    return Rejected(Outcome.ENGINE_FAILED, f"{type(error).__name__}: {error}")


def _bounded(name: str) -> str:
    """Return a name, or nothing if it is too long to be one."""
    return name if len(name.encode()) <= MAX_NAME_BYTES else ""
