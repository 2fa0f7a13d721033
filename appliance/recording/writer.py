"""The core's side of the process that writes a recording: started for it, and ended with it.

Compressing and writing take more processor time than serving does, and a disk may hang: neither is
to be in the core's way. What is large is handed to the kernel in a thread, which the event loop
hardly notices: the interpreter is free meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from appliance.errors import RecordingError
from appliance.recording.buffers import Record
from appliance.recording.transfer import Part, pack, pack_records
from appliance.timeslice import LOADING_NS, set_time_slice

PIPE_BYTES = 1 << 20
"""As much as anybody may ask for."""

RECORDS_AT_ONCE = 64
"""Packing so many keeps the interpreter to itself for 0.1 ms."""

ANSWER_BYTES = 1 << 16
PATIENCE_S = 10.0
CLOSE_S = 1.0
"""How long it may take to end by itself; a disk that hangs does not hold up anybody else."""


@define(eq=False)
class Writer:
    """See the module's docstring. One call at a time; `close` has to be called in the end.

    Its arguments and attributes are those of the `files.RecordingFile` it has written.
    """

    path: Path
    images: bool = field(kw_only=True)
    wall_offset_ns: int = field(kw_only=True)
    messages: int = field(default=0, init=False)
    bytes: int = field(default=0, init=False)
    _process: trio.Process | None = field(default=None, init=False)
    _pipe: int = field(default=-1, init=False)
    _answers: bytearray = field(factory=bytearray, init=False)
    _thread: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1), init=False)

    async def open(self, about: dict[str, str], room: tuple[int, int] | None = None) -> None:
        """Start the process, and have it begin the file.

        Args:
            about: Becomes the file's metadata `appliance`.
            room: First delete old incidents beside it: so many bytes in all, so many needed.

        Raises:
            RecordingError: There is such a file, or none can be made there.
        """
        try:
            await self._start()
        except OSError as error:
            raise RecordingError(
                f"{self.path}: no process to write it: {error.strerror}"
            ) from error
        arguments = (str(self.path), self.images, self.wall_offset_ns, about, room)
        await self._ask(pack("open", *arguments))

    async def _start(self) -> None:
        theirs, self._pipe = os.pipe()
        try:
            with suppress(OSError):  # an administrator may allow less
                fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "appliance.recording"],
                stdin=theirs,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        set_time_slice(LOADING_NS, self._process.pid)  # who answers robots is let in first

    async def write(self, records: Sequence[Record]) -> None:
        """Add records, and wait until they are written.

        Raises:
            RecordingError: The file cannot be written any further; it was cut back.
        """
        for start in range(0, len(records), RECORDS_AT_ONCE):
            some = records[start : start + RECORDS_AT_ONCE]
            if not await self._send(partial(pack_records, some)):
                break  # the answer says why
        await self._ask(pack("report"))

    async def finish(self, about: dict[str, str]) -> None:
        """End the file and give it its name.

        Args:
            about: Becomes its metadata `recording`.

        Raises:
            RecordingError: It cannot be written; it was cut back, and keeps its partial name.
        """
        await self._ask(pack("finish", about))

    async def discard(self) -> None:
        """Leave nothing behind.

        Raises:
            RecordingError: The process that should do so is gone.
        """
        await self._ask(pack("discard"))

    async def close(self) -> None:
        """End the process, by force if need be. Idempotent."""
        if self._pipe >= 0:
            os.close(self._pipe)  # a thread that still writes has its own
            self._pipe = -1
        process, self._process = self._process, None
        if process is None:
            return
        with trio.move_on_after(CLOSE_S, shield=True):
            await process.wait()
        if process.returncode is None:
            process.kill()
            with trio.move_on_after(CLOSE_S, shield=True):  # not for ever: the disk may hang
                await process.wait()
        assert process.stdout is not None
        await trio.aclose_forcefully(process.stdout)

    async def _ask(self, parts: list[Part]) -> None:
        """Give an order, and take in its answer.

        Raises:
            RecordingError: It says that it cannot go on, or it is gone.
        """
        await self._send(lambda: parts)
        answer = await self._answer()
        if "error" in answer:
            raise RecordingError(answer["error"])
        self.messages, self.bytes = answer["messages"], answer["bytes"]

    async def _send(self, frame: Callable[[], list[Part]]) -> bool:
        """Make and hand over a frame, in a thread; return whether anybody is there to read it."""
        pipe = os.dup(self._pipe)  # the thread may outlive this call, and the descriptor its number

        def write() -> bool:
            try:
                for part in frame():
                    view = memoryview(part)
                    while view:
                        view = view[os.write(pipe, view) :]
            except BrokenPipeError:
                return False
            finally:
                os.close(pipe)
            return True

        with self._in_time():
            return await trio.to_thread.run_sync(
                write, limiter=self._thread, abandon_on_cancel=True
            )
        raise AssertionError  # it returned or raised

    @contextmanager
    def _in_time(self) -> Generator[None, None, None]:
        """Give up what takes longer than PATIENCE_S: else nobody could end the recording.

        Raises:
            RecordingError: It did.
        """
        try:
            with trio.fail_after(PATIENCE_S):
                yield
        except trio.TooSlowError as error:
            raise RecordingError(
                f"{self.path}: cannot be written: the disk took nothing for {PATIENCE_S:g} s; "
                f"{self.path.name}.partial holds the first {self.bytes} bytes"
            ) from error

    async def _answer(self) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            RecordingError: The process has ended.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        while b"\n" not in self._answers:
            with self._in_time():
                some = await self._process.stdout.receive_some(ANSWER_BYTES)
            if not some:
                raise RecordingError(
                    f"{self.path}: the process that wrote it has ended; {self.path.name}.partial "
                    f"holds the first {self.bytes} bytes and can be read"
                )
            self._answers += some
        line, _, rest = bytes(self._answers).partition(b"\n")
        self._answers = bytearray(rest)
        return json.loads(line)
