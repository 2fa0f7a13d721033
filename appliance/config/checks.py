"""What single values may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import attrs
from attrs.validators import and_, ge, le

MIB = 1 << 20
Validator = Callable[[Any, Any, Any], None]
SMALLEST, LARGEST = 1e-3, 1e9  # in nanoseconds, both are still sensible integers


def _not_negative(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
    """Refuse what is neither 0 nor a sensible number."""
    if not (value == 0 or SMALLEST <= value <= LARGEST):
        raise ValueError(f"'{attribute.name}' must be 0, or {SMALLEST:g} to {LARGEST:g}: {value}")


def http_url(_: object, attribute: attrs.Attribute[Any], value: str) -> None:
    """Refuse what is neither empty nor an address that HTTP reaches."""
    try:
        parts = urlsplit(value)
        is_url = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # of a port that is none, or brackets
        is_url = False
    if value and not (is_url and value.isprintable() and " " not in value):
        raise ValueError(
            f"'{attribute.name}' must be an URL, http:// or https://, or empty: {value!r}"
        )


POSITIVE: Validator = and_(ge(SMALLEST), le(LARGEST))
NOT_NEGATIVE: Validator = _not_negative
