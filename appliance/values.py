"""`value`: the attrs class of values that are made for every message.

To the type checker they are frozen. At run time they are plain classes with slots, because attrs
needs two to three times as long to fill a frozen one, and a request is made of a dozen of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import frozen as value
else:
    from attrs import define as value

__all__ = ["value"]
