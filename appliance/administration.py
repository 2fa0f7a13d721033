"""What the admin socket is answered, and what may be asked of the appliance there.

`app` makes it of the parts and serves it; documents that need no part alone are `admin`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from appliance.admin.documents import Documents
from appliance.admin.routes import AdminSources, text_of
from appliance.admin.timeline import TimelineDocuments
from appliance.metrics.exposition import exposition
from appliance.recording.recorder import Recorder
from appliance.reload import ModelWatch, Reloader
from appliance.rollout import Rollout


@frozen(kw_only=True)
class Administration:
    """The parts that answer.

    Attributes:
        drain: Begins the drain.
    """

    documents: Documents
    timeline: TimelineDocuments
    models: ModelWatch
    rollout: Rollout
    reloader: Reloader
    recorder: Recorder
    drain: Callable[[], None]

    def sources(self) -> AdminSources:
        """Return who answers what."""
        documents, recorder = self.documents, self.recorder
        return AdminSources(
            status=documents.status,
            clients=lambda: {"clients": documents.clients()},
            models=lambda: {
                "directory": str(self.models.directory.absolute()),
                "models": documents.status()["models"],
            },
            workers=lambda: {"workers": documents.status()["workers"]},
            metrics_text=self._metrics_text,
            drain=self._drain,
            reload=self._reload,
            load_model=self._load,
            unload_model=self._unload,
            timeline=lambda query: self.timeline.document(query, time.monotonic_ns, time.time),
            recordings=lambda: {"recordings": recorder.documents()},
            record=recorder.start,
            renew_recording=recorder.renew,
            stop_recording=recorder.stop,
        )

    def _metrics_text(self) -> str:
        documents = self.documents
        reading = documents.metrics.read(documents.clock())
        return exposition(reading, documents.ledger, documents.status())

    def _drain(self) -> dict[str, object]:
        self.drain()
        status = self.documents.status()
        return {"state": status["state"], "requests": status["requests"]}

    async def _reload(self) -> dict[str, object]:
        changed = await self.reloader.reload()
        await self.models.look()
        error, pending = self.reloader.error, self.models.pending
        return {"changed": changed, "error": error, "pending": pending}

    async def _load(self, asked: Mapping[str, Any]) -> dict[str, object]:
        name = text_of(asked, "name")
        return {"name": name, "version": await self.rollout.load(name)}

    async def _unload(self, asked: Mapping[str, Any]) -> dict[str, object]:
        name = text_of(asked, "name")
        await self.rollout.unload(name)
        return {"name": name}
