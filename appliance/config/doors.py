"""Tables of the doors, and of the keys that open them."""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import and_, deep_iterable, deep_mapping, ge, instance_of, le, matches_re

from appliance.config.checks import MIB, POSITIVE, Validator, http_url
from appliance.keys.files import NAME

LAST_PORT = 65535
MOST_DIGITS = 5
"""Of a port, or of an item's number."""
ADDRESS = r"tcp://.+:(\*|\d{1,5})|ipc://.+"
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
    traces: str = field(default="", validator=http_url)


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
