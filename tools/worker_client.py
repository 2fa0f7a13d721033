"""The least of a core: starts one worker process and gives it batches, to check and time it."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.models.repository import Repository
from appliance.models.shapes import aligned
from appliance.wire.pb import worker_pb2
from appliance.wire.spec import ModelSpec
from appliance.wire.types import NUMPY_DTYPES, DType, Encoding
from appliance.wire.worker import MAX_DATAGRAM, spec_from_ready, times_from_ready

_LEDGER = 4096
_FIRST = 8192
_PATIENCE_S = 120.0


class WorkerFailed(Exception):
    """The worker ended, or did not load a model: why."""


class Client:
    """A worker process; a context manager.

    Attributes:
        specs: Of the models that it loaded.
        times_ns: What it measured, by model and batch size.
        process: It.
    """

    def __init__(self, root: Path, device: str, *, arena_bytes: int, log: Path) -> None:
        """Start it, and have it load a repository.

        Raises:
            WorkerFailed: It ended, or a model cannot be loaded.
        """
        self.specs: dict[str, ModelSpec] = {}
        self.times_ns: dict[str, dict[int, int]] = {}
        self._indices: dict[str, int] = {}
        self._log = log
        self._batch = 0
        self._next = _FIRST
        self._arena_fd = os.memfd_create("arena")
        os.ftruncate(self._arena_fd, arena_bytes)
        self.memory = mmap.mmap(self._arena_fd, arena_bytes)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(_PATIENCE_S)
        fds = (theirs.fileno(), self._arena_fd)
        command = [sys.executable, "-m", "appliance.engines"]
        with log.open("wb") as said:
            self.process = subprocess.Popen(
                [*command, "--control-fd", str(fds[0]), "--arena-fd", str(fds[1])],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                pass_fds=fds,
                start_new_session=True,
            )
        theirs.close()
        try:
            self._receive()  # hello
            self._load(root, device, arena_bytes)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Client:  # noqa: PYI034  Self is not in Python 3.10
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Have it end."""
        self.close()

    def close(self) -> None:
        """Have it end, and wait until it has."""
        self.control.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        os.close(self._arena_fd)

    def _load(self, root: Path, device: str, arena_bytes: int) -> None:
        load = worker_pb2.Load(device=device, arena_bytes=arena_bytes, ledger_offset=_LEDGER)
        names: list[str] = []
        for index, entry in enumerate(Repository(root).scan()):
            names.append(entry.name)
            load.models.add(
                index=index,
                name=entry.name,
                version=entry.version,
                manifest=entry.manifest,
                manifest_path=str(entry.manifest_path),
                directory=str(entry.directory),
            )
        self.control.send(worker_pb2.ToWorker(load=load).SerializeToString())
        while True:
            message = self._receive()
            kind = message.WhichOneof("message")
            if kind == "ready":
                return
            if kind == "model_failed":
                failed = message.model_failed
                raise WorkerFailed(f"{names[failed.model]}: {failed.message}")
            if kind == "model_ready":
                name = names[message.model_ready.model]
                self._indices[name] = message.model_ready.model
                self.specs[name] = spec_from_ready(message.model_ready)
                self.times_ns[name] = times_from_ready(message.model_ready)

    def _receive(self) -> worker_pb2.FromWorker:
        try:
            datagram = self.control.recv(MAX_DATAGRAM + 1)
        except ConnectionResetError:
            datagram = b""
        if not datagram:
            self.process.wait(20)
            lines = self._log.read_text(errors="replace").strip().splitlines()
            status = self.process.returncode
            raise WorkerFailed(f"ended with status {status}: {lines[-1] if lines else ''}")
        return worker_pb2.FromWorker.FromString(datagram)

    # ------------------------------------------------------------------------- batches

    def place(self, size: int) -> int:
        """Take memory of the arena; return where."""
        offset = self._next
        self._next += aligned(max(size, 1))
        if self._next > len(self.memory):
            raise WorkerFailed("the arena is full")
        return offset

    def view(self, offset: int, array: NDArray[Any]) -> NDArray[Any]:
        """Return the arena at `offset`, as an array like another."""
        return np.ndarray(array.shape, array.dtype, self.memory, offset)

    def rows(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> list[worker_pb2.Row]:
        """Store rows, `inputs` with the batch in front; return their handles."""
        spec = self.specs[name]
        count = len(next(iter(inputs.values())))
        made: list[worker_pb2.Row] = []
        for index in range(count):
            row = worker_pb2.Row()
            for item in spec.inputs:
                value = np.ascontiguousarray(inputs[item.name][index])
                offset = self.place(value.nbytes)
                self.view(offset, value)[...] = value
                feed = row.feeds.add(offset=offset, length=value.nbytes, shape=value.shape)
                feed.dtype = int(item.dtype)  # pyright: ignore[reportAttributeAccessIssue]
                feed.encoding = int(Encoding.RAW)  # pyright: ignore[reportAttributeAccessIssue]
            made.append(row)
        return made

    def stage(self, name: str, rows: list[worker_pb2.Row], output_at: int, *, go: bool) -> int:
        """Give it a batch; return its number."""
        self._batch += 1
        stage = worker_pb2.Stage(
            batch_id=self._batch,
            model=self._indices[name],
            rows=rows,
            output_offset=output_at,
            output_bytes=self.output_bytes(name, len(rows)),
            go=go,
        )
        self.control.send(worker_pb2.ToWorker(stage=stage).SerializeToString())
        return self._batch

    def go(self, batch: int) -> None:
        """Let a staged batch run."""
        go = worker_pb2.ToWorker(go=worker_pb2.Go(batch_id=batch))
        self.control.send(go.SerializeToString())

    def output_bytes(self, name: str, rows: int) -> int:
        """Return how much room outputs need."""
        return self.specs[name].output_bytes_per_row * rows

    def done(self) -> tuple[worker_pb2.Done, int]:
        """Return the next Done, and when it came.

        Raises:
            WorkerFailed: The worker ended, or the batch failed.
        """
        done = self._receive().done
        if done.error or done.row_errors:
            raise WorkerFailed(done.error or done.row_errors[0].message)
        return done, time.monotonic_ns()

    def outputs(self, done: worker_pb2.Done, rows: int) -> dict[str, NDArray[Any]]:
        """Return copies of what a batch gave."""
        return {
            output.key: np.ndarray(
                (rows, *output.row_shape),
                NUMPY_DTYPES[DType(output.dtype)],
                self.memory,
                output.offset,
            ).copy()
            for output in done.outputs
        }
