"""Reads the configuration: the file, `--set`, credentials; then checks it whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import attrs

from appliance.config.doors import MOST_DIGITS
from appliance.config.whole import Config, check_binds, check_names
from appliance.errors import ConfigError
from appliance.structure import read_toml, structure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CREDENTIALS = "$CREDENTIALS_DIRECTORY"
"""At the beginning of a secret's path: where the service manager has laid it, if one has."""


def load(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read `path` (or nothing), apply `KEY=VALUE` overrides, check, return.

    A value is read as TOML where it parses as TOML, else as a string: `workers.0.count=2`,
    `transport.insecure=true`, `models.directory=./models`.

    Raises:
        ConfigError: The file is unreadable or not TOML, or a key is unknown, of the wrong type,
            or out of range.
    """
    where = str(path) if path is not None else "configuration"
    document: dict[str, Any] = read_toml(path) if path is not None else {}
    for override in overrides:
        _apply(document, override)
    config = _with_credentials(structure(document, Config, where))
    check_names(config, where)
    check_binds(config, where)
    return config


def _with_credentials(config: Config) -> Config:
    """Return it with the paths of secrets that a service manager has laid out.

    Where none has, they stay as they are written: the file may be checked by somebody else.
    """
    there = os.environ.get(CREDENTIALS.removeprefix("$"))
    if not there:
        return config

    def path(written: str) -> str:
        inside = written == CREDENTIALS or written.startswith(f"{CREDENTIALS}/")
        return there + written.removeprefix(CREDENTIALS) if inside else written

    keys, ingest = config.keys, config.ingest
    tls = attrs.evolve(ingest.grpc.tls, key=path(ingest.grpc.tls.key))
    return attrs.evolve(
        config,
        keys=attrs.evolve(keys, server_directory=path(keys.server_directory)),
        ingest=attrs.evolve(ingest, grpc=attrs.evolve(ingest.grpc, tls=tls)),
    )


def _apply(document: dict[str, Any], override: str) -> None:
    """Put one `KEY=VALUE` into a document."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected KEY=VALUE, as in transport.insecure=true")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # TOMLDecodeError is a ValueError
        value = text
    *parents, last = key.split(".")
    node: dict[str, Any] | list[Any] = document
    for depth, name in enumerate(parents):
        if isinstance(node, list):
            following = node[_index(node, ".".join(parents[:depth]), name, override)]
        else:
            following = node.setdefault(name, [{}] if name == "workers" else {})
        if not isinstance(following, (dict, list)):
            at = ".".join(parents[: depth + 1])
            raise ConfigError(f"--set {override}: {at} holds a value, not a table")
        node = cast("dict[str, Any] | list[Any]", following)
    if isinstance(node, list):
        node[_index(node, ".".join(parents), last, override)] = value
    else:
        node[last] = value


def _index(items: list[Any], key: str, name: str, override: str) -> int:
    """Return which item of a list is meant."""
    if not name.isdecimal() or len(name) > MOST_DIGITS:
        raise ConfigError(f"--set {override}: {key} is a list; name an item by its number")
    if int(name) >= len(items):
        raise ConfigError(
            f"--set {override}: {key} has no item {name}; there are {len(items)}, the first is 0"
        )
    return int(name)
