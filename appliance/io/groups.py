"""What nurseries raise, and what people want to hear of it."""

from __future__ import annotations

import sys
from typing import cast

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


def only_error(error: BaseException) -> BaseException:
    """Return what a group of one comes down to."""
    while isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        if len(group.exceptions) > 1:
            return group
        error = next(iter(group.exceptions))
    return error
