"""The least of a core: starts one worker process, loads models into it and gives it batches.

Socketpair, memfd and lifeline are as the core's. One thread uses it. Nothing in the arena is ever
given back, so whoever gives many batches names the same rows and the same output block again.
"""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.models.repository import Repository
from appliance.models.shapes import aligned
from appliance.wire.arrays import encode_strings
from appliance.wire.pb import worker_pb2
from appliance.wire.spec import ModelSpec
from appliance.wire.types import NUMPY_DTYPES, DType, Encoding
from appliance.wire.worker import MAX_DATAGRAM, spec_from_ready

PATIENCE_S = 60.0
"""Longer than anything takes; it ends the wait for a worker that says nothing."""
GRACE_S = 20.0
LEDGER_OFFSET = 4096
LEDGER_MODELS = 64
FIRST_BLOCK = 8192
DTYPES = {numpy_dtype: dtype for dtype, numpy_dtype in NUMPY_DTYPES.items()}


class WorkerGone(Exception):
    """The worker has ended; the message says how, with the last line of its log."""


class WorkerClient:
    """One worker process; a context manager.

    Attributes:
        process: It.
        control: The socket that it is talked to by.
        memory: The arena.
        specs: Of the models that were loaded, by name.
        ready: All that was said of those.
        failed: Why the others were not loaded, by name.
        loading: Steps that were reported, in order: model, step.
        unpinned: The GPU cannot read the arena.
    """

    def __init__(
        self,
        *,
        arena_bytes: int = 64 << 20,
        log: Path | None = None,
        module: str = "appliance.engines",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it.

        Args:
            log: Gets what it writes to its standard output and error; its own, as the last line
                is quoted when it has gone.
            environment: What is to be different from that of this process.

        Raises:
            WorkerGone: It ended.
        """
        self.specs: dict[str, ModelSpec] = {}
        self.ready: dict[str, worker_pb2.ModelReady] = {}
        self.failed: dict[str, str] = {}
        self.loading: list[tuple[str, str]] = []
        self.resident: list[str] = []
        self.unpinned = False
        self.arena_bytes = arena_bytes
        self._log = log
        self._names: list[str] = []
        self._next = FIRST_BLOCK
        self._batch = 0
        self._arena_fd = os.memfd_create("arena")
        os.ftruncate(self._arena_fd, arena_bytes)
        self.memory = mmap.mmap(self._arena_fd, arena_bytes)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(PATIENCE_S)
        command = [sys.executable, "-m", module]
        with (log or Path(os.devnull)).open("ab") as said:
            self.process = subprocess.Popen(
                [*command, "--control-fd", str(theirs.fileno()), "--arena-fd", str(self._arena_fd)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                pass_fds=(theirs.fileno(), self._arena_fd),
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        theirs.close()
        try:
            self.receive()  # hello
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> WorkerClient:  # noqa: PYI034  Self is not in Python 3.10
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
        """Let it finish and end; kill it if it does not."""
        self.control.close()
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill it, if it is still there."""
        self.control.close()
        self.process.kill()
        self.process.communicate()
        if self._arena_fd >= 0:
            os.close(self._arena_fd)
            self._arena_fd = -1

    # ------------------------------------------------------------------------- messages

    def send(self, message: worker_pb2.ToWorker) -> None:
        """Send it a message."""
        self.control.send(message.SerializeToString())

    def receive(self) -> worker_pb2.FromWorker:
        """Return its next message.

        Raises:
            WorkerGone: There is none.
        """
        return worker_pb2.FromWorker.FromString(self._datagram())

    def answer_to(self, message: worker_pb2.ToWorker) -> tuple[worker_pb2.FromWorker, int]:
        """Send it a message; return its next one, and how long that took to come, nanoseconds.

        What this process takes to write and to read them is not in that.

        Raises:
            WorkerGone: There is none.
        """
        said = message.SerializeToString()
        started_ns = time.monotonic_ns()
        self.control.send(said)
        datagram = self._datagram()
        took_ns = time.monotonic_ns() - started_ns
        return worker_pb2.FromWorker.FromString(datagram), took_ns

    def _datagram(self) -> bytes:
        try:
            datagram = self.control.recv(MAX_DATAGRAM + 1)
        except ConnectionResetError:
            datagram = b""
        if not datagram:
            status = self.process.wait(PATIENCE_S)
            raise WorkerGone(f"the worker has gone: {status}{self._last_words()}")
        return datagram

    def _last_words(self) -> str:
        if self._log is None:
            return ""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def start_loading(self, root: Path, device: str = "cpu", *, memory_bytes: int = 0) -> None:
        """Send Load for every model of the repository `root`."""
        load = worker_pb2.Load(
            device=device,
            arena_bytes=self.arena_bytes,
            ledger_offset=LEDGER_OFFSET,
            memory_bytes=memory_bytes,
        )
        for index, entry in enumerate(Repository(root).scan()):
            self._names.append(entry.name)
            load.models.add(
                index=index,
                name=entry.name,
                version=entry.version,
                manifest=entry.manifest,
                manifest_path=str(entry.manifest_path),
                directory=str(entry.directory),
            )
        self.send(worker_pb2.ToWorker(load=load))

    def load(self, root: Path, device: str = "cpu", *, memory_bytes: int = 0) -> None:
        """Load every model of the repository `root`, and wait until each is ready or has failed.

        Args:
            memory_bytes: What they may take together; 0: whatever they do.

        Raises:
            WorkerGone: It ended.
        """
        self.start_loading(root, device, memory_bytes=memory_bytes)
        while True:
            message = self.receive()
            kind = message.WhichOneof("message")
            if kind == "ready":
                self.resident = self._named(message.ready.resident)
                self.unpinned = message.ready.unpinned
                return
            if kind == "model_ready":
                name = self._names[message.model_ready.model]
                self.ready[name] = message.model_ready
                self.specs[name] = spec_from_ready(message.model_ready)
            elif kind == "model_failed":
                self.failed[self._names[message.model_failed.model]] = message.model_failed.message
            else:
                self.loading.append((message.loading.model, message.loading.step))

    def _named(self, indices: Iterable[int]) -> list[str]:
        return [self._names[index] for index in indices]

    # --------------------------------------------------------------------------- memory

    def allocate(self, length: int) -> worker_pb2.Block:
        """Take memory of the arena.

        Raises:
            MemoryError: There is not so much left.
        """
        offset = self._next
        if offset + length > self.arena_bytes:
            raise MemoryError(f"the arena of {self.arena_bytes} bytes is full")
        self._next += aligned(max(length, 1))
        return worker_pb2.Block(offset=offset, length=length)

    def store(self, data: bytes | memoryview) -> worker_pb2.Block:
        """Put bytes into the arena."""
        block = self.allocate(len(data))
        self.memory[block.offset : block.offset + block.length] = data
        return block

    def read(self, block: worker_pb2.Block) -> bytes:
        """Return what lies there."""
        return self.memory[block.offset : block.offset + block.length]

    def ledger(self, name: str) -> tuple[int, int, int]:
        """Return rows started, finished and failed of a model."""
        page = np.frombuffer(self.memory, np.uint64, 3 * LEDGER_MODELS, LEDGER_OFFSET)
        started, finished, failed = page.reshape(-1, 3)[self._names.index(name)].tolist()
        return started, finished, failed

    # -------------------------------------------------------------------------- batches

    def feed(self, value: NDArray[Any] | str) -> worker_pb2.Feed:
        """Store a raw tensor, or a string as metadata is stored."""
        if isinstance(value, str):
            data, dtype, shape = encode_strings([value]), DType.STRING, (1,)
        else:
            data, dtype, shape = value.tobytes(), DTYPES[value.dtype], value.shape
        return self.feed_bytes(data, dtype=dtype, shape=shape)

    def feed_bytes(
        self,
        data: bytes,
        *,
        dtype: DType = DType.UINT8,
        encoding: Encoding = Encoding.RAW,
        shape: Sequence[int] = (),
    ) -> worker_pb2.Feed:
        """Store bytes of some encoding."""
        block = self.store(data)
        feed = worker_pb2.Feed(offset=block.offset, length=block.length, shape=shape)
        feed.dtype = int(dtype)  # pyright: ignore[reportAttributeAccessIssue]  an integer
        feed.encoding = int(encoding)  # pyright: ignore[reportAttributeAccessIssue]
        return feed

    def rows(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> list[worker_pb2.Row]:
        """Store the rows of `inputs`, which have the batch in front."""
        order = [item.name for item in self.specs[name].inputs]
        count = len(inputs[order[0]])
        return [
            worker_pb2.Row(feeds=[self.feed(inputs[key][index]) for key in order])
            for index in range(count)
        ]

    def output_block(self, name: str, rows: int) -> worker_pb2.Block:
        """Take memory for what a batch gives."""
        return self.allocate(self.specs[name].output_bytes_per_row * rows)

    def stage(
        self,
        name: str,
        rows: Sequence[worker_pb2.Row | Sequence[worker_pb2.Feed]],
        *,
        go: bool = True,
        latest_start_ns: int = 0,
        output: worker_pb2.Block | None = None,
    ) -> int:
        """Give it a batch; return its number.

        Args:
            rows, output: As of `stage_message`.
        """
        self.send(
            self.stage_message(name, rows, go=go, latest_start_ns=latest_start_ns, output=output)
        )
        return self._batch

    def stage_message(
        self,
        name: str,
        rows: Sequence[worker_pb2.Row | Sequence[worker_pb2.Feed]],
        *,
        go: bool = True,
        latest_start_ns: int = 0,
        output: worker_pb2.Block | None = None,
    ) -> worker_pb2.ToWorker:
        """Return what gives it the next batch.

        Args:
            rows: A list of feeds is a row that has nothing else.
            output: Where its outputs go; None: to new memory.
        """
        self._batch += 1
        made = [
            row if isinstance(row, worker_pb2.Row) else worker_pb2.Row(feeds=row) for row in rows
        ]
        room = self.output_block(name, len(rows)) if output is None else output
        stage = worker_pb2.Stage(
            batch_id=self._batch,
            model=self._names.index(name),
            rows=made,
            output_offset=room.offset,
            output_bytes=room.length,
            go=go,
            latest_start_ns=latest_start_ns,
        )
        return worker_pb2.ToWorker(stage=stage)

    def go(self, batch_id: int, latest_start_ns: int = 0) -> None:
        """Let a staged batch run."""
        go = worker_pb2.Go(batch_id=batch_id, latest_start_ns=latest_start_ns)
        self.send(worker_pb2.ToWorker(go=go))

    def revoke(self, batch_id: int) -> None:
        """Take a staged batch back."""
        self.send(worker_pb2.ToWorker(revoke=worker_pb2.Revoke(batch_id=batch_id)))

    def done(self) -> worker_pb2.Done:
        """Return the next Done; the message has to be one.

        Raises:
            WorkerGone: It ended.
        """
        message = self.receive()
        assert message.WhichOneof("message") == "done", message
        if message.done.load_ns:
            self.resident = self._named(message.done.resident)
        return message.done

    def output(self, done: worker_pb2.Done, key: str, rows: int) -> NDArray[Any]:
        """Return a fixed-size output of a batch that went well."""
        assert not done.error, done.error
        output = next(output for output in done.outputs if output.key == key)
        dtype = NUMPY_DTYPES[DType(output.dtype)]
        data = self.memory[output.offset : output.offset + output.row_length * rows]
        return np.frombuffer(data, dtype).reshape(rows, *output.row_shape)
