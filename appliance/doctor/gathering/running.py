"""The appliance that runs, asked for its status alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from appliance.admin import client as admin
from appliance.doctor.facts import Running
from appliance.errors import AdminError, AdminUnreachable, PeerProtocolError
from appliance.health.reading import from_documents

ANSWER_S = 1.0


def ask(path: str) -> Running:
    """Return what came of asking at a socket."""
    try:
        answer = admin.get(path, "/v1/status", ANSWER_S)
    except AdminUnreachable as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError):
            return Running(answer="absent")
        if isinstance(cause, PermissionError):
            return Running(answer="forbidden", error=str(error))
        return Running(answer="silent", error=str(error))
    except AdminError as error:
        return Running(answer="silent", error=str(error))
    return _status(answer)


def _status(answer: dict[str, Any] | str) -> Running:
    try:
        document = cast("dict[str, Any]", answer)
        return Running(
            answer="answered",
            state=document["state"],
            reasons=tuple(cast("Sequence[str]", document["reasons"])),
            pid=document["pid"],
            binds=tuple(cast("Sequence[str]", document["binds"])),
            devices=from_documents(document.get("devices", [])),  # an older one does not say
        )
    except (KeyError, TypeError, PeerProtocolError):
        said = json.dumps(answer)[:80]
        return Running(answer="silent", error=f"its answer is not understood: {said}")
