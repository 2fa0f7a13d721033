"""From parsed TOML to frozen attrs classes, with errors a person can act on.

Nothing is coerced but an integer to a float and a list to a tuple. Every wrong key is reported,
not just the first, as a line of `where: dotted.key: what was found and what is allowed`.

Written out rather than left to cattrs: its hooks would have to be replaced for every type to be
this strict, its nested errors unpacked again, and its import is a fifth of what `appliance status`
may take.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

import attrs

from appliance.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

SCALARS: dict[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
}
KEY = "key"
"""In an attrs field's metadata: its key in TOML, where that is no Python name."""

LONGEST_SHOWN = 80

MOST_BYTES = 1 << 20
"""Of a file."""

LARGEST = 1 << 1023
"""A larger integer is no float."""


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        ConfigError: It cannot be read or is not TOML.
    """
    return parse_toml(read_text(path), str(path))


def read_text(path: Path) -> str:
    """Return what a file says.

    Raises:
        ConfigError: It cannot be read, is too large or is not text.
    """
    try:
        # Not to wait for somebody who writes to a pipe.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{path}: is no regular file")
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path}: has more than the {MOST_BYTES} bytes that are allowed")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ConfigError: It is not TOML.
    """
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and what Python says of a number too long
        raise ConfigError(f"{where}: not TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: not TOML that is to be read: nested too deep") from error


def structure(document: Mapping[str, Any], cls: type[T], where: str) -> T:
    """Make a `cls` out of `document`; unknown keys and wrong types are refused.

    Args:
        document: Parsed TOML. A key is a field's name, or its `KEY`.
        cls: An attrs class. Its fields may be bool, int, float, str, Literal, attrs classes,
            tuple[X, ...], tuple[X, Y], dict[str, X], and any of these or None.
        where: What the document is, for messages: a path.

    Raises:
        ConfigError: One line for each key that is wrong.
    """
    problems: list[str] = []
    made = _value(document, cls, "", problems)
    if problems:
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in problems))
    return cast("T", made)


def _value(  # noqa: PLR0911  one return for each kind
    found: Any, kind: Any, key: str, problems: list[str]
) -> Any:
    """Return `found` as a `kind`; where it is not one, append to `problems`, return anything."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return found
    if kind in SCALARS:
        return _scalar(found, kind, key, problems)
    if attrs.has(kind):
        return _object(found, kind, key, problems)
    if origin is Literal:
        return _literal(found, arguments, key, problems)
    if origin is tuple:
        return _tuple(found, arguments, key, problems)
    if origin is dict:
        return _table(found, arguments[1], key, problems)
    if origin in (Union, UnionType):
        (other,) = (argument for argument in arguments if argument is not NoneType)
        return None if found is None else _value(found, other, key, problems)
    raise TypeError(f"{key}: no rule makes a {kind}")


def _scalar(found: Any, kind: type, key: str, problems: list[str]) -> Any:
    if type(found) is kind:  # True is no integer
        return found
    if kind is float and type(found) is int and abs(found) <= LARGEST:
        return float(found)
    problems.append(_mismatch(key, found, SCALARS[kind]))
    return None


def _literal(found: Any, allowed: Sequence[Any], key: str, problems: list[str]) -> Any:
    if not any(type(found) is type(one) and found == one for one in allowed):
        problems.append(_mismatch(key, found, ", ".join(_show(one) for one in allowed)))
    return found


def _tuple(found: Any, kinds: tuple[Any, ...], key: str, problems: list[str]) -> tuple[Any, ...]:
    if not isinstance(found, (list, tuple)):
        problems.append(_mismatch(key, found, "a list"))
        return ()
    items: Sequence[Any] = cast("Sequence[Any]", found)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(items)
    elif len(items) != len(kinds):
        problems.append(_mismatch(key, items, f"a list of {len(kinds)}"))
        return ()
    return tuple(
        _value(item, kind, f"{key}.{index}", problems)
        for index, (item, kind) in enumerate(zip(items, kinds))  # noqa: B905  same length
    )


def _table(found: Any, kind: Any, key: str, problems: list[str]) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        problems.append(_mismatch(key, found, "a table"))
        return {}
    table = cast("Mapping[str, Any]", found)
    return {name: _value(item, kind, _join(key, name), problems) for name, item in table.items()}


def _object(found: Any, cls: type[attrs.AttrsInstance], key: str, problems: list[str]) -> Any:
    if isinstance(found, cls):
        return found
    if not isinstance(found, Mapping):
        problems.append(_mismatch(key, found, "a table"))
        return None
    table = cast("Mapping[str, Any]", found)
    attrs.resolve_types(cls)  # annotations are strings until somebody needs them
    fields = {
        field.metadata.get(KEY, field.name): field for field in attrs.fields(cls) if field.init
    }
    before = len(problems)
    problems.extend(
        f"{_join(key, name)}: unknown key; allowed: {', '.join(fields) or 'none'}"
        for name in table
        if name not in fields
    )
    values = {
        field.name: _value(table[name], field.type, _join(key, name), problems)
        for name, field in fields.items()
        if name in table
    }
    for name, field in fields.items():
        if name not in table and field.default is attrs.NOTHING:
            problems.append(f"{_join(key, name)}: is missing; it has no default")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except (ValueError, ConfigError) as error:  # an attrs validator, or the class's own check
        problems.append(_join(key, _validator_message(error)))
        return None


def _validator_message(error: Exception) -> str:
    """Return attrs' `'name' must ...: found` as `name: must ...: found`."""
    message = str(error.args[0])
    if message.startswith("'"):
        name, _, rest = message[1:].partition("' ")
        return f"{name}: {rest}"
    return message


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _mismatch(key: str, found: object, allowed: str) -> str:
    problem = f"found {_show(found)}; allowed: {allowed}"
    return f"{key}: {problem}" if key else problem


def _show(value: object) -> str:
    """Return `value` much as TOML writes it, cut to a readable length."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str):
        text = f'"{value}"'
    else:
        text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."
