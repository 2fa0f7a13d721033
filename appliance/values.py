"""`value`: the attrs class of values that are made for every message.

To the type checker they are frozen. At run time they are plain classes with slots, because attrs
needs two to three times as long to fill a frozen one, and a request is made of a dozen of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attrs import frozen as value
else:
    from attrs import define as value

__all__ = ["new_dict", "new_list", "value"]

new_list: Callable[[], list[Any]] = list
new_dict: Callable[[], dict[Any, Any]] = dict
"""Factories for fields of what is made for every message: `list[int]` takes ten times as long."""
