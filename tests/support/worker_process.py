"""A real worker process, as tests drive it: it is killed at the end, whatever it is doing."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from appliance.wire.pb import worker_pb2
from tools.worker_client import PATIENCE_S, WorkerClient, WorkerGone

__all__ = ["PATIENCE_S", "Start", "WorkerGone", "WorkerProcess"]

Start = Callable[..., "WorkerProcess"]
"""Starts a worker process and, given a repository, loads all of it."""


class WorkerProcess(WorkerClient):
    """Starts `python -m appliance.engines`; use it as a context manager."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def run(self, name: str, *rows: dict[str, Any]) -> worker_pb2.Done:
        """Run a batch of raw rows, each `{input name: array or string}`."""
        order = [item.name for item in self.specs[name].inputs]
        self.stage(name, [[self.feed(row[key]) for key in order] for row in rows])
        return self.done()
