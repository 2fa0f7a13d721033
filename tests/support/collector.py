"""A collector of spans, for tests: OTLP over HTTP, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """What it was sent. `status` is what it answers; it answers nothing while `held`."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.free = threading.Event()
        self.free.set()
        self.posts = 0
        self.spans: list[Span] = []
        self.resource: dict[str, Any] = {}
        self._changed = threading.Condition()

    def take(self, body: bytes) -> None:
        asked = ExportTraceServiceRequest.FromString(body)
        with self._changed:
            self.posts += 1
            for resource in asked.resource_spans if self.status == 200 else ():
                self.resource = attributes(resource.resource)
                for scope in resource.scope_spans:
                    self.spans.extend(scope.spans)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until `condition` gives something; return that."""
        with self._changed:
            found = self._changed.wait_for(condition, 30)
            assert found, f"in vain; {self.posts} posts, {len(self.spans)} spans"
            return found

    def calls(self, trace: str, count: int = 1) -> list[Span]:
        """Wait for the spans of so many calls of a trace, with what lies within them."""

        def found() -> list[Span]:
            of_calls = [span for span in self.spans if is_of(span, trace)]
            return of_calls if len(of_calls) >= count else []

        spans = self.wait(found)
        assert len(spans) == count
        return sorted(spans, key=lambda span: span.start_time_unix_nano)

    def call(self, trace: str) -> Span:
        (span,) = self.calls(trace)
        return span

    def parts(self, span: Span) -> dict[str, Span]:
        """The spans within that of a call. They were made before it, so they are there."""
        return {each.name: each for each in self.spans if each.parent_span_id == span.span_id}


def is_of(span: Span, trace: str) -> bool:
    return span.trace_id.hex() == trace and span.kind == Span.SPAN_KIND_SERVER


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(body)
            collector.free.wait(60)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    try:
        yield collector
    finally:
        collector.free.set()
        server.shutdown()
        serving.join()
        server.server_close()
