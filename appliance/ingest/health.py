"""Who can answer, by gRPC's own health protocol; and what there is, by its reflection.

Runs in asyncio. The empty name is the whole appliance, the protocol's service too; each model
is a service by its name. Checks have places of their own among the calls, so that one is answered
however many others there are.

grpcio's own health service is not used: in it, one that watches and does not read holds up what
the others are told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
from attrs import define, field
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from appliance.errors import Outcome, Rejected
from appliance.ingest.methods import Methods
from appliance.ingest.service import NAME
from appliance.ingest.status import Context, RefusedWith

_REFLECTION = reflection.SERVICE_NAME
_STATUS = health_pb2.HealthCheckResponse


@define(eq=False)
class Health:
    """See the module's docstring.

    Args:
        methods: Runs what watches.
        checks: Runs checks.
    """

    methods: Methods
    checks: Methods
    _states: dict[str, int] = field(factory=lambda: {"": _STATUS.NOT_SERVING}, init=False)
    _watching: set[asyncio.Event] = field(factory=set[asyncio.Event], init=False)
    _is_over: bool = field(default=False, init=False)

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return both services."""
        names = (NAME, health.SERVICE_NAME, _REFLECTION)
        asked = reflection.aio.ReflectionServicer(names)

        def reflect(
            messages: AsyncIterator[Any], _: str, context: Context
        ) -> AsyncGenerator[Any, None]:
            return asked.ServerReflectionInfo(_read(messages), context)

        request = health_pb2.HealthCheckRequest
        return (
            grpc.method_handlers_generic_handler(
                health.SERVICE_NAME,
                {
                    "Check": self.checks.unary(self._check, request),
                    "Watch": self.methods.stream(self._watch, request),
                },
            ),
            grpc.method_handlers_generic_handler(
                _REFLECTION,
                {
                    "ServerReflectionInfo": self.methods.stream(
                        reflect, reflection_pb2.ServerReflectionRequest
                    )
                },
            ),
        )

    async def _check(self, asked: Any, _: str, __: Context) -> Any:
        if isinstance(asked, Rejected):
            raise asked
        state = self._states.get(asked.service)
        if state is None:
            raise RefusedWith(grpc.StatusCode.NOT_FOUND, f"no service {asked.service!r}")
        return _STATUS(status=state)

    async def _watch(
        self, messages: AsyncIterator[Any], _: str, __: Context
    ) -> AsyncGenerator[Any, None]:
        asked = await anext(_read(messages), None)
        if asked is None:
            raise Rejected(Outcome.INVALID, "a message is missing")
        changed, told = asyncio.Event(), None
        self._watching.add(changed)
        try:
            while True:
                changed.clear()
                state = self._states.get(asked.service, _STATUS.SERVICE_UNKNOWN)
                if state != told:
                    yield _STATUS(status=state)
                    told = state
                else:
                    await changed.wait()
        finally:
            self._watching.discard(changed)

    def tell(self, readiness: dict[str, bool]) -> None:
        """Tell whoever watches; the empty name is the whole appliance."""
        if self._is_over:
            return
        states = {name: _STATUS.SERVING for name, ready in readiness.items() if ready}
        if readiness[""]:
            states[NAME] = _STATUS.SERVING
        # One that was unloaded is known and does not serve.
        self._states = dict.fromkeys([*self._states, *readiness, NAME], _STATUS.NOT_SERVING)
        self._states |= states
        self._wake()

    def stop(self) -> None:
        """Tell whoever watches that nobody is served any more."""
        self._is_over = True
        self._states = dict.fromkeys(self._states, _STATUS.NOT_SERVING)
        self._wake()

    def _wake(self) -> None:
        for each in self._watching:
            each.set()


async def _read(messages: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    """Yield messages; raise what says that one is none."""
    async for message in messages:
        if isinstance(message, Rejected):
            raise message
        yield message
