"""Who can answer, by gRPC's own health protocol; and what there is, by its reflection.

Runs in asyncio. The empty name is the whole appliance, the protocol's service too; each model
is a service by its name.
"""

from __future__ import annotations

import asyncio

import grpc.aio
from attrs import define, field
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from appliance.ingest.service import NAME

_STATUS = health_pb2.HealthCheckResponse


@define(eq=False)
class Health:
    """See the module's docstring.

    Args:
        server: Gets both services.
    """

    server: grpc.aio.Server
    _servicer: health.aio.HealthServicer = field(factory=health.aio.HealthServicer, init=False)
    _names: set[str] = field(factory=set[str], init=False)
    _telling: set[asyncio.Task[None]] = field(factory=set["asyncio.Task[None]"], init=False)

    def __attrs_post_init__(self) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self.server)
        names = (NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.server)

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
