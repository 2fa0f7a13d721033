"""The process that writes one recording: `python -m appliance.recording`, started by `writer`.

Orders come on standard input (see `transfer`). One line of JSON on standard output answers each,
except that `write` says nothing unless it fails. When the core is gone, the file is finished all
the same.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from appliance.errors import RecordingError
from appliance.recording.files import RecordingFile, make_room
from appliance.recording.transfer import unpack

NICE = 10
"""A recording is never more important than the robots."""


def main() -> int:
    """Do as the core orders until it closes its end; return the exit status."""
    os.nice(NICE)
    for number in (signal.SIGINT, signal.SIGTERM):  # when to end is the core's affair
        signal.signal(number, signal.SIG_IGN)
    file: RecordingFile | None = None
    read = sys.stdin.buffer.read
    is_over = False
    while (found := unpack(read)) is not None:
        if is_over:
            continue  # what had been sent before the core heard of the failure
        order, arguments = found
        try:
            file = _obey(file, order, arguments)
        except RecordingError as error:
            is_over = True
            _answer({"error": str(error)})
            continue
        if order != "write":
            _answer({"messages": file.messages, "bytes": file.bytes})
        is_over = order in ("finish", "discard")
    if file is None or is_over:
        return 0
    if not file.messages:
        file.discard()
        return 0
    try:
        file.finish({"cut_off": "the appliance ended"})
    except RecordingError as error:
        print(f"recording: {error}", file=sys.stderr)  # noqa: T201  the core's log, if it lives
        return 1
    return 0


def _obey(file: RecordingFile | None, order: str, arguments: tuple[Any, ...]) -> RecordingFile:
    """Do as told.

    Raises:
        RecordingError: It cannot be done; the file is closed.
    """
    if order == "open":
        path, images, wall_offset_ns, about, room = arguments
        file = RecordingFile(Path(path), images=images, wall_offset_ns=wall_offset_ns)
        if room is not None:
            make_room(file.path.parent, *room)
        file.open(about)
        return file
    assert file is not None
    if order == "write":
        file.write(*arguments)
    elif order == "finish":
        file.finish(*arguments)
    elif order == "discard":
        file.discard()
    else:
        assert order == "report"
    return file


def _answer(document: dict[str, Any]) -> None:
    try:
        print(json.dumps(document), flush=True)  # noqa: T201  the core reads it
    except BrokenPipeError:  # it is gone; its end of standard input will be, too
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


if __name__ == "__main__":
    sys.exit(main())
