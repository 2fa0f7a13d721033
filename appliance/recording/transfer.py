"""How orders and records get from the core to the process that writes them. Pure.

A frame is its length, then the order as `marshal` writes it, then the large payloads as they are,
which so are copied by nobody but the kernel. Marshal is quick and knows plain values only; what is
read comes from the core itself, through a pipe that nobody else has.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

from appliance.recording.buffers import Record
from appliance.recording.messages import Topic

LARGE_BYTES = 8192
"""A larger payload goes beside its record."""

_LENGTH = Struct("<I")
_OBSERVATIONS = int(Topic.OBSERVATIONS)
_PAYLOAD = 2
"""Where an observation's fields have it."""

Part = bytes | memoryview


def pack(order: str, *arguments: Any) -> list[Part]:
    """Return the parts of a frame without records."""
    return _frame((order, arguments, ()), [])


def pack_records(records: Sequence[Record]) -> list[Part]:
    """Return the parts of a frame that has records written."""
    slim: list[Record] = []
    lengths: list[int] = []
    large: list[Part] = []
    for record in records:
        kind, at_ns, size, fields = record
        if kind == _OBSERVATIONS and len(fields[_PAYLOAD]) > LARGE_BYTES:
            payload = fields[_PAYLOAD]
            lengths.append(len(payload))
            large.append(payload)
            slim.append((kind, at_ns, size, (*fields[:_PAYLOAD], None, *fields[_PAYLOAD + 1 :])))
        else:
            slim.append(record)
    return _frame(("write", (slim,), tuple(lengths)), large)


def _frame(content: Any, large: list[Part]) -> list[Part]:
    encoded = marshal.dumps(content)
    return [_LENGTH.pack(len(encoded)) + encoded, *large]


def unpack(read: Callable[[int], bytes]) -> tuple[str, tuple[Any, ...]] | None:
    """Read a frame; return the order and its arguments.

    Args:
        read: Returns so many bytes, or fewer where the pipe ends.

    Returns:
        None where the pipe ends, be it in the middle of a frame.
    """
    head = read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    encoded = read(length)
    if len(encoded) < length:
        return None
    order, arguments, lengths = marshal.loads(encoded)  # noqa: S302  see above
    if not lengths:
        return order, arguments
    large = [read(length) for length in lengths]
    if len(large[-1]) < lengths[-1]:
        return None
    payloads = iter(large)
    (records,) = arguments
    whole = [
        (kind, at_ns, size, (*fields[:_PAYLOAD], next(payloads), *fields[_PAYLOAD + 1 :]))
        if kind == _OBSERVATIONS and fields[_PAYLOAD] is None
        else (kind, at_ns, size, fields)
        for kind, at_ns, size, fields in records
    ]
    return order, (whole,)
