"""What one generation of a worker said and was told. PURE; owned by its supervisor.

```
STARTING --Hello / Load--> LOADING --Ready--> READY
```

While LOADING the worker reports each model once, loaded or failed. While READY it owes one Done
for each batch that it was told to execute and, while it holds none, a Pong for each Ping; it says
nothing else. Whatever else it says breaks the protocol. Progress, batches and Pongs are timed, so
that a worker which has stopped getting on is found (`overdue`).
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import Union

from attrs import frozen
from google.protobuf.message import DecodeError

from appliance.errors import LocalProtocolError, PeerProtocolError
from appliance.scheduling.events import WorkerRef
from appliance.wire.pb import worker_pb2
from appliance.wire.worker import (
    MAX_DATAGRAM,
    WORKER_PROTOCOL,
    encode_stage,
    spec_from_ready,
    times_from_ready,
)
from appliance.workers.batches import Batches
from appliance.workers.events import BatchFinished, ModelFailed, ModelLoaded, PoolEvent, WorkerUp
from appliance.workers.hang import HangBound
from appliance.workers.restart import Quarantine
from appliance.workers.slot import Slot

PING_PERIOD_NS = 1_000_000_000
"""An idle worker is asked for a sign of life this long after the last one."""

PONG_FLOOR_NS = 5_000_000_000
"""An idle worker is not called hung before this, nor before the bound of any batch."""


class Phase(enum.Enum):
    """How far a generation has come."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"


@frozen
class Send:
    """This datagram is to be sent to the worker."""

    datagram: bytes


Effect = Union[PoolEvent, Send]  # noqa: UP007


class Conversation:
    """The core's side of one generation's channel.

    Attributes:
        phase: How far it has come.
        progress: Of loading, 0 to 1.
        step: Of loading, in words.
        loading: The model being loaded, by index; None if none is or it is not known.
        ready_ns: When it became READY; None before.
        batches: What it holds.
    """

    def __init__(
        self,
        worker: WorkerRef,
        slot: Slot,
        *,
        quarantine: Quarantine,
        hang: HangBound,
        arena_bytes: int,
        ledger_offset: int,
        now_ns: int,
    ) -> None:
        self.phase = Phase.STARTING
        self.progress = 0.0
        self.step = ""
        self.loading: int | None = None
        self.ready_ns: int | None = None
        self.batches = Batches(hang, now_ns)
        self._worker = worker
        self._slot = slot
        self._quarantine = quarantine
        self._hang = hang
        self._arena_bytes = arena_bytes
        self._ledger_offset = ledger_offset
        self._heard_ns = now_ns
        self._pinged_ns: int | None = None
        self._unreported: list[int] = []

    # ------------------------------------------------------------------------- it is told

    def stage(self, message: worker_pb2.Stage, now_ns: int) -> bytes:
        """Return the datagram that gives a batch to the worker, to execute at once or on Go.

        Raises:
            LocalProtocolError: The worker is not READY, holds a batch of that number, or has no
                such model.
        """
        if self.phase is not Phase.READY:
            raise LocalProtocolError(f"{self._worker} is {self.phase.value}: nothing can be staged")
        if message.model >= len(self._slot.models):
            raise LocalProtocolError(f"{self._worker} has no model {message.model}")
        self.batches.stage(message, now_ns)
        return encode_stage(message)

    def go(self, batch_id: int, latest_start_ns: int, now_ns: int) -> bytes:
        """Return the datagram that starts a staged batch.

        Raises:
            LocalProtocolError: It is not staged.
        """
        self.batches.go(batch_id, latest_start_ns, now_ns)
        envelope = worker_pb2.ToWorker()
        envelope.go.batch_id = batch_id
        envelope.go.latest_start_ns = latest_start_ns
        return envelope.SerializeToString()

    def revoke(self, batch_id: int) -> bytes:
        """Return the datagram that takes a staged batch back; no Done follows.

        Raises:
            LocalProtocolError: It is not staged.
        """
        self.batches.revoke(batch_id)
        envelope = worker_pb2.ToWorker()
        envelope.revoke.batch_id = batch_id
        return envelope.SerializeToString()

    def ping(self, now_ns: int) -> bytes | None:
        """Return the datagram that asks for a sign of life; None: there is no need for one now."""
        idle_since_ns = self.batches.idle_since_ns
        if self.phase is not Phase.READY or idle_since_ns is None or self._pinged_ns is not None:
            return None
        if now_ns - max(self._heard_ns, idle_since_ns) < PING_PERIOD_NS:
            return None
        self._pinged_ns = now_ns
        return worker_pb2.ToWorker(ping=worker_pb2.Ping()).SerializeToString()

    # -------------------------------------------------------------------------- it is late

    def overdue(self, now_ns: int) -> str | None:
        """Return why the worker has to be given up now, in one line; None: it gets on."""
        if self.phase is not Phase.READY:
            if now_ns - self._heard_ns <= self._slot.start_timeout_ns:
                return None
            where = f" ({self.step})" if self.step else ""
            waited = self._slot.start_timeout_ns / 1e9
            return f"did not start: no progress for {waited:g} s while {self.phase.value}{where}"
        late = self.batches.overdue(now_ns)
        if late is None:
            return self._silent(now_ns)
        batch_id, model, bound_ns = late
        name = self._slot.models[model].name
        return f"hung: batch {batch_id} of {name} runs for more than {bound_ns / 1e9:g} s"

    def _silent(self, now_ns: int) -> str | None:
        bound_ns = max(self._slot.hang_floor_ns, PONG_FLOOR_NS)
        if self._pinged_ns is None or now_ns - self._pinged_ns <= bound_ns:
            return None
        return f"hung: it had nothing to do, and gave no sign of life for {bound_ns / 1e9:g} s"

    # --------------------------------------------------------------------------- it speaks

    def received(self, datagram: bytes, now_ns: int) -> list[Effect]:
        """Take in one message and return what follows from it, in order.

        Raises:
            PeerProtocolError: It is no message, or not one that may come now.
        """
        if len(datagram) > MAX_DATAGRAM:
            raise PeerProtocolError(f"a message of more than {MAX_DATAGRAM} bytes")
        try:
            message = worker_pb2.FromWorker.FromString(datagram)
        except DecodeError as error:
            raise PeerProtocolError(f"no message: {error}") from error
        kind = message.WhichOneof("message")
        if kind == "done":
            done = message.done
            self._check_models(done.resident)
            self.batches.done(done, now_ns)
            return [BatchFinished(self._worker, done)]
        self._heard_ns = now_ns
        if kind == "pong" and self._pinged_ns is not None:
            self._pinged_ns = None
            return []
        if kind == "hello" and self.phase is Phase.STARTING:
            return self._greeted(message.hello)
        if kind is not None and self.phase is Phase.LOADING:
            return self._progressed(message, kind, now_ns)
        raise self._unexpected(kind)

    def _progressed(self, message: worker_pb2.FromWorker, kind: str, now_ns: int) -> list[Effect]:
        if kind == "loading":
            return self._advanced(message.loading)
        if kind == "model_ready":
            return self._loaded(message.model_ready)
        if kind == "model_failed":
            return self._failed(message.model_failed)
        if kind == "ready":
            return self._up(message.ready, now_ns)
        raise self._unexpected(kind)

    def _unexpected(self, kind: str | None) -> PeerProtocolError:
        return PeerProtocolError(f"unexpected {kind or 'empty message'} while {self.phase.value}")

    def _greeted(self, hello: worker_pb2.Hello) -> list[Effect]:
        if hello.protocol != WORKER_PROTOCOL:
            raise PeerProtocolError(
                f"the worker speaks protocol {hello.protocol}, not {WORKER_PROTOCOL}"
            )
        load = worker_pb2.Load(
            device=self._slot.device,
            arena_bytes=self._arena_bytes,
            ledger_offset=self._ledger_offset,
            memory_bytes=self._slot.memory_bytes,
        )
        left_out: list[Effect] = []
        for index, model in enumerate(self._slot.models):
            reason = self._quarantine.reason(index)
            if reason is not None:
                left_out.append(ModelFailed(self._worker, index, reason))
                continue
            self._unreported.append(index)
            load.models.add(
                index=index,
                name=model.name,
                version=model.version,
                manifest=model.manifest,
                manifest_path=model.manifest_path,
                directory=model.directory,
            )
        self.phase = Phase.LOADING
        return [Send(worker_pb2.ToWorker(load=load).SerializeToString()), *left_out]

    def _advanced(self, loading: worker_pb2.Loading) -> list[Effect]:
        self.progress = loading.progress if 0.0 <= loading.progress <= 1.0 else 0.0
        self.step = f"{loading.model}: {loading.step}" if loading.model else loading.step
        models = self._slot.models
        self.loading = next(
            (index for index in self._unreported if models[index].name == loading.model), None
        )
        return []

    def _loaded(self, ready: worker_pb2.ModelReady) -> list[Effect]:
        self._reported(ready.model)
        spec, times_ns = spec_from_ready(ready), times_from_ready(ready)
        self._hang.warmed_up(ready.model, times_ns.values())
        self._hang.loaded(ready.model, ready.load_ns)
        return [
            ModelLoaded(
                self._worker,
                ready.model,
                spec,
                times_ns,
                ready.memory_bytes,
                ready.load_ns,
                ready.urgent,
                ready.without_graphs,
                ready.images_on_cpu,
            )
        ]

    def _failed(self, failed: worker_pb2.ModelFailed) -> list[Effect]:
        self._reported(failed.model)
        return [ModelFailed(self._worker, failed.model, failed.message)]

    def _reported(self, model: int) -> None:
        if model not in self._unreported:
            raise PeerProtocolError(f"model {model} was reported before, or never asked for")
        self._unreported.remove(model)
        self._quarantine.loaded(model)
        if self.loading == model:
            self.loading = None

    def _up(self, ready: worker_pb2.Ready, now_ns: int) -> list[Effect]:
        if self._unreported:
            raise PeerProtocolError(f"ready without a word of models {self._unreported}")
        self._check_models(ready.resident)
        if self._slot.memory_bytes:
            self.batches.resident = tuple(ready.resident)
        self.phase = Phase.READY
        self.progress = 1.0
        self.step = ""
        self.loading = None
        self.ready_ns = now_ns
        resident = tuple(ready.resident)
        return [WorkerUp(self._worker, self._slot.memory_bytes, resident, ready.unpinned)]

    def _check_models(self, indices: Collection[int]) -> None:
        """Refuse a list of models that are not there, or are named twice."""
        if indices and (len(set(indices)) < len(indices) or max(indices) >= len(self._slot.models)):
            raise PeerProtocolError(f"no list of resident models: {list(indices)[:16]}")
