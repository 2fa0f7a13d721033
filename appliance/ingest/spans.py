"""Spans of inference calls, made with OpenTelemetry and sent to a collector by OTLP over HTTP.

Runs in asyncio. Imported only where `ingest.grpc.traces` is set: it needs the extra `otel`.

A span is made where its call is answered, which takes well under 0.1 ms and never waits. It is
encoded and sent by a thread that the SDK's BatchSpanProcessor owns: nothing of the appliance but
`_Sender` lives there. Between the two lies a bounded queue that loses its oldest spans when it is
full, so a collector that is away costs spans, never calls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import cast

import structlog
import trio
from attrs import define, field
from grpc import StatusCode
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanContext, SpanKind, Status, Tracer
from opentelemetry.trace import StatusCode as SpanStatus
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from appliance import __version__
from appliance.errors import Outcome, Rejected
from appliance.ingest.callers import Metadata
from appliance.ingest.calls import Call
from appliance.ingest.status import status_of

QUEUE = 8192
"""Spans that wait for the collector; beyond it the oldest are lost."""
BATCH = 512
DELAY_MS = 1_000
TIMEOUT_S = 5.0
"""How long the collector may take for a batch, with all tries."""
FLUSH_S = 2.0
"""How long what still waits may take to leave when the door has closed."""
QUIET_NS = 60_000_000_000
"""Between two lines of the log that say spans are lost."""
MOST = 255
"""Characters of an attribute, or of a status."""
MICROSECOND_NS = 1_000
NUMBERS: dict[StatusCode, int] = {
    code: cast("tuple[int, str]", code.value)[0] for code in StatusCode
}
FAULTS = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)
"""Statuses that are a server's fault, by the semantic conventions for gRPC."""

STATE = "tracestate"
_PROPAGATOR = TraceContextTextMapPropagator()
_ROOT = Context()
_IDS = RandomIdGenerator()


@define(eq=False)
class _Sender(SpanExporter):
    """Counts what was taken, and says of what was not so at most once a minute."""

    exporter: SpanExporter
    sent: int = field(default=0, init=False)
    _lost: int = field(default=0, init=False)
    _told_ns: int | None = field(default=None, init=False)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See `SpanExporter`."""
        try:
            result = self.exporter.export(spans)
        except Exception:  # noqa: BLE001  some releases raise what others return
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
        else:
            self._lost += len(spans)
            now_ns = time.monotonic_ns()
            if self._told_ns is None or now_ns - self._told_ns >= QUIET_NS:
                self._told_ns = now_ns
                structlog.get_logger("appliance").warning(
                    "ingest.grpc.traces: the collector does not take spans", lost=self._lost
                )
        return result

    def shutdown(self) -> None:
        """See `SpanExporter`."""
        self.exporter.shutdown()


@define(eq=False)
class Spans:
    """See the module's docstring.

    Args:
        service: Whose methods are called, by its name in the protocol.
        url: Of the collector.
        instance: Name of this box; may be empty.
    """

    service: str
    url: str
    instance: str = ""
    _sender: _Sender = field(init=False)
    _queue: BatchSpanProcessor = field(init=False)
    _provider: TracerProvider = field(init=False)
    _tracer: Tracer = field(init=False)
    _made: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        _silence()
        self._sender = _Sender(OTLPSpanExporter(endpoint=self.url, timeout=TIMEOUT_S))
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON),
            resource=_resource(self.instance),
            span_limits=SpanLimits(max_span_attribute_length=MOST),
            shutdown_on_exit=False,  # it would wait for the collector
        )
        self._queue = BatchSpanProcessor(
            self._sender,
            max_queue_size=QUEUE,
            schedule_delay_millis=DELAY_MS,
            max_export_batch_size=BATCH,
        )
        self._provider.add_span_processor(self._queue)
        self._tracer = self._provider.get_tracer("appliance", __version__)

    def begin(self, method: str, metadata: Metadata, received_ns: int) -> Span | None:
        """Return the span of a call; None: its caller does not want it recorded.

        Args:
            received_ns: Monotonic.
        """
        carrier: dict[str, str] = {}
        for key, text in metadata:
            if key in _PROPAGATOR.fields and isinstance(text, str):
                if key == STATE and key in carrier:
                    carrier[key] += "," + text  # as RFC 9110 joins headers of one name
                else:
                    carrier.setdefault(key, text)
        span = self._tracer.start_span(
            f"{self.service}/{method}",
            context=_PROPAGATOR.extract(carrier, _ROOT) if carrier else _ROOT,
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": self.service, "rpc.method": method},
            # Not once at the start: a box without a clock of its own learns the time later.
            start_time=received_ns + time.time_ns() - time.monotonic_ns(),
        )
        return cast("Span", span) if span.is_recording() else None

    def end(self, call: Call, span: Span, error: Exception | None) -> None:
        """End the span of a call that is answered; `error` is what it is answered with, if any."""
        if error is None:
            self._end(call, span, StatusCode.OK, Outcome.OK.name)
        elif isinstance(error, Rejected):
            self._end(call, span, status_of(error), error.outcome.name, error.message)
        else:
            self._end(call, span, StatusCode.UNKNOWN, "", f"{type(error).__name__}: {error}")

    def give_up(self, call: Call, span: Span) -> None:
        """End the span of a call whose caller does not wait any more."""
        waited_ns = time.monotonic_ns() - call.received_ns
        is_over = call.timeout_ns is not None and waited_ns >= call.timeout_ns
        code = StatusCode.DEADLINE_EXCEEDED if is_over else StatusCode.CANCELLED
        self._end(call, span, code, Outcome.CANCELLED.name, "its caller waited no longer")

    def _end(
        self, call: Call, span: Span, code: StatusCode, outcome: str, message: str = ""
    ) -> None:
        request, spec = call.request, call.spec
        span.set_attributes(
            {
                "rpc.grpc.status_code": NUMBERS[code],
                "appliance.model": spec.model_id if spec else request.model_name,
                "appliance.model_version": spec.version if spec else request.model_version,
                "appliance.client": call.client,
                "appliance.outcome": outcome,
                "appliance.late": call.is_late,
                "appliance.rows": len(call.rows),
                "appliance.batch_size": call.timing.batch_size,
            }
        )
        if code in FAULTS:
            span.set_status(Status(SpanStatus.ERROR, message[:MOST]))
        assert span.start_time is not None
        offset_ns = span.start_time - call.received_ns
        self._parts(call, span, offset_ns)
        span.end(time.monotonic_ns() + offset_ns)
        self._made += 1

    def _parts(self, call: Call, span: Span, offset_ns: int) -> None:
        """Make the spans within that of a call, as far as their times are known."""
        timing, received_ns = call.timing, call.received_ns
        parts: list[tuple[str, int, int]] = []
        if timing.total_us:
            parts.append(("queue", received_ns, received_ns + timing.queue_us * MICROSECOND_NS))
        if call.finished_ns:
            begun_ns = call.finished_ns - timing.execute_us * MICROSECOND_NS
            gathered_ns = max(received_ns, begun_ns - timing.batch_us * MICROSECOND_NS)
            parts += [("batch", gathered_ns, begun_ns), ("execute", begun_ns, call.finished_ns)]
        parent = span.get_span_context()
        for name, start_ns, end_ns in parts:
            # Made as they are in the end: a tracer takes several times as long.
            part = ReadableSpan(
                name,
                SpanContext(
                    parent.trace_id,
                    _IDS.generate_span_id(),
                    is_remote=False,
                    trace_flags=parent.trace_flags,
                    trace_state=parent.trace_state,
                ),
                parent,
                span.resource,
                start_time=start_ns + offset_ns,
                end_time=end_ns + offset_ns,
                instrumentation_scope=span.instrumentation_scope,
            )
            self._queue.on_end(part)
        self._made += len(parts)

    async def close(self) -> None:
        """Let what waits leave, as far as the collector takes it soon. In Trio."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + FLUSH_S):
            await trio.to_thread.run_sync(self._provider.shutdown, abandon_on_cancel=True)
        lost = self._made - self._sender.sent
        if lost:
            structlog.get_logger("appliance").warning("spans lost", made=self._made, lost=lost)


def _resource(instance: str) -> Resource:
    """Return what the spans are of; OpenTelemetry's own variables of the environment go first."""
    about = {"service.name": "appliance", "service.version": __version__}
    if instance:
        about["service.instance.id"] = instance
    return Resource.create(about).merge(OTELResourceDetector().detect())


def _silence() -> None:
    """Keep the SDK from writing to standard error for each try; `_Sender` says what matters."""
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
