"""What every section is given."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from appliance.engines.cuda.driver import CPU
from appliance.engines.device import Device, open_named
from appliance.models.repository import ModelEntry, Repository
from tools.worker_client import WorkerClient

ARENA_BYTES = 512 << 20


class Failed(Exception):
    """A section could not go on: why."""


@frozen
class Setting:
    """What every section is given.

    Attributes:
        work: A directory for what is left over; `models` in it is the repository.
        device: As in the configuration.
        share: Of the runs and seconds that a section takes otherwise.
    """

    work: Path
    device: str
    share: float

    @property
    def picture_side(self) -> int:
        """Of what `resnet` takes: a CPU is not kept for minutes."""
        return 224 if self.on_gpu else 64

    @property
    def root(self) -> Path:
        """The model repository."""
        return self.work / "models"

    @property
    def on_gpu(self) -> bool:
        """Whether engines are TensorRT's."""
        return self.device != CPU

    def entries(self) -> list[ModelEntry]:
        """Return the models."""
        return Repository(self.root).scan()

    def runs(self, count: int, *, least: int = 1) -> int:
        """Return how many of `count` runs are made."""
        return max(least, round(count * self.share))

    def seconds(self, count: float) -> float:
        """Return how many of `count` seconds are spent."""
        return max(0.5, count * self.share)

    def folder(self, name: str) -> Path:
        """Return a new folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.work))

    def with_models(self, names: Sequence[str]) -> Path:
        """Return a repository with only some of the models: fewer are ready sooner."""
        root = self.folder("some")
        for name in names:
            (root / name).symlink_to(self.root / name)
        return root

    @contextmanager
    def opened(self) -> Generator[Device, None, None]:
        """Open the device in this process."""
        device = open_named(self.device)
        try:
            yield device
        finally:
            device.close()

    def empty_worker(self, environment: Mapping[str, str] | None = None) -> WorkerClient:
        """Start a worker process without models, and with a log of its own.

        Raises:
            WorkerGone: It ended.
        """
        log = self.folder("worker") / "log.txt"
        return WorkerClient(arena_bytes=ARENA_BYTES, log=log, environment=environment)

    @contextmanager
    def worker(
        self, root: Path, environment: Mapping[str, str] | None = None
    ) -> Generator[WorkerClient, None, None]:
        """Start a worker process with all models of a repository.

        Raises:
            Failed: A model cannot be loaded.
            WorkerGone: The worker ended.
        """
        with self.empty_worker(environment) as worker:
            worker.load(root, self.device)
            if worker.failed:
                raise Failed("; ".join(f"{name}: {why}" for name, why in worker.failed.items()))
            yield worker
