"""What may be asked of the recorder, and what it says of a recording. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from attrs import define, field, frozen

from appliance.errors import ConfigError, RecordingError
from appliance.structure import structure

State = Literal["starting", "recording", "waiting", "writing", "done", "failed"]
"""`starting`: nothing is taken down yet. `waiting`: for its trigger, in memory. `failed`: `error`
says why."""

MOST_S = 86_400.0
MOST_BYTES = 1 << 50


class RecordingDocument(TypedDict):
    """One recording, for its asker."""

    id: int
    path: str
    state: State
    messages: int
    bytes: int
    dropped: int
    dropped_bytes: int
    seconds: float
    error: str | None


@frozen(kw_only=True)
class Order:
    """What is to be recorded.

    Attributes:
        path: Where to, absolute.
        seconds: It ends after so long; with a trigger: how far back it reaches. 0: no limit.
        bytes: It ends when the file has as many. 0: no limit.
        trigger: Keep the last seconds in memory, and write them when this occurs.
        images: With the bytes of images.
        lease_s: It ends when nobody has asked about it for so long. 0: nobody needs to.
    """

    path: str
    seconds: float = 0.0
    bytes: int = 0
    trigger: Literal["", "miss"] = ""
    images: bool = True
    lease_s: float = 0.0

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Order:
        """Check what was asked.

        Raises:
            RecordingError: It cannot be done; says why.
        """
        try:
            order = structure(document, cls, "the order")
        except ConfigError as error:
            raise RecordingError(str(error)) from error
        if not Path(order.path).is_absolute() or not _is_text(order.path):
            raise RecordingError(f"path: found {order.path!a}; an absolute path is expected")
        for name, limit, most in (
            ("seconds", order.seconds, MOST_S),
            ("bytes", order.bytes, MOST_BYTES),
            ("lease_s", order.lease_s, MOST_S),
        ):
            if not 0 <= limit <= most:
                raise RecordingError(f"{name}: found {limit:g}; 0 to {most:g} is allowed")
        if not (order.seconds or order.bytes or order.lease_s):
            raise RecordingError("give seconds, bytes or lease_s: it would never end")
        if order.trigger and order.bytes:
            raise RecordingError("bytes and trigger do not go together: memory is its bound")
        return order


@define(eq=False)
class Recording:
    """One recording, from its order to its end."""

    id: int
    order: Order
    started_ns: int
    asked_ns: int
    state: State = "starting"
    messages: int = 0
    bytes: int = 0
    dropped: tuple[int, int] = (0, 0)
    ended_ns: int | None = None
    error: str = field(default="")

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "failed")

    def document(self, now_ns: int) -> RecordingDocument:
        """Return what there is to be known."""
        messages, lost = self.dropped
        until_ns = now_ns if self.ended_ns is None else self.ended_ns
        return RecordingDocument(
            id=self.id,
            path=self.order.path,
            state=self.state,
            messages=self.messages,
            bytes=self.bytes,
            dropped=messages,
            dropped_bytes=lost,
            seconds=round((until_ns - self.started_ns) / 1e9, 3),
            error=self.error or None,
        )


def _is_text(path: str) -> bool:
    """Return whether a path can be said to anybody: others were no UTF-8, or hold what none may."""
    try:
        return b"\0" not in path.encode()
    except UnicodeEncodeError:
        return False
