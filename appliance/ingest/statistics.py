"""What inference requests took, by model, as the protocol counts them."""

from __future__ import annotations

import time
from collections import deque

from attrs import define, field

from appliance.dispatch.ticket import Reply
from appliance.wire.pb import inference_pb2

MICROSECOND_NS = 1_000
MILLISECOND_NS = 1_000_000
RECENT = 64
"""Batches that are told apart from new ones: more are never under way."""


@define(eq=False)
class ModelStatistics:
    """Of one model; sums since the start, nanoseconds."""

    requests: int = 0
    rows: int = 0
    batches: int = 0
    failed: int = 0
    total_ns: int = 0
    failed_ns: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    last_ms: int = 0
    _recent: deque[int] = field(factory=lambda: deque[int](maxlen=RECENT), init=False)

    def ran(self, reply: Reply) -> None:
        """Note that a row was answered."""
        self.rows += 1
        batch = reply.answer.batch if reply.answer is not None else None
        if batch is not None and batch.id not in self._recent:
            self._recent.append(batch.id)
            self.batches += 1

    def succeeded(self, last: Reply, took_ns: int) -> None:
        """Note that a request was answered; `last` is of the row that was waited for."""
        timing = last.timing
        self.requests += 1
        self.total_ns += took_ns
        self.queue_ns += timing.queue_us * MICROSECOND_NS
        self.input_ns += timing.batch_us * MICROSECOND_NS
        self.infer_ns += timing.execute_us * MICROSECOND_NS
        self.last_ms = time.time_ns() // MILLISECOND_NS

    def refused(self, took_ns: int) -> None:
        """Note that a request was not."""
        self.failed += 1
        self.failed_ns += took_ns

    def document(self, name: str, version: str) -> inference_pb2.ModelStatistics:
        """Return them as the protocol has them."""
        duration = inference_pb2.StatisticDuration
        return inference_pb2.ModelStatistics(
            name=name,
            version=version,
            last_inference=self.last_ms,
            inference_count=self.rows,
            execution_count=self.batches,
            inference_stats=inference_pb2.InferStatistics(
                success=duration(count=self.requests, ns=self.total_ns),
                fail=duration(count=self.failed, ns=self.failed_ns),
                queue=duration(count=self.requests, ns=self.queue_ns),
                compute_input=duration(count=self.requests, ns=self.input_ns),
                compute_infer=duration(count=self.requests, ns=self.infer_ns),
                compute_output=duration(count=self.requests, ns=0),
            ),
        )
