"""The nursery tree: what runs, what outlives what, and in which order it starts and stops.

```
root                                  (cancelled last)
├─ signals → lifecycle   ├─ admin (unix socket, optional loopback TCP)
└─ services
   ├─ worker pool → supervise(slot)
   ├─ dispatcher                      (sole owner of the scheduler)
   ├─ recorder                        (the ring; recordings; their files in a thread)
   ├─ health monitor                  (what a process reads of the GPUs)
   └─ doors                           (ZeroMQ; gRPC, whose asyncio is hosted)
```

Start: addresses tried → workers settled → dispatcher → doors → ready. Drain: the admission gate
closes with the door still open, what is queued finishes or is told, replies are flushed, then
doors, workers, admin.
"""

from __future__ import annotations

import gc
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import structlog
import trio
from attrs import define, field

from appliance import __version__
from appliance.admin.documents import Documents
from appliance.admin.server import serve_admin
from appliance.admin.timeline import TimelineDocuments
from appliance.administration import Administration
from appliance.admission.admission import Admission
from appliance.admission.catalog import Catalog, Served
from appliance.config import Config
from appliance.dispatch.access_log import AccessLog
from appliance.dispatch.dispatcher import Dispatcher
from appliance.dispatch.endings import Endings
from appliance.dispatch.fleet import Fleet
from appliance.dispatch.intake import Intake
from appliance.dispatch.memory import Memory
from appliance.dispatch.strategy import ConfiguredStrategy
from appliance.health.monitor import HealthMonitor
from appliance.ingest.bridge import Bridge
from appliance.io.groups import only_error
from appliance.io.notify import Notifier
from appliance.io.slow_steps import SlowSteps
from appliance.metrics.ledger import Ledger
from appliance.metrics.registry import Metrics
from appliance.metrics.status import Client, State
from appliance.models.repository import ModelEntry, Repository
from appliance.recording.recorder import Recorder
from appliance.reload import ModelWatch, Reloader
from appliance.rollout import Rollout
from appliance.scheduling import Scheduler
from appliance.scheduling.events import ClocksRead, ModelRef
from appliance.sessions.binds import try_binds
from appliance.sessions.document import client_counts, client_documents
from appliance.sessions.door import ZmqDoor
from appliance.sessions.gate import Gate, gate_of
from appliance.sessions.replies import Replies
from appliance.succession import StartAdmin, keep_admin, take_admin, wait_released
from appliance.timeslice import SERVING_NS, set_time_slice
from appliance.workers.arena import Arena
from appliance.workers.events import PoolEvent, WorkerDown, WorkerUp
from appliance.workers.placement import slots_of
from appliance.workers.pool import WorkerPool
from appliance.workers.start_progress import StartProgress

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

SWITCH_INTERVAL_S = 0.0005
SLOW_STEP_NS = 5_000_000
START_EXTENSION_NS = 60_000_000_000
"""What a service manager is asked for, at a time, while workers load or another instance serves."""
START_LOOK_S = 5.0
FAREWELL_S = 0.5
"""Between the last answers and the door's end: a client of the old wire loses what it has not read
when the connection ends, and robots look once in their period."""


def serve(
    config: Config,
    read: Callable[[], Config],
    *,
    file: Path | None = None,
    standby: bool = False,
) -> int:
    """Run the appliance until it is drained; return its exit code, 0.

    Args:
        read: Reads the configuration again.
        file: Where it comes from, to be watched; None: only from flags.
        standby: Another instance serves. Load the models, and take its place when it ends.

    Raises:
        ConfigError: Something configured cannot be had: a port, a path, a repository.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    set_time_slice(SERVING_NS)
    app = Appliance(config, standby)
    app.reloader = Reloader(config, lambda: app.checked(read()), app.apply, file)
    try:
        trio.run(app.run, instruments=[SlowSteps(SLOW_STEP_NS, app.on_slow_step)])
    except BaseExceptionGroup as group:
        error = only_error(group)
        # Not from the group: what came before the error is then told, and not only where it passed.
        raise error from error.__cause__ or error.__context__
    finally:
        app.arena.close()
    return 0


@define(eq=False)
class Appliance:
    """One appliance: everything it owns, wired together, and its life."""

    config: Config
    standby: bool = False
    state: State = field(default="starting", init=False)
    arena: Arena = field(init=False)
    pool: WorkerPool = field(init=False)
    dispatcher: Dispatcher = field(init=False)
    door: ZmqDoor = field(init=False)
    bridge: Bridge | None = field(default=None, init=False)
    recorder: Recorder = field(init=False)
    documents: Documents = field(init=False)
    timeline: TimelineDocuments = field(init=False)
    reloader: Reloader = field(init=False)
    rollout: Rollout = field(init=False)
    health: HealthMonitor = field(init=False)
    _admission: Admission = field(init=False)
    _gate: Gate | None = field(init=False)
    _strategy: ConfiguredStrategy = field(init=False)
    models: ModelWatch = field(init=False)
    _notifier: Notifier = field(factory=Notifier.from_environ, init=False)
    _binds: list[str] = field(factory=list[str], init=False)
    _unsettled: set[str] = field(factory=set[str], init=False)
    _settled: trio.Event = field(factory=trio.Event, init=False)
    _drain: trio.Event = field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        config = self.config
        self.reloader = Reloader(config, lambda: config, self.apply)
        gate = self._gate = gate_of(config)
        scheduler = Scheduler(
            config.scheduling.max_queue_size,
            config.scheduling.overflow_policy,
            config.scheduling.max_retries,
            time.monotonic_ns,
        )
        self._strategy = ConfiguredStrategy(scheduler)
        self._strategy.load(config.scheduling)
        self._strategy.apply(config.scheduling)
        directory = Path(config.models.directory)
        entries = Repository(directory).scan()
        self.models = ModelWatch(directory, entries)
        slots = slots_of(config, entries)
        catalog = _catalog(entries)
        metrics, ledger = Metrics(), Ledger()
        for name in catalog.models:
            metrics.add_model(name)
            ledger.add_model(name)
        self.arena = Arena(config.arena.bytes, ledger_slots=2 * len(slots))  # successors count too
        memory = Memory(self.arena)
        hosted = {
            slot.name: [ModelRef(model.name, model.version) for model in slot.models]
            for slot in slots
        }
        fleet = Fleet(catalog, memory, metrics, ledger, hosted)
        endings = Endings(ledger, metrics, memory, AccessLog(config.log.access_sample))
        self.dispatcher = Dispatcher(scheduler, fleet, endings, self._notifier)
        self.pool = WorkerPool(slots, self.arena, on_event=self._on_pool_event, on_log=_log_line)
        self.dispatcher.pool = self.pool
        self._unsettled = {slot.name for slot in slots}
        self._admission = Admission(
            config,
            catalog,
            lambda name, version: scheduler.planned_ns(ModelRef(name, version), 1),
        )
        intake = Intake(self._admission, memory, endings, self.dispatcher)
        instance = secrets.randbits(64)
        replies = Replies(catalog, config.appliance_id, instance)
        self.door = ZmqDoor(config.transport, intake, replies, gate)
        self.dispatcher.answer_rows = self.door.answer_rows
        self.rollout = Rollout(
            lambda: self.config, self.models, self.pool, self.dispatcher, catalog, self._look
        )
        if config.ingest.grpc.bind:
            self.bridge = Bridge(config.ingest.grpc, intake, self.rollout)
        self.recorder = Recorder(config.recording, endings, self._about)
        self.health = HealthMonitor({slot.name: slot.device for slot in slots}, self._on_clocks)
        self.documents = Documents(
            appliance_id=config.appliance_id,
            instance=instance,
            lifecycle=lambda: self.state,
            binds=lambda: self._binds,
            config_error=lambda: self.reloader.error,
            pending=lambda: self.models.pending,
            clients=self._clients,
            client_counts=lambda: client_counts(self.door.table, time.monotonic_ns()),
            connections_refused=self.door.refused_connections,
            problems=self._problems,
            devices=self.health.documents,
            clock=time.monotonic_ns,
            metrics=metrics,
            ledger=ledger,
            catalog=catalog,
            fleet=fleet,
            dispatcher=self.dispatcher,
            pool=self.pool,
        )

        self.timeline = TimelineDocuments(endings.timeline, f"{instance:016x}", time.monotonic_ns())

    # ------------------------------------------------------------------------------- the tree

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start, serve until told to drain, drain, stop."""
        async with trio.open_nursery() as root:
            await root.start(self._signals)
            admin = self.config.admin
            start_admin = partial(root.start, self._admin)
            if self.standby:
                scope = await start_admin(f"{admin.socket}.standby", "")
            else:
                scope = await start_admin(admin.socket, admin.listen)
                try_binds(self.config.transport.bind)
            async with trio.open_nursery() as services:
                await services.start(self.pool.run)
                services.start_soon(self._ask_for_time)
                await services.start(self.dispatcher.run)
                await services.start(self.recorder.run)
                await services.start(self.health.run)
                await self._settled.wait()
                if self.standby and not await self._succeed():
                    services.cancel_scope.cancel()
                    await trio.sleep_forever()
                door = await services.start(self._run_door)
                self._ready()
                root.start_soon(self._keep_admin, start_admin, scope)
                services.start_soon(self.reloader.watch)
                services.start_soon(self.models.watch)
                task_status.started()
                await self._drain.wait()
                await self._finish()
                await self.recorder.close()
                door.cancel()
                services.cancel_scope.cancel()
            self.dispatcher.close()
            self._stopped()
            root.cancel_scope.cancel()

    async def _ask_for_time(self) -> None:
        """Let the service manager wait for us, as long as there is something to wait for."""
        slots = self.pool.slots()
        longest_ns = max((slot.start_timeout_ns for slot in slots), default=0)
        progress = StartProgress(longest_ns + START_EXTENSION_NS)
        while self.state in ("starting", "standby"):
            workers = self.pool.statistics()
            if self.state == "starting" and not progress.gets_on(workers, time.monotonic_ns()):
                steps = {worker.slot: worker.step or worker.state for worker in workers}
                structlog.get_logger("appliance").error("the start makes no progress", **steps)
                return
            self._notifier.extend_start(START_EXTENSION_NS)
            await trio.sleep(START_LOOK_S)

    async def _succeed(self) -> bool:
        self.state = "standby"
        grpc = self.config.ingest.grpc.bind
        addresses = [*self.config.transport.bind, *([f"tcp://{grpc}"] if grpc else [])]
        return await wait_released(addresses, Path(self.config.admin.socket), self._drain)

    async def _keep_admin(self, start: StartAdmin, scope: trio.CancelScope) -> None:
        admin = self.config.admin
        if self.standby:
            scope = await take_admin(admin, start, scope)
        await keep_admin(admin, start, scope)

    async def _run_door(self, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                binds: list[str] = await nursery.start(self.door.run)
                if self.bridge is not None:
                    binds += await nursery.start(self.bridge.run)
                self._binds = binds
                task_status.started(scope)

    async def _admin(
        self, socket: str, listen: str, *, task_status: trio.TaskStatus[trio.CancelScope]
    ) -> None:
        """Serve the admin documents until the scope that is reported is cancelled."""
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                sources = self._administration().sources()
                await nursery.start(partial(serve_admin, sources, socket=socket, listen=listen))
                task_status.started(scope)

    def _ready(self) -> None:
        if self._drain.is_set():
            return  # told to stop before it was up
        self.state = "ready"
        gc.collect()
        gc.freeze()  # what lives now lives to the end: no collection need look at it
        self._notifier.ready()
        structlog.get_logger("appliance").info(
            "ready", binds=self._binds, fast_path=self.door.has_fast_path
        )

    async def _signals(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """SIGHUP reloads; the first other signal drains, a second one ends the grace."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    await self.reloader.reload()
                    continue
                if self._drain.is_set():
                    self.dispatcher.abandon()
                self.drain()

    # -------------------------------------------------------------------------------- the end

    def drain(self) -> None:
        """Refuse new work from now on; finish what was accepted; then stop."""
        if not self._drain.is_set():
            structlog.get_logger("appliance").info("draining")
            self._admission.draining = True
            self._look()
            self.state = "draining"
            self._notifier.stopping()
            self._drain.set()
            self._settled.set()

    async def _finish(self) -> None:
        """Wait until every accepted request has its outcome; what takes too long is told so.

        Then until robots can have read theirs.
        """
        with trio.move_on_after(self.config.drain.grace_s):
            await self.dispatcher.wait_idle()
        self.dispatcher.abandon()
        if any(not session.protocol for session in self.door.table if not session.silent):
            await trio.sleep(FAREWELL_S)

    def _stopped(self) -> None:
        """Say how the count ends."""
        status = self.documents.status()
        structlog.get_logger("appliance").info(
            "stopped", outcomes=status["outcomes"], **status["ledger"]
        )

    # ------------------------------------------------------------------------------- changes

    def checked(self, config: Config) -> Config:
        """Return a configuration that fits the models served, with its strategy loaded.

        Raises:
            ConfigError: It does not fit, or there is no such strategy.
        """
        slots_of(config, self.models.served)
        self._strategy.load(config.scheduling)
        return config

    def apply(self, config: Config) -> None:
        """Let another configuration hold from now on, as far as it may differ (see `reload`)."""
        self.config = config
        self._admission.reconfigure(config)
        scheduling = config.scheduling
        self.dispatcher.scheduler.reconfigure(
            scheduling.max_queue_size, scheduling.overflow_policy, scheduling.max_retries
        )
        if self._strategy.apply(scheduling):
            self.dispatcher.turn()  # whom the one before let wait may run
        self.dispatcher.endings.log.sample = config.log.access_sample

    # ------------------------------------------------------------------------------- wiring

    def _look(self) -> None:
        """Let the gRPC door see which models can answer."""
        if self.bridge is not None:
            self.bridge.look()

    def _on_pool_event(self, event: PoolEvent) -> None:
        if self.rollout.takes(event):
            return
        self.dispatcher.on_pool_event(event)
        self._look()
        if isinstance(event, (WorkerUp, WorkerDown)):
            self._unsettled.discard(event.worker.slot)
            if not self._unsettled:
                self._settled.set()

    def _on_clocks(self, slowdowns: Mapping[str, float]) -> None:
        for slot, slowdown in slowdowns.items():
            self.dispatcher.post(ClocksRead(slot, slowdown))
        self.dispatcher.turn()

    def on_slow_step(self, task: str, _took_ns: int) -> None:
        """Count a task's step that held the event loop for too long."""
        self.documents.metrics.count("slow_steps", task.rpartition(".")[2])

    def _administration(self) -> Administration:
        return Administration(
            documents=self.documents,
            timeline=self.timeline,
            models=self.models,
            rollout=self.rollout,
            reloader=self.reloader,
            recorder=self.recorder,
            drain=self.drain,
        )

    def _clients(self) -> list[Client]:
        now_ns = time.monotonic_ns()

        def tier_of(client: str) -> int:
            return self._admission.policy(client).tier

        overdue_ns = self.dispatcher.scheduler.overdue_ns(now_ns)
        robots = client_documents(self.door.table, tier_of, overdue_ns, now_ns)
        if self.bridge is None:
            return robots
        return robots + self.bridge.door.clients.documents(tier_of, now_ns)

    def _problems(self) -> list[str]:
        """Say what is wrong beside models and workers."""
        keys = self._gate.problems() if self._gate is not None else []
        others = (self.recorder.problem, self._strategy.problem)
        return [*keys, *(problem for problem in others if problem)]

    def _about(self) -> dict[str, str]:
        """Return what recordings say of this appliance."""
        return {
            "appliance_id": self.config.appliance_id,
            "instance": f"{self.documents.instance:016x}",
            "version": __version__,
        }


def _catalog(entries: list[ModelEntry]) -> Catalog:
    """Return the models to be served, and those that cannot be, with the reason."""
    return Catalog({e.name: Served(e.name, e.version, error=e.error or "") for e in entries})


def _log_line(slot: str, line: str) -> None:
    structlog.get_logger("worker").info(line, worker=slot)
