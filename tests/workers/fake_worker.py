"""A worker process that speaks worker.proto, echoes rows, and injects faults exactly.

At load, a model does what its name says: `echo`, `crash`, `fail`, `stall` (no progress), `steps`
(one step of progress for each byte read from the FIFO that is its directory). While executing, a
row does what its bytes say (see `ROWS`); any other row is echoed into output "echo".
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from appliance.wire.pb import session_pb2, worker_pb2  # and no numpy: it starts in half the time

Done = worker_pb2.Done

ROW_BYTES = 16
STEPS = 5


def forever() -> NoReturn:
    while True:
        time.sleep(3600)


def model_ready(model: worker_pb2.ModelPath) -> worker_pb2.ModelReady:
    ready = worker_pb2.ModelReady(model=model.index, output_bytes_per_row=ROW_BYTES)
    ready.spec.model_id = model.name
    ready.spec.version = model.version
    ready.spec.max_batch = 8
    ready.spec.inputs.add(key="x", dtype=session_pb2.UINT8, shape=[-1], encodings=[session_pb2.RAW])
    ready.spec.outputs.add(key="echo", dtype=session_pb2.UINT8, shape=[ROW_BYTES])
    ready.limits.add(source="x", row_shape=[-1], max_bytes=1 << 16)
    ready.times.add(batch_size=1, ns=1000)
    return ready


class FakeWorker:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.channel = socket.socket(fileno=arguments.control_fd)
        self.memory = mmap.mmap(arguments.arena_fd, 0)
        self.ledger = 0
        self.staged: dict[int, worker_pb2.Stage] = {}

    def send(self, **message: Any) -> None:
        self.channel.send(worker_pb2.FromWorker(**message).SerializeToString())

    def run(self) -> None:
        while datagram := self.channel.recv(1 << 18):
            message = worker_pb2.ToWorker.FromString(datagram)
            kind = message.WhichOneof("message")
            if kind == "load":
                self.load(message.load)
            elif kind == "stage":
                self.staged[message.stage.batch_id] = message.stage
                if message.stage.go:
                    self.execute(message.stage.batch_id)
            elif kind == "go":
                self.execute(message.go.batch_id)
            elif kind == "revoke":
                del self.staged[message.revoke.batch_id]
            elif kind == "ping":
                self.send(pong=worker_pb2.Pong())
            elif kind == "stop" and not self.arguments.ignore_stop:
                return

    def load(self, load: worker_pb2.Load) -> None:
        assert load.arena_bytes == len(self.memory)
        self.ledger = load.ledger_offset
        for model in load.models:
            self.send(loading=worker_pb2.Loading(model=model.name, step="reading"))
            if model.name == "crash":
                print("boom at load", file=sys.stderr)
                os._exit(3)
            elif model.name == "stall":
                forever()
            elif model.name == "steps":
                with Path(model.directory).open("rb", buffering=0) as steps:
                    for step in range(STEPS):
                        steps.read(1)
                        progress = (step + 1) / STEPS
                        self.send(loading=worker_pb2.Loading(model="steps", progress=progress))
                    steps.read(1)
            if model.name == "fail":
                self.send(model_failed=worker_pb2.ModelFailed(model=model.index, message="broken"))
            else:
                self.send(model_ready=model_ready(model))
        self.send(ready=worker_pb2.Ready())

    def count(self, model: int, column: int) -> None:
        at = self.ledger + (model * 3 + column) * 8
        value = int.from_bytes(self.memory[at : at + 8], "little") + 1
        self.memory[at : at + 8] = value.to_bytes(8, "little")

    def execute(self, batch_id: int) -> None:
        stage = self.staged.pop(batch_id)
        done = worker_pb2.Done(batch_id=batch_id)
        output = done.outputs.add(
            key="echo",
            dtype=session_pb2.UINT8,
            row_shape=[ROW_BYTES],
            offset=stage.output_offset,
            row_length=ROW_BYTES,
        )
        for index, row in enumerate(stage.rows):
            feed = row.feeds[0]
            data = self.memory[feed.offset : feed.offset + feed.length]
            self.count(stage.model, 0)
            with contextlib.suppress(KeyError):
                ROWS[data](self, index, done, output)
            at = stage.output_offset + index * ROW_BYTES
            self.memory[at : at + ROW_BYTES] = data.ljust(ROW_BYTES, b"\0")
            self.count(stage.model, 1)
        done.finished_ns = time.monotonic_ns()
        self.send(done=done)


def row_exit(worker: FakeWorker, index: int, done: Done, output: worker_pb2.Output) -> None:
    print("a row said so", file=sys.stderr)
    os._exit(7)


def row_kill(worker: FakeWorker, index: int, done: Done, output: worker_pb2.Output) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def row_stop(worker: FakeWorker, index: int, done: Done, output: worker_pb2.Output) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def row_bad(worker: FakeWorker, index: int, done: Done, output: worker_pb2.Output) -> None:
    done.row_errors.add(row=index, code=session_pb2.Code.Value("INVALID"), message="bad row")


def row_garbage(worker: FakeWorker, index: int, done: Done, output: worker_pb2.Output) -> None:
    worker.channel.send(b"\xff\xff\xff")


def row_empty(worker: FakeWorker, index: int, done: Done, output: worker_pb2.Output) -> None:
    worker.channel.send(b"")


def row_huge(worker: FakeWorker, index: int, done: Done, output: worker_pb2.Output) -> None:
    worker.channel.send(b"\x0a" * ((1 << 17) + 10))


def row_stray(worker: FakeWorker, index: int, done: Done, output: worker_pb2.Output) -> None:
    done.batch_id += 1


def row_outside(worker: FakeWorker, index: int, done: Done, output: worker_pb2.Output) -> None:
    output.offset -= 1


def row_last_words(worker: FakeWorker, index: int, done: Done, output: worker_pb2.Output) -> None:
    """Finish this batch and exit without reading what else was sent."""
    worker.send(done=done)
    os._exit(7)


def row_print(worker: FakeWorker, index: int, done: Done, output: worker_pb2.Output) -> None:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    print("x" * 10_000)


def row_flood(worker: FakeWorker, index: int, done: Done, output: worker_pb2.Output) -> None:
    for line in range(50_000):
        print("line", line)


def row_close(worker: FakeWorker, index: int, done: Done, output: worker_pb2.Output) -> None:
    worker.channel.close()
    forever()


ROWS = {
    b"exit": row_exit,
    b"kill": row_kill,
    b"stop": row_stop,
    b"bad": row_bad,
    b"garbage": row_garbage,
    b"empty": row_empty,
    b"huge": row_huge,
    b"stray": row_stray,
    b"outside": row_outside,
    b"last words": row_last_words,
    b"print": row_print,
    b"flood": row_flood,
    b"close": row_close,
}


def leave_with_core() -> None:
    os.read(0, 1)  # never written: returns at its end
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--arena-fd", type=int, required=True)
    parser.add_argument("--silent", action="store_true", help="say no hello")
    parser.add_argument("--protocol", type=int, default=7)
    parser.add_argument("--ignore-stop", action="store_true", help="and SIGTERM, and the lifeline")
    parser.add_argument("--child", action="store_true", help="start a process, print its id")
    arguments = parser.parse_args()
    if arguments.ignore_stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        threading.Thread(target=leave_with_core, daemon=True).start()
    if arguments.child:
        child = subprocess.Popen(["sleep", "3600"])
        print(child.pid)
    if arguments.silent:
        forever()
    worker = FakeWorker(arguments)
    worker.send(hello=worker_pb2.Hello(protocol=arguments.protocol, pid=os.getpid()))
    worker.run()


if __name__ == "__main__":
    main()
