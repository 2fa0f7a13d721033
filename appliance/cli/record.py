"""`appliance record`: asks a running appliance for a recording, and waits for its end."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from appliance.admin import client as admin
from appliance.cli import NOT_QUITE, OK
from appliance.cli.socket_path import default_socket_path
from appliance.cli.text import plain, size
from appliance.errors import PeerProtocolError

if TYPE_CHECKING:
    from appliance.recording.orders import RecordingDocument

TIMEOUT_S = 10.0
POLL_S = 0.2
LEASE_S = 10.0
"""If this command ends without a word, so does the recording, so long after."""


def record(arguments: argparse.Namespace) -> int:
    """Record until it is enough, or until Ctrl-C; 0 if there is a whole file, else 1."""
    path = arguments.socket or default_socket_path(existing=True)
    order = {
        "path": str(Path(arguments.output).absolute()),
        "seconds": float(arguments.seconds or 0),
        "bytes": arguments.bytes or 0,
        "trigger": arguments.trigger or "",
        "images": not arguments.no_images,
        "lease_s": LEASE_S,
    }
    recording = _document(admin.post(path, "/v1/recordings", TIMEOUT_S, order))
    number = recording["id"]

    def look() -> RecordingDocument:
        return _document(admin.post(path, "/v1/recordings/renew", TIMEOUT_S, {"id": number}))

    try:
        recording = _wait(look)
    except KeyboardInterrupt:
        admin.post(path, "/v1/recordings/stop", TIMEOUT_S, {"id": number})
        recording = _wait(look)
    return _report(recording)


def _wait(look: Callable[[], RecordingDocument]) -> RecordingDocument:
    """Return how it ended; at a terminal, say meanwhile how far it is."""
    shows = sys.stderr.isatty()
    while (recording := look())["state"] not in ("done", "failed"):
        if shows:
            print(f"\r\x1b[K{_progress(recording)}", end="", file=sys.stderr, flush=True)
        time.sleep(POLL_S)
    if shows:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return recording


def _progress(recording: RecordingDocument) -> str:
    if recording["state"] == "waiting":
        return f"waiting for a miss, {recording['seconds']:.0f} s; Ctrl-C gives up"
    so_far = f"{recording['messages']} messages, {size(recording['bytes'])}"
    return f"recording, {recording['seconds']:.0f} s: {so_far}; Ctrl-C ends it"


def _report(recording: RecordingDocument) -> int:
    if recording["error"]:
        print(f"appliance: error: {plain(recording['error'])}", file=sys.stderr)
        return NOT_QUITE
    print(
        f"{plain(recording['path'])}: {recording['messages']} messages, "
        f"{size(recording['bytes'])}, {recording['seconds']:.1f} s"
    )
    if recording["dropped"]:
        print(
            f"{recording['dropped']} messages ({size(recording['dropped_bytes'])}) are missing: "
            "they came faster than they could be written"
        )
    return OK


def _document(found: dict[str, Any] | str) -> RecordingDocument:
    if isinstance(found, str) or "id" not in found:
        raise PeerProtocolError("the appliance does not know recordings; is it of this version?")
    return cast("RecordingDocument", found)
