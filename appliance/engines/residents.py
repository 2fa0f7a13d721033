"""The models of a worker: loaded and measured once, and again where the budget made them leave.

Owner of the engines. Without a budget all of them stay. With one, the least recently used leave for
one that is needed (`appliance.residency`), and a model that alone takes more is not served.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Collection
from pathlib import Path

from attrs import define, field, frozen

from appliance.engines import heap
from appliance.engines.arena import ArenaView
from appliance.engines.device import Device
from appliance.engines.load import Loaded, load, load_again
from appliance.engines.model import LoadedModel
from appliance.errors import DeviceLost, EngineError
from appliance.models.plans import Resolved
from appliance.residency import Residency
from appliance.wire.pb import worker_pb2

MIB = 1 << 20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@frozen
class _Known:
    """A model that was loaded once."""

    path: worker_pb2.ModelPath
    resolved: Resolved


@define(eq=False)
class Residents:
    """See the module's docstring; a model is named by its index on the channel.

    Args:
        budget_bytes: What all that are loaded may take; 0: whatever they do.
    """

    arena: ArenaView
    device: Device
    budget_bytes: int
    _models: dict[int, LoadedModel] = field(factory=dict[int, LoadedModel], init=False)
    _known: dict[int, _Known] = field(factory=dict[int, _Known], init=False)
    _residency: Residency[int] | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if self.budget_bytes:
            self._residency = Residency(self.budget_bytes)

    def get(self, index: int) -> LoadedModel | None:
        """Return a model that is resident."""
        return self._models.get(index)

    def is_evicted(self, index: int) -> bool:
        """Return whether a model had to leave, and can be loaded again."""
        return index in self._known and index not in self._models

    @property
    def resident(self) -> tuple[int, ...]:
        """What is resident, the least recently used first."""
        return tuple(self._models) if self._residency is None else self._residency.resident

    def used(self, index: int) -> None:
        """Note that a model is used."""
        if self._residency is not None and index in self._models:
            self._residency.used(index)

    def load(self, path: worker_pb2.ModelPath, on_step: Callable[[str], None]) -> Loaded:
        """Load a model for the first time, and measure it; others leave if they have to.

        Raises:
            EngineError: It alone takes more than the budget.
            Exception: As `load.load`.
        """
        at_least, residency = _files_bytes(path), self._residency
        if residency is None:
            loaded = self._measured(path, on_step, at_least)
        else:
            self._check_budget(at_least)
            self._evict(residency.must_leave(at_least))
            loaded = self._tried(path, on_step, at_least)
            if loaded is None:
                self._evict(residency.resident)
                loaded = self._measured(path, on_step, at_least)
            try:
                self._check_budget(loaded.memory_bytes)
            except EngineError:
                loaded.model.engine.close()
                raise
            self._evict(residency.must_leave(loaded.memory_bytes))
            residency.loaded(path.index, loaded.memory_bytes)
        self._models[path.index] = loaded.model
        self._known[path.index] = _Known(path, loaded.model.resolved)
        return loaded

    def load_again(self, index: int, kept: Collection[int]) -> LoadedModel:
        """Load a model that was evicted; others leave for it.

        Args:
            kept: They hold batches, and stay.

        Raises:
            EngineError: There is no room beside what has to stay, or its files have changed.
            Exception: As `load.load`.
        """
        known, residency = self._known[index], self._residency
        assert residency is not None
        needed = residency.memory_bytes[index]
        self._evict(residency.must_leave(needed, kept))
        if not residency.fits(needed):
            raise EngineError(f"{known.path.name} does not fit beside the models that hold batches")
        model = load_again(known.path, self.arena, known.resolved, device=self.device)
        residency.loaded(index, needed)
        self._models[index] = model
        return model

    def close(self) -> None:
        """Let all of them go."""
        for model in self._models.values():
            model.engine.close()

    def _tried(
        self, path: worker_pb2.ModelPath, on_step: Callable[[str], None], at_least: int
    ) -> Loaded | None:
        """Load a model beside those that are there; None: try again without them.

        How much it takes nobody knows yet, so it may have been short of memory.
        """
        try:
            return self._measured(path, on_step, at_least)
        except DeviceLost:
            raise
        except Exception:
            if not self._models:
                raise
            return None

    def _measured(
        self, path: worker_pb2.ModelPath, on_step: Callable[[str], None], at_least: int
    ) -> Loaded:
        """Load a model and see how much memory that took."""
        before = _taken_bytes(self.device)
        loaded = load(path, self.arena, on_step, device=self.device)
        loaded.memory_bytes = max(at_least, _taken_bytes(self.device) - before)
        return loaded

    def _check_budget(self, needed_bytes: int) -> None:
        if needed_bytes > self.budget_bytes:
            raise EngineError(
                f"it takes {_mib(needed_bytes)} MiB of memory, and the worker's budget is "
                f"{_mib(self.budget_bytes)} MiB; raise memory_mib in its [[workers]] table"
            )

    def _evict(self, leaving: Collection[int]) -> None:
        if not leaving:
            return
        assert self._residency is not None
        for index in leaving:
            self._residency.evicted(index)
            self._models.pop(index).engine.close()
        gc.unfreeze()  # a model may refer to itself
        gc.collect()
        gc.freeze()
        heap.give_back()


def _mib(size: int) -> int:
    """Return whole MiB, rounded up."""
    return -(-size // MIB)


def _taken_bytes(device: Device) -> int:
    """Return memory taken so far, from whatever it is counted."""
    if device.cuda is not None:
        return -device.cuda.free_bytes()
    heap.give_back()
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE_BYTES


def _files_bytes(path: worker_pb2.ModelPath) -> int:
    """Return the size of a version's files: it hardly takes less, and that is measured roughly."""
    return sum(each.stat().st_size for each in Path(path.directory).rglob("*") if each.is_file())
