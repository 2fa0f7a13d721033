"""Who can answer, by gRPC's own health protocol; and what there is, by its reflection.

Runs in asyncio. The empty name is the whole appliance, the protocol's service too; each model
is a service by its name. Whoever watches, or asks the reflection service, holds a call open, and
these are counted; a check is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from attrs import define, field
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from appliance.errors import Rejected
from appliance.ingest.callers import Callers
from appliance.ingest.open_calls import OpenCalls
from appliance.ingest.service import NAME
from appliance.ingest.status import Context, refuse

_STATUS = health_pb2.HealthCheckResponse


class _Watched(health.aio.HealthServicer):
    """Health, with the calls of those that watch counted."""

    def __init__(self, callers: Callers, open_calls: OpenCalls) -> None:
        super().__init__()
        self.callers, self.open_calls = callers, open_calls

    async def Watch(  # noqa: N802  the protocol's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """See the protocol."""
        try:
            with self.open_calls.stream(self.callers.name(context)):
                await super().Watch(request, context)
        except Rejected as rejected:
            await refuse(context, rejected)


class _Reflection(reflection.aio.ReflectionServicer):
    """Reflection, with its calls counted."""

    def __init__(self, names: tuple[str, ...], callers: Callers, open_calls: OpenCalls) -> None:
        super().__init__(names)
        self.callers, self.open_calls = callers, open_calls

    async def ServerReflectionInfo(  # noqa: N802
        self, request_iterator: AsyncIterator[Any], unused_context: Context
    ) -> AsyncIterator[Any]:
        """See the protocol."""
        try:
            with self.open_calls.stream(self.callers.name(unused_context)):
                async for response in super().ServerReflectionInfo(
                    request_iterator, unused_context
                ):
                    yield response
        except Rejected as rejected:
            await refuse(unused_context, rejected)


@define(eq=False)
class Health:
    """See the module's docstring.

    Args:
        server: Gets both services.
        callers: Says who watches.
        open_calls: Says how many may.
    """

    server: grpc.aio.Server
    callers: Callers
    open_calls: OpenCalls
    _servicer: _Watched = field(init=False)
    _names: set[str] = field(factory=set[str], init=False)
    _telling: set[asyncio.Task[None]] = field(factory=set["asyncio.Task[None]"], init=False)

    def __attrs_post_init__(self) -> None:
        self._servicer = _Watched(self.callers, self.open_calls)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self.server)
        names = (NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            _Reflection(names, self.callers, self.open_calls), self.server
        )

    def tell(self, readiness: dict[str, bool]) -> None:
        """Tell whoever watches; the empty name is the whole appliance."""
        task = asyncio.ensure_future(self._tell({NAME: readiness[""], **readiness}))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, readiness: dict[str, bool]) -> None:
        for name in self._names - readiness.keys():
            await self._servicer.set(name, _STATUS.NOT_SERVING)  # it was unloaded
        self._names = set(readiness)
        for name, ready in readiness.items():
            await self._servicer.set(name, _STATUS.SERVING if ready else _STATUS.NOT_SERVING)

    async def stop(self) -> None:
        """Tell whoever watches that nobody is served any more."""
        await self._servicer.enter_graceful_shutdown()
