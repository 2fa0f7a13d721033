"""grpc.aio inside Trio, and the way between the two.

```
asyncio's turn:  Service ──post──▶ inbox ──▶ GrpcDoor.take (after the turn)
                 Service ◀─future── outbox ◀── GrpcDoor.answer
```

Both ways are lists that one side fills and the other takes whole, so that many calls cost one turn
of the dispatcher. How much may be under way is bounded by `open_calls` and `held_answers`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import trio
from attrs import define, field

from appliance.config import GrpcIngest
from appliance.dispatch.intake import Intake
from appliance.errors import ConfigError
from appliance.ingest.callers import Callers, TokenCheck
from appliance.ingest.calls import Call, Item, Question
from appliance.ingest.certificates import Certificates
from appliance.ingest.door import GrpcDoor, ModelControl
from appliance.ingest.health import Health
from appliance.ingest.inference import Inference
from appliance.ingest.methods import Methods, by_address
from appliance.ingest.open_calls import CHECKS, REFUSALS, OpenCalls
from appliance.ingest.regions import Regions
from appliance.ingest.service import NAME, Service
from appliance.io.hosted_loop import HostedLoop
from appliance.keys.tokens import Tokens

if TYPE_CHECKING:  # needs the extra `otel`
    from appliance.ingest.spans import Spans

STOP_S = 1.0
"""How long calls that are being answered may take to leave when the door closes."""
PATIENCE_S = 5.0
"""How long the server may take to end on top of that."""
EXPIRY_S = 1.0
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.ping_timeout_ms", 10_000),  # the one that counts in grpcio 1.85
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 2),
)
"""A client that has gone without a word is found within 30 s; one that pings without need, more
often than every 5 s, is sent away."""


def load_spans(settings: GrpcIngest) -> type[Spans]:
    """Return what tells a collector of calls.

    Raises:
        ConfigError: What it needs is not installed.
    """
    try:
        from appliance.ingest.spans import Spans  # noqa: PLC0415  needs an extra that few install
    except ImportError as error:
        raise ConfigError(
            f"ingest.grpc.traces: found {settings.traces!r}, which needs OpenTelemetry: {error}; "
            "run `pip install 'appliance[otel]'`, or leave the key out"
        ) from error
    return Spans


@define(eq=False)
class Bridge:
    """See the module's docstring."""

    settings: GrpcIngest
    intake: Intake
    models: ModelControl
    door: GrpcDoor = field(init=False)
    _inbox: deque[Item] = field(factory=deque[Item], init=False)
    _outbox: deque[Call | Question] = field(factory=deque["Call | Question"], init=False)
    _is_open: bool = field(default=False, init=False)
    _is_waking: bool = field(default=False, init=False)
    _started: trio.Event = field(factory=trio.Event, init=False)
    _ended: trio.Event = field(factory=trio.Event, init=False)
    _address: str = field(default="", init=False)
    _loop: HostedLoop = field(init=False)
    _health: Health = field(init=False)
    _spans: Spans | None = field(default=None, init=False)
    _told_readiness: dict[str, bool] = field(factory=dict[str, bool], init=False)
    _stop: asyncio.Event = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.door = GrpcDoor(self.intake, self._answer, time.monotonic_ns, self.models)
        if self.settings.traces:
            instance = self.intake.admission.config.appliance_id
            self._spans = load_spans(self.settings)(NAME, self.settings.traces, instance)

    # --------------------------------------------------------------------------------- in Trio

    async def run(
        self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Bind, report the bound address, and serve until cancelled.

        Raises:
            ConfigError: The address cannot be bound.
        """
        self._loop, self._stop = HostedLoop(), asyncio.Event()
        serving = self._loop.create_task(self._serve())
        serving.add_done_callback(lambda _: self._ended.set())
        try:
            async with trio.open_nursery() as nursery:
                self.door.start_soon = nursery.start_soon
                nursery.start_soon(self._loop.turns, self._take)
                nursery.start_soon(self._watch, serving)
                await self._started.wait()
                task_status.started([f"grpc://{self._address}"])
                self._is_open = True
                self.look()
                await self._expire()
        finally:
            self._is_open, self.door.start_soon = False, None
            with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_S + PATIENCE_S):
                await self._close()
            if self._spans is not None:
                await self._spans.close()

    async def _close(self) -> None:
        """Let what is being answered leave, and the server end."""
        if not self._ended.is_set():
            self._loop.call_soon(self._stop.set)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._loop.turns, self._take)
                await self._ended.wait()
                nursery.cancel_scope.cancel()
        self._loop.close()

    def _take(self) -> None:
        """Take what came in a turn of asyncio's."""
        if self._inbox:
            items = list(self._inbox)
            self._inbox.clear()
            self.door.take(items)

    async def _watch(self, serving: asyncio.Task[None]) -> None:
        """End with the server, if that ends by itself."""
        await self._ended.wait()
        serving.result()
        raise RuntimeError("the gRPC server has ended")

    async def _expire(self) -> None:
        while True:
            await trio.sleep(EXPIRY_S)
            self.door.expire()

    def look(self) -> None:
        """Tell whoever watches who can answer, if that has changed."""
        readiness = self.door.readiness()
        if self._is_open and readiness != self._told_readiness:
            self._told_readiness = readiness
            self._loop.call_soon_threadsafe(self._health.tell, readiness)

    def _answer(self, ended: list[Call | Question]) -> None:
        if not self._is_open:
            return  # the loop may be closed, and nobody waits
        self._outbox.extend(ended)
        if not self._is_waking:
            self._is_waking = True
            self._loop.call_soon_threadsafe(self._hand_out)  # which makes it look at once

    # ------------------------------------------------------------------------------ in asyncio

    async def _serve(self) -> None:
        settings = self.settings
        keys = self.intake.admission.config.keys
        callers = Callers(
            Tokens(Path(keys.directory)) if settings.tokens else None,
            # Where keys say who the others are, nobody is one of them for saying so.
            believes_names=not keys.required,
        )
        server = grpc.aio.server(
            interceptors=[TokenCheck(callers)] if settings.tokens else [],
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.so_reuseport", 0),
                *KEEPALIVE,
            ],
            maximum_concurrent_rpcs=settings.max_calls + CHECKS + REFUSALS,
        )
        regions = Regions(settings)
        methods = Methods(OpenCalls(settings.max_calls), callers.name)
        checks = Methods(OpenCalls(CHECKS), by_address)
        inference = Inference(self._post, regions, callers, self.door.held, self._spans)
        service = Service(
            self.door, self._post, methods, inference, regions, settings.model_control
        )
        self._health = Health(methods, checks)
        server.add_generic_rpc_handlers((service.handler(), *self._health.handlers()))
        host = settings.bind.rpartition(":")[0]
        try:
            if settings.tls.certificate:
                credentials = Certificates(settings.tls).credentials()
                port = server.add_secure_port(settings.bind, credentials)
            else:
                port = server.add_insecure_port(settings.bind)
        except RuntimeError as error:
            raise ConfigError(
                f"ingest.grpc.bind: {settings.bind} cannot be bound: {error}"
            ) from None
        await server.start()
        self._address = f"{host}:{port}"
        self._started.set()
        watching = [asyncio.ensure_future(each.watch()) for each in (methods, checks)]
        await self._stop.wait()
        for each in watching:
            each.cancel()
        self._health.stop()
        await server.stop(STOP_S)
        regions.close()

    def _post(self, item: Item) -> None:
        self._inbox.append(item)

    def _hand_out(self) -> None:
        self._is_waking = False
        while self._outbox:
            ended = self._outbox.popleft()
            if not ended.response.done():  # else its caller has given it up
                ended.response.set_result(None)
