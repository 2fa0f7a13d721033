"""grpc.aio in the one thread of this package, and the way between it and Trio.

```
gRPC's thread:  Service ──post──▶ inbox ──run_sync_soon──▶ pump (Trio) ──▶ GrpcDoor.take
                Service ◀─future── outbox ◀──call_soon_threadsafe── GrpcDoor.answer
```

Both ways are lists that one side fills and the other takes whole, so that many calls cost one
wake-up. How much may be under way is bounded by gRPC, which refuses more concurrent calls.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from pathlib import Path

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
from appliance.ingest.regions import Regions
from appliance.ingest.service import Service
from appliance.keys.tokens import Tokens

BURST = 64
"""So many are taken before others on the loop have their turn."""
STOP_S = 1.0
"""How long calls that are being answered may take to leave when the door closes."""
PATIENCE_S = 5.0
"""How long the thread may take to end on top of that."""
EXPIRY_S = 1.0
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 2),
)
"""A client that has gone without a word is found within 30 s; one that pings without need, more
often than every 5 s, is sent away."""


@define(eq=False)
class Bridge:
    """See the module's docstring."""

    settings: GrpcIngest
    intake: Intake
    models: ModelControl
    door: GrpcDoor = field(init=False)
    _inbox: deque[Item] = field(factory=deque[Item], init=False)
    _outbox: deque[Call | Question] = field(factory=deque["Call | Question"], init=False)
    _is_woken: bool = field(default=False, init=False)
    _is_open: bool = field(default=False, init=False)
    _is_told: bool = field(default=False, init=False)
    _there: trio.Event = field(factory=trio.Event, init=False)
    _ended: trio.Event = field(factory=trio.Event, init=False)
    _started: trio.Event = field(factory=trio.Event, init=False)
    _address: str = field(default="", init=False)
    _error: BaseException | None = field(default=None, init=False)
    _token: trio.lowlevel.TrioToken = field(init=False)
    _loop: asyncio.AbstractEventLoop = field(init=False)
    _health: Health = field(init=False)
    _told: dict[str, bool] = field(factory=dict[str, bool], init=False)
    _stop: asyncio.Event = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.door = GrpcDoor(self.intake, self._answer, time.monotonic_ns, self.models)

    # ------------------------------------------------------------------------- in Trio's thread

    async def run(
        self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Bind, report the bound address, and serve until cancelled.

        Raises:
            ConfigError: The address cannot be bound.
        """
        self._token = trio.lowlevel.current_trio_token()
        thread = threading.Thread(target=self._run_thread, name="grpc")
        thread.start()
        try:
            await self._started.wait()
            if self._error is not None:
                raise self._error
            self._is_open = True
            task_status.started([f"grpc://{self._address}"])
            async with trio.open_nursery() as nursery:
                self.look()
                nursery.start_soon(self._expire)
                nursery.start_soon(self._watch)
                self.door.start_soon = nursery.start_soon
                await self._pump()
        finally:
            self._is_open = False
            with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_S + PATIENCE_S):
                await self._started.wait()
                if not self._ended.is_set():
                    self._loop.call_soon_threadsafe(self._stop.set)
                await self._ended.wait()
                thread.join()

    async def _pump(self) -> None:
        while True:
            await self._there.wait()
            self._there = trio.Event()
            self._is_woken = False
            while self._inbox:
                self.door.take([self._inbox.popleft() for _ in range(min(BURST, len(self._inbox)))])
                await trio.lowlevel.checkpoint()

    async def _watch(self) -> None:
        """End with the thread, if that ends by itself."""
        await self._ended.wait()
        raise self._error or RuntimeError("the thread of gRPC has ended")

    async def _expire(self) -> None:
        while True:
            await trio.sleep(EXPIRY_S)
            self.door.expire()

    def look(self) -> None:
        """Tell whoever watches who can answer, if that has changed. In Trio's thread."""
        readiness = self.door.readiness()
        if self._is_open and readiness != self._told:
            self._told = readiness
            self._loop.call_soon_threadsafe(self._health.tell, readiness)

    def _wake(self) -> None:
        self._there.set()

    def _answer(self, ended: list[Call | Question]) -> None:
        if not self._is_open:
            return  # the loop may be closed, and nobody waits
        self._outbox.extend(ended)
        if not self._is_told:  # looked at after it is there, as the other side does it in between
            self._is_told = True
            self._loop.call_soon_threadsafe(self._hand_out)

    # ------------------------------------------------------------------------ in gRPC's thread

    def _run_thread(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  it is raised in Trio's thread
            self._error = error
        finally:
            self._token.run_sync_soon(self._note_end)

    def _note_end(self) -> None:
        self._ended.set()
        self._started.set()

    async def _serve(self) -> None:
        settings = self.settings
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
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
            maximum_concurrent_rpcs=settings.max_calls,
        )
        regions = Regions(settings)
        service = Service(self.door, self._post, regions, callers, settings.model_control)
        server.add_generic_rpc_handlers((service.handler(),))
        self._health = Health(server)
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
        self._token.run_sync_soon(self._started.set)
        await self._stop.wait()
        await self._health.stop()
        await server.stop(STOP_S)
        regions.close()

    def _post(self, item: Item) -> None:
        self._inbox.append(item)
        if not self._is_woken:  # as in `_answer`; each wake-up is a system call
            self._is_woken = True
            self._token.run_sync_soon(self._wake)

    def _hand_out(self) -> None:
        self._is_told = False
        while self._outbox:
            ended = self._outbox.popleft()
            if not ended.response.done():  # else its caller has given it up
                ended.response.set_result(None)
