"""The configuration: a frozen tree, read from TOML, overridden by `--set`, checked whole.

Every key has a default, so an empty file (or none) is a working configuration. `load()` is the
one way in; its errors name the key, what was found and what is allowed.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import attrs
from attrs import field, frozen
from attrs.validators import (
    and_,
    deep_iterable,
    deep_mapping,
    ge,
    gt,
    instance_of,
    le,
    matches_re,
    optional,
)

from appliance.errors import ConfigError
from appliance.keys.files import NAME
from appliance.structure import read_toml, structure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MIB = 1 << 20
ADDRESS = r"tcp://.+:(\*|\d{1,5})|ipc://.+"
LAST_PORT = 65535
MOST_DIGITS = 5
"""Of a port, or of an item's number."""
EVERY_MODEL = "*"

LOOPBACK_NAMES = ("localhost", "lo")

CREDENTIALS = "$CREDENTIALS_DIRECTORY"
"""At the beginning of a secret's path: where the service manager has laid it, if one has."""
DEVICE = r"cpu|cuda(:\d{1,3})?"

Overflow = Literal["drop_oldest", "reject_newest"]

Validator = Callable[[Any, Any, Any], None]
SMALLEST, LARGEST = 1e-3, 1e9  # in nanoseconds, both are still sensible integers


def _not_negative(_: object, attribute: attrs.Attribute[Any], value: float) -> None:
    """Refuse what is neither 0 nor a sensible number."""
    if not (value == 0 or SMALLEST <= value <= LARGEST):
        raise ValueError(f"'{attribute.name}' must be 0, or {SMALLEST:g} to {LARGEST:g}: {value}")


def _http_url(_: object, attribute: attrs.Attribute[Any], value: str) -> None:
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
TIER: Validator = and_(ge(0), le(9))
PRIORITY: Validator = and_(ge(0), le(100))
ARENA_BYTES: Validator = ge(4096)
MAX_QUEUE: Validator = ge(1)
HIGH_WATER_MARK: Validator = and_(ge(1), le(1_000_000))


@frozen(kw_only=True)
class Transport:
    """The robots' door.

    Attributes:
        bind: Any number of `tcp://HOST:PORT` and `ipc://PATH`.
        insecure: Written consent to listen beyond loopback without keys (`keys.required`).
        max_message_bytes: A longer payload is TOO_LARGE; twice this ends the connection.
        receive_hwm: Messages queued per client before its socket blocks.
        send_hwm: Replies queued per client before it loses them.
        max_sessions: Connections remembered; beyond it, the longest silent is forgotten.
        disconnect_timeout_s: Silence after which a client counts as gone.
        heartbeat_interval_ms: ZMTP heartbeat; three missed end the connection.
        fast_path: Let ordinary observations take the compiled path, where there is one.
    """

    bind: tuple[str, ...] = field(
        default=("tcp://127.0.0.1:5555",),
        validator=deep_iterable(matches_re(ADDRESS)),
    )
    insecure: bool = False
    max_message_bytes: int = field(default=32 * MIB, validator=and_(ge(1024), le(1024 * MIB)))
    receive_hwm: int = field(default=64, validator=HIGH_WATER_MARK)
    send_hwm: int = field(default=256, validator=HIGH_WATER_MARK)
    max_sessions: int = field(default=4096, validator=ge(1))
    disconnect_timeout_s: float = field(default=10.0, validator=POSITIVE)
    heartbeat_interval_ms: int = field(default=1000, validator=and_(ge(10), le(60_000)))
    fast_path: bool = True


@frozen(kw_only=True)
class GrpcTls:
    """TLS of the gRPC door. Files are PEM, and are read again when they have changed.

    Attributes:
        certificate: With those between it and its root; empty: there is no TLS.
        key: Its private key, without a password; only its owner may be able to read it. May begin
            with `$CREDENTIALS_DIRECTORY`.
        client_ca: Who signs the certificates of clients. Each then needs one, and is who its
            common name says; empty: clients need none.
    """

    certificate: str = ""
    key: str = ""
    client_ca: str = ""


@frozen(kw_only=True)
class GrpcIngest:
    """The door for clients of the Open Inference Protocol.

    Attributes:
        bind: `HOST:PORT`; empty: there is no such door.
        insecure: Written consent to listen beyond loopback without TLS.
        tls: Certificates.
        tokens: Every call needs a token of `keys.directory`, and a client is whose that is.
        max_message_bytes: A longer message is refused by gRPC.
        max_calls: Calls under way; more are refused, and more than half as many of one client.
        model_control: Let clients load and unload models, as `appliance models` does.
        shared_memory: Let clients on this machine lay tensors into shared memory of theirs.
        shared_memory_prefix: What the names of their regions begin with.
        shared_memory_owners: Users, by number, whose regions are taken beside those of the user
            that the appliance runs as.
        traces: URL of an OTLP/HTTP collector that is sent spans of calls; empty: none are made.
            Needs the extra `otel`.
    """

    bind: str = field(default="", validator=matches_re(r"(.+:\d{1,5})?"))
    insecure: bool = False
    tls: GrpcTls = GrpcTls()
    tokens: bool = False
    max_message_bytes: int = field(default=64 * MIB, validator=and_(ge(1024), le(1024 * MIB)))
    max_calls: int = field(default=1024, validator=and_(ge(1), le(100_000)))
    model_control: bool = False
    shared_memory: bool = False
    shared_memory_prefix: str = field(default="/", validator=matches_re(r"/[^/]*"))
    shared_memory_owners: tuple[int, ...] = field(default=(), validator=deep_iterable(ge(0)))
    traces: str = field(default="", validator=_http_url)


@frozen(kw_only=True)
class Ingest:
    """Doors beside the robots' own.

    Attributes:
        grpc: That of the Open Inference Protocol.
    """

    grpc: GrpcIngest = GrpcIngest()


@frozen(kw_only=True)
class Keys:
    """Who may come, by the CURVE key it holds.

    Attributes:
        required: Every `tcp://` bind asks for keys, and a client is who its key says.
        ipc: So does every `ipc://` bind; if not, who may open the file comes as who it says.
        directory: Holds `server/`, `authorised/` and `revoked/`.
        server_directory: Holds the appliance's own keys instead of `server/`. May begin with
            `$CREDENTIALS_DIRECTORY`.
        server_key: Which of `server/` the appliance itself has.
        server_key_of: Which it has at one address of `transport.bind`, instead.
    """

    required: bool = False
    ipc: bool = False
    directory: str = "./keys"
    server_directory: str = ""
    server_key: str = field(default="main", validator=matches_re(NAME))
    server_key_of: dict[str, str] = field(
        factory=dict[str, str], validator=deep_mapping(instance_of(str), matches_re(NAME))
    )


@frozen(kw_only=True)
class ClientPolicy:
    """What holds for a client. Unset keys of a known client come from `clients.defaults`.

    Attributes:
        tier: 0 is most important.
        priority: Rank within the tier where the wire says nothing; lower first.
        latency_budget_ms: For clients that send none: arrival to answer.
        keep: Which of its waiting observations are kept, where the wire says nothing.
        lateness: Whether it is refused rather than late, where the wire says nothing.
        max_rate_hz: Observations a second over all models; 0: `rate_limits.per_client_hz` holds.
        arena_bytes: Shared memory its waiting observations may take.
        max_queue: Waiting observations per model with `keep = all`.
    """

    tier: int = field(default=1, validator=TIER)
    priority: int = field(default=1, validator=PRIORITY)
    latency_budget_ms: float = field(default=50.0, validator=POSITIVE)
    keep: Literal["latest", "all"] = "latest"
    lateness: Literal["firm", "soft"] = "soft"
    max_rate_hz: float = field(default=0.0, validator=NOT_NEGATIVE)
    arena_bytes: int = field(default=64 * MIB, validator=ARENA_BYTES)
    max_queue: int = field(default=64, validator=MAX_QUEUE)


@frozen(kw_only=True)
class KnownClient:
    """One client by its id; every key but `id` is optional."""

    id: str = field(validator=matches_re(r".{1,255}"))
    tier: int | None = field(default=None, validator=optional(TIER))
    priority: int | None = field(default=None, validator=optional(PRIORITY))
    latency_budget_ms: float | None = field(default=None, validator=optional(POSITIVE))
    keep: Literal["latest", "all"] | None = None
    lateness: Literal["firm", "soft"] | None = None
    max_rate_hz: float | None = field(default=None, validator=optional(NOT_NEGATIVE))
    arena_bytes: int | None = field(default=None, validator=optional(ARENA_BYTES))
    max_queue: int | None = field(default=None, validator=optional(MAX_QUEUE))


@frozen(kw_only=True)
class Clients:
    """Who may come, and what holds for them.

    Attributes:
        defaults: For everybody.
        known: `[[clients.known]]` tables, one for each client that differs from them.
        accept_unknown: Whether others may come; they hear FORBIDDEN if not.
    """

    defaults: ClientPolicy = ClientPolicy()
    known: tuple[KnownClient, ...] = ()
    accept_unknown: bool = True

    def policy(self, client_id: str) -> ClientPolicy | None:
        """Return what holds for `client_id`, or None if it may not come."""
        for known in self.known:
            if known.id == client_id:
                own = attrs.asdict(known, filter=lambda a, v: a.name != "id" and v is not None)
                return attrs.evolve(self.defaults, **own)
        return self.defaults if self.accept_unknown else None


@frozen(kw_only=True)
class Scheduling:
    """The queue.

    Attributes:
        request_ttl_ms: Nobody waits longer in the queue: EXPIRED.
        max_queue_size: Waiting requests over all clients.
        overflow_policy: What a full queue does: drop its oldest, or refuse the newcomer.
        max_retries: Further tries of a row after the engine failed on it alone.
        strategy: Who chooses what runs next: a registered name, an entry point of the group
            `appliance.schedulers`, or `module:attribute`. Checked where it is loaded.
        parameters: For the strategy.
    """

    request_ttl_ms: float = field(default=5000.0, validator=POSITIVE)
    max_queue_size: int = field(default=1000, validator=ge(1))
    overflow_policy: Overflow = "drop_oldest"
    max_retries: int = field(default=0, validator=and_(ge(0), le(10)))
    strategy: str = "deadline_aware"
    parameters: dict[str, Any] = field(factory=dict[str, Any])


@frozen(kw_only=True)
class RateLimits:
    """Token buckets, observations a second; 0 is unlimited.

    Attributes:
        global_hz: Over all clients and models.
        per_client_hz: For each client whose `max_rate_hz` is 0.
        per_model_hz: By model name.
        burst_s: Depth of each bucket, as so many seconds' worth; at least one observation.
    """

    global_hz: float = field(default=0.0, validator=NOT_NEGATIVE)
    per_client_hz: float = field(default=0.0, validator=NOT_NEGATIVE)
    per_model_hz: dict[str, float] = field(
        factory=dict[str, float], validator=deep_mapping(instance_of(str), NOT_NEGATIVE)
    )
    burst_s: float = field(default=0.5, validator=POSITIVE)


@frozen(kw_only=True)
class Models:
    """The repository.

    Attributes:
        directory: Holds `<model>/model.toml` and `<model>/<version>/`.
    """

    directory: str = "./models"


@frozen(kw_only=True)
class Workers:
    """One `[[workers]]` table: `count` processes on `device` that host the models named.

    Attributes:
        name: Of the group; its processes are `name-0`, `name-1` and so on.
        count: Processes.
        device: What they compute on: `cpu`, `cuda` (that is, `cuda:0`) or `cuda:N`.
        models: Names; `*` is every model of the repository, each of which some table must name.
        start_timeout_s: Without any progress while loading.
        hang_floor_ms: No batch is called hung before this; above it, see `hang_factor`.
        hang_factor: Times the slowest batch seen.
    """

    name: str = field(default="cpu", validator=matches_re(NAME))
    count: int = field(default=1, validator=and_(ge(1), le(64)))
    device: str = field(default="cpu", validator=matches_re(DEVICE))
    models: tuple[str, ...] = (EVERY_MODEL,)
    start_timeout_s: float = field(default=120.0, validator=POSITIVE)
    hang_floor_ms: float = field(default=2000.0, validator=POSITIVE)
    hang_factor: float = field(default=10.0, validator=and_(gt(1), le(LARGEST)))


@frozen(kw_only=True)
class Arena:
    """Shared memory for observations and outputs.

    Attributes:
        bytes: Its size, reserved at start and taken as it is used.
    """

    bytes: int = field(default=256 * MIB, validator=and_(ge(MIB), le(64 * 1024 * MIB)))


@frozen(kw_only=True)
class Admin:
    """The local socket that `appliance status` asks.

    Attributes:
        socket: Empty: `/run/appliance/appliance.sock` if that directory is writable, else
            `appliance.sock` in `$XDG_RUNTIME_DIR` or the temporary directory.
        listen: Optional `HOST:PORT` on loopback for Prometheus; empty is off.
    """

    socket: str = ""
    listen: str = ""


@frozen(kw_only=True)
class Log:
    """structlog to standard error.

    Attributes:
        level: The least that is written.
        format: `console` for people, `json` for machines; `auto` looks who reads.
        access_sample: Of how many answered requests one is logged; refusals are sampled too,
            at most one a second for each cause. 0 is off.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    access_sample: int = field(default=1000, validator=ge(0))


@frozen(kw_only=True)
class Drain:
    """The orderly stop.

    Attributes:
        grace_s: How long it may take before what is left is expired and cancelled.
    """

    grace_s: float = field(default=10.0, validator=NOT_NEGATIVE)


@frozen(kw_only=True)
class Recording:
    """The ring in memory that an incident writes to a file.

    Attributes:
        directory: Where to; empty: there is no ring.
        seconds: How far back it reaches.
        bytes: What it may hold.
        images: With the bytes of images.
        misses: So many within a second are an incident, as the loss of a worker is; 0: never.
        pause_s: After an incident nothing is another for so long.
        total_bytes: Of all its files; the oldest make room.
    """

    directory: str = ""
    seconds: float = field(default=10.0, validator=and_(ge(0.1), le(3600)))
    bytes: int = field(default=32 * MIB, validator=and_(ge(MIB), le(64 * 1024 * MIB)))
    images: bool = False
    misses: int = field(default=20, validator=and_(ge(0), le(100_000)))
    pause_s: float = field(default=60.0, validator=POSITIVE)
    total_bytes: int = field(default=1024 * MIB, validator=ge(MIB))

    def __attrs_post_init__(self) -> None:
        """Refuse a ring that would not fit where it is written to."""
        if self.bytes > self.total_bytes:
            raise ValueError(
                f"bytes: found {self.bytes}; at most total_bytes, {self.total_bytes}, is allowed"
            )


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
    _check_names(config, where)
    _check_binds(config, where)
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


def _check_names(config: Config, where: str) -> None:
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


def _check_binds(config: Config, where: str) -> None:
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
