"""What TensorRT says: its errors are kept for our own, the rest is for its developers."""

from __future__ import annotations

from collections import deque
from functools import cache
from typing import Any

MOST_TOLD = 5
"""Reasons that one error names."""
NO_DRIVER = "cudaError 35"
"""TensorRT for RTX says so, too, where it needs none."""


def error_log(api: Any) -> Any:
    """Return TensorRT's logger, emptied; its `errors` are the last lines, oldest first.

    There is one in a process: TensorRT keeps to the first that it was given.
    """
    log = _log(api)
    log.errors.clear()
    return log


def last_words(log: Any) -> str:
    """Return the last errors, in one line."""
    return "; ".join(log.errors) or "TensorRT does not say why"


@cache
def _log(api: Any) -> Any:
    class Log(api.ILogger):
        """Keeps errors."""

        def __init__(self) -> None:
            super().__init__()  # pyright: ignore[reportUnknownMemberType]
            self.errors: deque[str] = deque(maxlen=MOST_TOLD)

        def log(self, severity: Any, message: str) -> None:
            """Take a line."""
            is_error = severity in (api.ILogger.ERROR, api.ILogger.INTERNAL_ERROR)
            if is_error and NO_DRIVER not in message:
                self.errors.append(message)

    return Log()
