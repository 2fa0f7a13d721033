"""The whole configuration, and what its tables may not be together."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from attrs import frozen

from appliance.config.clients import Clients, RateLimits
from appliance.config.doors import LAST_PORT, MOST_DIGITS, Ingest, Keys, Transport
from appliance.config.service import Admin, Drain, Log, Recording
from appliance.config.serving import Arena, Models, Scheduling, Workers
from appliance.errors import ConfigError

LOOPBACK_NAMES = ("localhost", "lo")


@frozen(kw_only=True)
class Config:
    """The whole configuration."""

    appliance_id: str = ""
    transport: Transport = Transport()
    ingest: Ingest = Ingest()
    keys: Keys = Keys()
    clients: Clients = Clients()
    scheduling: Scheduling = Scheduling()
    rate_limits: RateLimits = RateLimits()
    models: Models = Models()
    workers: tuple[Workers, ...] = (Workers(),)
    arena: Arena = Arena()
    admin: Admin = Admin()
    log: Log = Log()
    drain: Drain = Drain()
    recording: Recording = Recording()


def check_names(config: Config, where: str) -> None:
    """Refuse what single-key checks cannot see: names used twice."""
    named: Mapping[str, list[str]] = {
        "workers": [group.name for group in config.workers],
        "clients.known": [client.id for client in config.clients.known],
    }
    for key, names in named.items():
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{where}: {key}: {name!r} is there {names.count(name)} times")
    if not config.workers:
        raise ConfigError(f"{where}: workers: found none; at least one is needed")


def check_binds(config: Config, where: str) -> None:
    """Refuse ports that are none, and strangers, unless those are asked for in writing."""
    transport, keys = config.transport, config.keys
    if not transport.bind:
        raise ConfigError(f"{where}: transport.bind: found none; at least one is needed")
    for index, address in enumerate(transport.bind):
        port = address.rpartition(":")[2]
        is_numbered = address.startswith("tcp://") and port != "*"
        if is_numbered and (len(port) > MOST_DIGITS or int(port) > LAST_PORT):
            raise ConfigError(
                f"{where}: transport.bind.{index}: found {address!r}; a port is at most {LAST_PORT}"
            )
        if not (
            keys.required
            or transport.insecure
            or address.startswith("ipc://")
            or _is_loopback(address)
        ):
            raise ConfigError(
                f"{where}: transport.bind.{index}: found {address!r}, which others can reach, and "
                "no keys are asked for; write keys.required = true (docs/operations.md, Keys), "
                "bind to 127.0.0.1, or write transport.insecure = true"
            )
    grpc = config.ingest.grpc
    tls = grpc.tls
    if grpc.bind and not (grpc.insecure or tls.certificate or _is_loopback(grpc.bind)):
        raise ConfigError(
            f"{where}: ingest.grpc.bind: found {grpc.bind!r}, which others can reach, and there is "
            "no TLS; write ingest.grpc.tls.certificate and key, bind to 127.0.0.1, or write "
            "ingest.grpc.insecure = true"
        )
    if bool(tls.certificate) != bool(tls.key) or (tls.client_ca and not tls.certificate):
        raise ConfigError(
            f"{where}: ingest.grpc.tls: certificate and key are needed together, and both for "
            f"client_ca; found certificate {tls.certificate!r}, key {tls.key!r}, client_ca "
            f"{tls.client_ca!r}"
        )
    for address in keys.server_key_of:
        if address not in transport.bind:
            raise ConfigError(
                f"{where}: keys.server_key_of: found {address!r}; allowed: an address of "
                f"transport.bind as it is written there: {', '.join(transport.bind)}"
            )


def _is_loopback(address: str) -> bool:
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name or an interface
        return False
