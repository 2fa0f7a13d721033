"""`appliance trace`: the timeline of a running appliance as a file for ui.perfetto.dev."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from attrs import define, field

from appliance.admin import client as admin
from appliance.cli import NOT_QUITE, OK
from appliance.cli.perfetto import Event, Trace
from appliance.cli.socket_path import default_socket_path
from appliance.cli.text import plain, size
from appliance.errors import AdminError, PeerProtocolError, RecordingError
from appliance.io.partial import give_name, open_partial

if TYPE_CHECKING:
    from appliance.metrics.status import TimelineDocument

TIMEOUT_S = 10.0
POLL_S = 0.25
MOST_ROWS = 500_000
"""A longer trace ends here: more is no pleasure to open, and what was queued is kept in memory."""


def trace(arguments: argparse.Namespace) -> int:
    """Write the trace; 0 if it is whole, 1 if something is missing."""
    path = arguments.socket or default_socket_path(existing=True)
    reading = Reading(path, arguments.seconds, last=arguments.last)
    made = Trace()
    with TraceFile(Path(arguments.output)) as file:
        for document in reading.documents(made):
            _show(reading, made)
            for batch in document["batches"]:
                file.write(made.batch(batch))
            file.write(made.drop(drop) for drop in document["drops"])
        _show(reading, made, done=True)
        file.write(made.closing())
        file.finish(reading.about())
    print(
        f"{plain(arguments.output)}: {made.batches} batches, {made.rows} rows, {made.drops} drops, "
        f"{size(file.path.stat().st_size)}; open it at https://ui.perfetto.dev"
    )
    for line in reading.missing:
        print(line)
    return NOT_QUITE if reading.missing else OK


@define(eq=False)
class Reading:
    """Reads the timeline of `seconds`: from now on, or the last ones.

    Attributes:
        missing: What is not in the trace, in words.
    """

    socket: str
    seconds: float
    last: bool = field(kw_only=True)
    missing: list[str] = field(factory=list[str], init=False)
    read_s: float = field(default=0.0, init=False)
    _first: TimelineDocument | None = field(default=None, init=False)

    def documents(self, made: Trace) -> Iterator[TimelineDocument]:
        """Return parts of the timeline, oldest first, until it is enough, or until Ctrl-C."""
        first = self._first = self._ask("" if self.last else "newest")
        begin_us, end_us = first["now_us"], first["now_us"] + round(self.seconds * 1e6)
        if self.last:
            begin_us, end_us = 2 * begin_us - end_us, begin_us
        document = first
        while True:
            yield _within(document, begin_us, end_us)
            self.read_s = max(0.0, (min(document["now_us"], end_us) - begin_us) / 1e6)
            self._note_missed(document)
            if made.rows >= MOST_ROWS:
                self.missing.append(f"it ends after {MOST_ROWS} rows")
                return
            waits = not any(document["more"].values())
            if waits and document["now_us"] >= end_us:
                return
            try:
                if waits:
                    time.sleep(POLL_S)
                document = self._ask(document["cursor"])
            except KeyboardInterrupt:
                return
            except AdminError as error:
                self.missing.append(f"it ends early: {error}")
                return
            if document["instance"] != first["instance"]:
                self.missing.append("it ends early: the appliance was started anew")
                return

    def about(self) -> dict[str, Any]:
        """Return what the file says of the whole."""
        first = self._first
        assert first is not None
        start = {"unix_s": round(first["unix_s"] - first["now_us"] / 1e6, 6)}
        return {"instance": first["instance"], "zero": start, "missing": self.missing}

    def _note_missed(self, document: TimelineDocument) -> None:
        missed = document["missed"]
        if any(missed.values()):
            self.missing.append(
                f"{missed['batches']} batches and {missed['drops']} drops are missing: "
                "they came faster than they could be read"
            )

    def _ask(self, cursor: str) -> TimelineDocument:
        found = admin.get(self.socket, f"/v1/timeline?since={cursor}", TIMEOUT_S)
        if isinstance(found, str) or "batches" not in found:
            raise PeerProtocolError("the appliance answers otherwise; is it of this version?")
        return cast("TimelineDocument", found)


def _within(document: TimelineDocument, begin_us: int, end_us: int) -> TimelineDocument:
    batches = [each for each in document["batches"] if begin_us <= each["ended_us"] <= end_us]
    drops = [each for each in document["drops"] if begin_us <= each["at_us"] <= end_us]
    found = document.copy()
    found["batches"], found["drops"] = batches, drops
    return found


def _show(reading: Reading, made: Trace, *, done: bool = False) -> None:
    """Say at a terminal how far it is."""
    if not sys.stderr.isatty():
        return
    text = (
        f"{reading.read_s:.0f} of {reading.seconds:g} s: {made.batches} batches, "
        f"{made.drops} drops; Ctrl-C ends it"
    )
    print("\r\x1b[K" + ("" if done else text), end="", file=sys.stderr, flush=True)


@define(eq=False)
class TraceFile:
    """The file, under another name until it is whole; nothing is left of one that is not.

    Raises:
        RecordingError: It is there already, or cannot be written; with any method.
    """

    path: Path
    _stream: IO[str] = field(init=False)
    _separator: str = field(default="", init=False)

    @property
    def partial(self) -> Path:
        """Where it is until it is whole."""
        return self.path.with_name(f"{self.path.name}.partial")

    def __enter__(self) -> TraceFile:  # noqa: PYI034  # Self needs Python 3.11
        if os.path.lexists(self.path):
            raise RecordingError(f"{self.path}: is there already; choose another name")
        try:
            self._stream = os.fdopen(open_partial(self.partial), "w", encoding="utf-8")
        except FileExistsError as error:
            raise RecordingError(
                f"{self.partial}: is there already; choose another name, or move it away"
            ) from error
        except OSError as error:
            raise self._error(error) from error
        try:
            self._put('{"displayTimeUnit": "ms", "traceEvents": [')
        except RecordingError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()  # it may try once more to write what it holds
        self.partial.unlink(missing_ok=True)

    def write(self, events: Iterable[Event]) -> None:
        """Add events, one a line."""
        for event in events:
            self._put(f"{self._separator}\n{json.dumps(event)}")
            self._separator = ","

    def finish(self, about: dict[str, Any]) -> None:
        """End the file and give it its name."""
        self._put(f'\n], "otherData": {json.dumps(about)}}}\n')
        try:
            self._stream.close()
            give_name(self.partial, self.path)
        except OSError as error:
            raise self._error(error) from error

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> RecordingError:
        return RecordingError(f"{self.path}: cannot be written: {error.strerror}")
