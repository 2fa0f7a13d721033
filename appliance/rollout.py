"""Other models in a running appliance: loaded beside those that serve, swapped between two batches.

A new version, a new model, or one less: each worker slot that is concerned gets a successor, with a
process of its own, which loads and warms up while the slot goes on serving. When all successors are
up, they take over at once: from then on requests are admitted for the new models. What was admitted
before is answered by the former workers, which end when there is nothing of it left. If one
successor does not come up, all are given up, and nothing has changed.

Called by `app`, for whoever may change models: the admin socket, and the gRPC door if it is let.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
import trio
from attrs import define, evolve, field

from appliance.admission.catalog import Catalog, Served
from appliance.config import Config
from appliance.dispatch.dispatcher import Dispatcher
from appliance.errors import ConfigError, Outcome, Rejected
from appliance.models.repository import ModelEntry, Repository
from appliance.reload import ModelWatch
from appliance.scheduling.events import ModelRef, WorkerRef, WorkerRetired
from appliance.wire.spec import ModelSpec
from appliance.workers.allocator import Block
from appliance.workers.events import ModelFailed, ModelLoaded, PoolEvent, WorkerDown, WorkerUp
from appliance.workers.placement import slots_of
from appliance.workers.pool import WorkerPool
from appliance.workers.slot import Slot

UNLOADED = "it was unloaded"
LEAVE_S = 5.0
"""How much longer than a request may wait a former worker may take to run what it still has."""


@define(eq=False)
class Rollout:
    """See the module's docstring. One change at a time; others wait.

    Args:
        config: What holds now.
        watch: Knows what is served, as it was found in the repository.
        on_change: Called when other models are served.
    """

    config: Callable[[], Config]
    watch: ModelWatch
    pool: WorkerPool
    dispatcher: Dispatcher
    catalog: Catalog
    on_change: Callable[[], None]
    _one_at_a_time: trio.Lock = field(factory=trio.Lock, init=False)
    _heard: dict[str, list[PoolEvent]] = field(factory=dict[str, "list[PoolEvent]"], init=False)
    _news: trio.Event = field(factory=trio.Event, init=False)

    # ------------------------------------------------------------------------------ the changes

    async def load(self, name: str) -> str:
        """Serve a model as it lies in the repository now; return its version.

        Returns when nothing of the former one runs any more.

        Raises:
            Rejected: UNKNOWN_MODEL, INVALID or ENGINE_FAILED; then all is as before.
        """
        async with self._one_at_a_time:
            found = await trio.to_thread.run_sync(self._found, name, abandon_on_cancel=True)
            others = [entry for entry in self.watch.served if entry.name != name]
            await self._change([*others, found], name)
            return found.version

    async def unload(self, name: str) -> None:
        """Serve a model no more. Returns when nothing of it runs any more.

        Raises:
            Rejected: UNKNOWN_MODEL.
        """
        async with self._one_at_a_time:
            if name not in self.catalog.models:
                self.catalog.find(name, "")
            entries = [
                evolve(entry, error=UNLOADED) if entry.name == name else entry
                for entry in self.watch.served
            ]
            await self._change(entries, name)

    def _found(self, name: str) -> ModelEntry:
        directory = self.config().models.directory
        try:
            entries = {entry.name: entry for entry in Repository(directory).scan()}
        except ConfigError as error:
            raise Rejected(Outcome.INVALID, str(error)) from error
        entry = entries.get(name)
        if entry is None:
            there = ", ".join(sorted(entries)) or "nothing"
            message = f"model {name!r} is not in {directory}; there is {there}"
            raise Rejected(Outcome.UNKNOWN_MODEL, message)
        if entry.error is not None:
            raise Rejected(Outcome.INVALID, entry.error)
        return entry

    async def _change(self, entries: Sequence[ModelEntry], name: str) -> None:
        """Serve these, of which one differs."""
        entries = sorted(entries, key=lambda entry: entry.name)
        try:
            slots = slots_of(self.config(), entries)
        except ConfigError as error:
            raise Rejected(Outcome.INVALID, str(error)) from error
        changed = [
            slot
            for before, slot in zip(self.pool.slots(), slots, strict=True)
            if name in {model.name for model in (*before.models, *slot.models)}
        ]
        await self.pool.wait_left()
        self._heard = {slot.name: [] for slot in changed}
        pages: dict[str, int] = {}
        try:
            for slot in changed:
                pages[slot.name] = self.pool.succeed(slot)
            for slot in changed:
                await self._until_up(slot, name)
            self._check_alive(name)
            self._check_specs(name)
            outputs = self._reserved()
        except BaseException:
            for slot in changed:
                self.pool.abandon(slot.name)
            raise
        retired = self._take_over(entries, changed, pages, outputs, name)
        await self.watch.look()  # what is there is no news any more
        await self._until_left(retired)

    # ----------------------------------------------------------------------------- beside them

    def takes(self, event: PoolEvent) -> bool:
        """Keep what a successor tells until it takes over; return whether it was one."""
        if not self.pool.is_successor(event.worker):
            return False
        self._heard.setdefault(event.worker.slot, []).append(event)
        self._news.set()
        return True

    async def _until_up(self, slot: Slot, name: str) -> None:
        """Wait until a successor has loaded all that its slot has to host.

        Raises:
            Rejected: ENGINE_FAILED, it has not.
        """
        seen = 0
        while True:
            for event in self._heard[slot.name][seen:]:
                seen += 1
                if isinstance(event, WorkerUp):
                    return
                if isinstance(event, ModelFailed):
                    self._check_failure(slot.models[event.model].name, name, event.message)
            self._check_alive(name)
            self._news = trio.Event()
            await self._news.wait()

    def _check_alive(self, name: str) -> None:
        """Refuse the change if a successor has ended, also after it was up."""
        for events in self._heard.values():
            for event in events:
                if isinstance(event, WorkerDown):
                    text = "; ".join((event.cause, *event.stderr[-3:]))
                    raise Rejected(Outcome.ENGINE_FAILED, f"model {name!r}: its worker {text}")

    def _check_failure(self, failed: str, name: str, message: str) -> None:
        """Refuse the change for a model that fails and is to be new, or was served."""
        served = self.catalog.models.get(failed)
        if failed == name:
            text = f"model {name!r} failed to load: {message}"
        elif served is not None and served.workers:
            text = f"model {failed!r}, which shares a worker with {name!r}, failed: {message}"
        else:
            return
        raise Rejected(Outcome.ENGINE_FAILED, text)

    def _specs(self) -> dict[str, list[ModelSpec]]:
        """Return what each successor has loaded."""
        return {
            slot: [event.spec for event in events if isinstance(event, ModelLoaded)]
            for slot, events in self._heard.items()
        }

    def _check_specs(self, name: str) -> None:
        """Refuse what requests that were admitted before could not be answered by."""
        found = [spec for specs in self._specs().values() for spec in specs]
        for spec in found:
            served = self.catalog.models.get(spec.model_id)
            before = served.spec if served is not None else None
            if before is None or spec.version != before.version or spec.hash == before.hash:
                continue
            if spec.model_id == name:
                text = (
                    f"model {name!r}: version {before.version} is served with other inputs or "
                    "outputs; put this one into a directory of a new version"
                )
            else:
                text = (
                    f"model {spec.model_id!r}, which shares a worker with {name!r}, has other "
                    f"inputs or outputs by now than version {before.version} that is served; put "
                    "those files back, and the new ones into a directory of a new version"
                )
            raise Rejected(Outcome.INVALID, text)
        served = self.catalog.models.get(name)
        before = served.spec if served is not None else None
        if before is None or all(spec.model_id != name for spec in found):
            return
        queued = self.dispatcher.scheduler.statistics().queued_by_model
        waits = ModelRef(name, before.version) in queued
        if before.recurrent and (waits or self.dispatcher.endings.memory.states.has(name)):
            raise Rejected(
                Outcome.INVALID,
                f"model {name!r} keeps the state of episodes that have begun; load it when they "
                "are over, or start another instance (appliance serve --standby), drain this one",
            )

    def _reserved(self) -> dict[str, list[Block]]:
        """Return the blocks for the outputs of each successor, beside those of what is served.

        Raises:
            Rejected: TOO_LARGE, the arena has no room for them.
        """
        fleet = self.dispatcher.fleet
        sizes = {slot: fleet.output_bytes(specs) for slot, specs in self._specs().items()}
        allocator = fleet.memory.arena.allocator
        outputs: dict[str, list[Block]] = {}
        for slot, size in sizes.items():
            blocks = outputs[slot] = fleet.output_blocks(size // 2) if size else []
            if size and not blocks:
                for block in (each for held in outputs.values() for each in held):
                    allocator.free(block)
                raise Rejected(
                    Outcome.TOO_LARGE,
                    f"the arena has no room for {sum(sizes.values())} bytes of outputs beside "
                    "those that are served; raise arena.bytes",
                )
        return outputs

    # -------------------------------------------------------------------------------- the swap

    def _take_over(
        self,
        entries: Sequence[ModelEntry],
        changed: Sequence[Slot],
        pages: dict[str, int],
        outputs: dict[str, list[Block]],
        name: str,
    ) -> list[WorkerRef]:
        """Let the successors serve from now on; return whom they succeed."""
        fleet, models = self.dispatcher.fleet, self.catalog.models
        entry = next(entry for entry in entries if entry.name == name)
        if entry.error is None:
            models[name] = Served(name, entry.version)
            fleet.metrics.add_model(name)
            fleet.ledger.add_model(name)
        else:
            models.pop(name, None)
            fleet.memory.states.forget_model(name)
        retired: list[WorkerRef] = []
        for slot in changed:
            events = self._heard.pop(slot.name)
            former = self.pool.take_over(slot.name)
            if former is not None:
                retired.append(former)
            refs = [ModelRef(model.name, model.version) for model in slot.models]
            fleet.succeed(slot.name, refs, pages[slot.name], outputs[slot.name])
            for event in events:
                self.dispatcher.on_pool_event(event)
        for worker in retired:
            self.dispatcher.post(WorkerRetired(worker))
        self.dispatcher.turn()
        self.watch.serve(entries)
        self.on_change()
        structlog.get_logger("appliance").info(
            "models changed",
            model=name,
            version=entry.version if entry.error is None else None,
            workers=[slot.name for slot in changed],
        )
        return retired

    async def _until_left(self, retired: Sequence[WorkerRef]) -> None:
        ttl_s = self.config().scheduling.request_ttl_ms / 1000
        with trio.move_on_after(ttl_s + LEAVE_S):
            await self.pool.wait_left()
        for worker in retired:
            self.pool.dismiss(worker)
        await self.pool.wait_left()
