"""The configuration: works empty, and every wrong thing names its key."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from appliance import config as room
from appliance.admission.buckets import RateLimiter
from appliance.config import ClientPolicy, Config, KnownClient, load
from appliance.errors import ConfigError, Rejected

WHOLE = """
appliance_id = "cell-4"

[transport]
bind = ["tcp://127.0.0.1:5555", "ipc:///run/appliance/robots"]
max_message_bytes = 1048576

[clients]
accept_unknown = false
[clients.defaults]
tier = 2
latency_budget_ms = 40
[[clients.known]]
id = "arm-3"
tier = 0
lateness = "firm"
[[clients.known]]
id = "base"

[scheduling]
overflow_policy = "reject_newest"

[rate_limits]
per_model_hz = { policy = 100, vision = 0.5 }

[[workers]]
name = "a"
count = 2
models = ["policy"]
[[workers]]
name = "b"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "appliance.toml"
    path.write_text(text)
    return path


def refusal(path: Path | None = None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value)


# ---------------------------------------------------------------------------------- what works


def test_nothing_at_all_is_a_working_configuration(tmp_path: Path) -> None:
    assert load() == Config()
    assert load(written(tmp_path, "")) == Config()
    assert load().transport.bind == ("tcp://127.0.0.1:5555",)
    assert [group.models for group in load().workers] == [("*",)]


def test_a_file_is_read_and_the_rest_is_default(tmp_path: Path) -> None:
    config = load(written(tmp_path, WHOLE))
    assert config.appliance_id == "cell-4"
    assert config.transport.bind == ("tcp://127.0.0.1:5555", "ipc:///run/appliance/robots")
    assert config.transport.send_hwm == 256
    assert config.rate_limits.per_model_hz == {"policy": 100.0, "vision": 0.5}
    assert [(group.name, group.count, group.models) for group in config.workers] == [
        ("a", 2, ("policy",)),
        ("b", 1, ("*",)),
    ]


def test_a_known_client_overrides_the_defaults_key_by_key(tmp_path: Path) -> None:
    clients = load(written(tmp_path, WHOLE)).clients
    assert clients.policy("arm-3") == ClientPolicy(tier=0, latency_budget_ms=40, lateness="firm")
    assert clients.policy("base") == ClientPolicy(tier=2, latency_budget_ms=40)
    assert clients.policy("stranger") is None


def test_unknown_clients_have_the_defaults_unless_refused() -> None:
    assert load().clients.policy("anybody") == ClientPolicy()


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("transport.insecure=true", ("transport", "insecure"), True),
        ("models.directory=./models", ("models", "directory"), "./models"),
        ('models.directory="2024"', ("models", "directory"), "2024"),
        ("drain.grace_s=3", ("drain", "grace_s"), 3.0),
        (
            'transport.bind=["ipc:///a", "ipc:///b"]',
            ("transport", "bind"),
            ("ipc:///a", "ipc:///b"),
        ),
        ("rate_limits.per_model_hz.policy=5", ("rate_limits", "per_model_hz"), {"policy": 5.0}),
        ("admin.socket=/tmp/a=b", ("admin", "socket"), "/tmp/a=b"),
        ("admin.socket=", ("admin", "socket"), ""),
    ],
)
def test_a_key_is_set_from_the_command_line(
    override: str, path: tuple[str, str], expected: object
) -> None:
    section, key = path
    assert getattr(getattr(load(None, [override]), section), key) == expected


def test_an_override_reaches_into_lists(tmp_path: Path) -> None:
    assert load(None, ["workers.0.count=3"]).workers[0].count == 3
    path = written(tmp_path, WHOLE)
    config = load(
        path,
        ["workers.1.count=4", "clients.known.0.tier=5", "transport.bind.1=ipc:///elsewhere"],
    )
    assert [group.count for group in config.workers] == [2, 4]
    assert config.clients.known[0].tier == 5
    assert config.transport.bind == ("tcp://127.0.0.1:5555", "ipc:///elsewhere")


def test_overrides_go_over_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    assert load(path, ["appliance_id=x", "appliance_id=y"]).appliance_id == "y"


def test_a_client_without_a_rate_of_its_own_has_that_of_every_client() -> None:
    config = load(None, ["rate_limits.per_client_hz=1", 'clients.known=[{id="a", max_rate_hz=0}]'])
    policy = config.clients.policy("a")
    assert policy is not None
    limiter = RateLimiter(config.rate_limits)
    limiter.check("a", "policy", policy.max_rate_hz, 0)
    with pytest.raises(Rejected, match="client 'a' is limited to 1 "):
        limiter.check("a", "policy", policy.max_rate_hz, 0)


# ------------------------------------------------------------------------------- what is refused


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.toml"
    assert refusal(path) == f"{path}: cannot be read: No such file or directory"
    assert refusal(tmp_path).startswith(f"{tmp_path}: cannot be read: ")


@pytest.mark.parametrize("data", [b"transport = [", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "appliance.toml"
    path.write_bytes(data)
    assert refusal(path).startswith(f"{path}: not TOML: ")


def keys(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the configuration that holds a value, with its type."""
    attrs.resolve_types(cls)
    for each in attrs.fields(cls):
        kind = each.type
        inner = kind if attrs.has(kind) else next(iter(getattr(kind, "__args__", ())), None)
        if isinstance(inner, type) and attrs.has(inner):
            number = "" if inner is kind else "0."
            yield from keys(inner, f"{prefix}{each.name}.{number}")
        else:
            yield prefix + each.name, kind


KEYS = dict(keys(Config))


def test_every_section_was_found() -> None:
    assert len(KEYS) > 45
    assert {"transport.bind", "clients.known.0.id", "workers.0.count", "drain.grace_s"} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_wrong_type_names_key_found_and_allowed(tmp_path: Path, key: str) -> None:
    path = written(tmp_path, '[[clients.known]]\nid = "arm"\n')
    message = refusal(path, f"{key}=1979-05-27")
    assert message.startswith(f"{path}: {key}: found datetime.date(1979, 5, 27); allowed: ")


@pytest.mark.parametrize("key", [key for key, kind in KEYS.items() if "float" in str(kind)])
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "-1", "1e300", "1e-300"])
def test_a_number_that_makes_no_sense_names_its_key(tmp_path: Path, key: str, number: str) -> None:
    path = written(tmp_path, '[[clients.known]]\nid = "arm"\n')
    value = f"{{ policy = {number} }}" if key.endswith("per_model_hz") else number
    message = refusal(path, f"{key}={value}")
    assert message.startswith(f"{path}: {key}: must be ")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("transprt.bind=1", "transprt: unknown key; allowed: appliance_id, transport, "),
        ("transport.binds=1", "transport.binds: unknown key; allowed: bind, insecure, "),
        ("workers.0.gpu=1", "workers.0.gpu: unknown key; allowed: name, count, "),
        ("transport.bind=[]x", "transport.bind: found "),
        ("transport.bind=ipc:///a", 'transport.bind: found "ipc:///a"; allowed: a list'),
        ('transport.bind=["udp://a"]', "transport.bind: must match regex 'tcp://.+:"),
        ("transport.bind=[]", "transport.bind: found none; "),
        ('transport.bind=["tcp://127.0.0.1"]', "transport.bind: must match regex"),
        ('transport.bind=["tcp://127.0.0.1:5555x"]', "transport.bind: must match regex"),
        ('transport.bind=["tcp://127.0.0.1:65536"]', "transport.bind.0: found 'tcp://127.0.0.1:6"),
        ("transport.send_hwm=99999999999", "transport.send_hwm: must be <= 1000000: 99999999999"),
        ("transport.heartbeat_interval_ms=60001", "transport.heartbeat_interval_ms: must be <= "),
        ("transport.insecure=yes", 'transport.insecure: found "yes"; allowed: true or false'),
        ("transport.max_message_bytes=1e6", "transport.max_message_bytes: found 1000000.0; "),
        ("transport.max_message_bytes=5", "transport.max_message_bytes: must be >= 1024: 5"),
        ("transport.receive_hwm=true", "transport.receive_hwm: found true; allowed: an integer"),
        ("clients.defaults.tier=10", "clients.defaults.tier: must be <= 9: 10"),
        ("clients.defaults.tier=-1", "clients.defaults.tier: must be >= 0: -1"),
        (
            "clients.defaults.keep=newest",
            'clients.defaults.keep: found "newest"; allowed: "latest", "all"',
        ),
        ("clients.known=[{tier = 1}]", "clients.known.0.id: is missing; it has no default"),
        ('clients.known=[{id = ""}]', "clients.known.0.id: must match regex"),
        ('clients.known=[{id = "a", tier = 10}]', "clients.known.0.tier: must be <= 9: 10"),
        ('clients.known=[{id = "a", max_queue = 0}]', "clients.known.0.max_queue: must be >= 1"),
        ("scheduling.overflow_policy=drop", 'scheduling.overflow_policy: found "drop"; allowed: '),
        ("scheduling.max_retries=11", "scheduling.max_retries: must be <= 10: 11"),
        ("workers=[]", "workers: found none; at least one is needed"),
        ("workers.0.device=gpu", "workers.0.device: must match regex 'cpu|cuda"),
        ("workers.0.name=a b", "workers.0.name: must match regex"),
        ("workers.0.hang_factor=1", "workers.0.hang_factor: must be > 1: 1.0"),
        ("arena.bytes=1", "arena.bytes: must be >= 1048576: 1"),
        ("transport=5", "transport: found 5; allowed: a table"),
    ],
)
def test_a_wrong_value_names_key_found_and_allowed(override: str, expected: str) -> None:
    message = refusal(None, override)
    assert message.startswith(f"configuration: {expected}"), message


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, '[transport]\ninsecure = 1\n[drain]\ngrace_s = "x"\nmore = 1\n')
    lines = refusal(path).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "transport.insecure",
        "drain.more",
        "drain.grace_s",
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("transport.insecure", "expected KEY=VALUE"),
        ("=1", "expected KEY=VALUE"),
        ("workers.count=2", "workers is a list; name an item by its number"),
        ("workers.2.count=2", "workers has no item 2; there are 1, the first is 0"),
        ("workers.-1.count=2", "workers is a list; name an item by its number"),
        ("workers.x=2", "workers is a list; name an item by its number"),
    ],
)
def test_an_override_that_leads_nowhere_says_so(override: str, expected: str) -> None:
    message = refusal(None, override)
    assert message.startswith(f"--set {override}: ")
    assert expected in message


@pytest.mark.parametrize(
    ("override", "at"),
    [
        ("appliance_id.x=1", "appliance_id"),
        ("transport.bind.0.x=1", "transport.bind.0"),
        ("transport.bind.0.x.y=1", "transport.bind.0"),
    ],
)
def test_an_override_does_not_reach_into_values(tmp_path: Path, override: str, at: str) -> None:
    message = refusal(written(tmp_path, WHOLE), override)
    assert message == f"--set {override}: {at} holds a value, not a table"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[workers]]\nname="a"\n[[workers]]\nname="a"\n', "workers: 'a' is there 2 times"),
        ("[[workers]]\n[[workers]]\n[[workers]]\n", "workers: 'cpu' is there 3 times"),
        (
            '[[clients.known]]\nid="a"\n[[clients.known]]\nid="b"\n[[clients.known]]\nid="a"\n',
            "clients.known: 'a' is there 2 times",
        ),
    ],
)
def test_a_name_is_used_once(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    assert refusal(path) == f"{path}: {expected}"


@pytest.mark.parametrize(
    "address",
    ["tcp://0.0.0.0:5555", "tcp://*:5555", "tcp://[::]:5555", "tcp://eth0:1", "tcp://10.0.0.1:1"],
)
def test_strangers_are_listened_to_only_if_that_is_written(address: str) -> None:
    bind = f'transport.bind=["ipc:///a", "{address}"]'
    message = refusal(None, bind)
    assert message.startswith(f"configuration: transport.bind.1: found {address!r}")
    assert "insecure = true" in message
    assert load(None, [bind, "transport.insecure=true"]).transport.bind[1] == address


def test_strangers_are_listened_to_if_they_need_keys() -> None:
    bind = 'transport.bind=["tcp://0.0.0.0:5555"]'
    assert "keys.required = true" in refusal(None, bind)
    assert load(None, [bind, "keys.required=true"]).keys.required


def test_a_key_for_an_address_that_is_not_bound_is_refused(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '[transport]\nbind = ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]\n'
        '[keys.server_key_of]\n"tcp://127.0.0.1:3" = "next"\n',
    )
    assert refusal(path) == (
        f"{path}: keys.server_key_of: found 'tcp://127.0.0.1:3'; allowed: an address of "
        "transport.bind as it is written there: tcp://127.0.0.1:1, tcp://127.0.0.1:2"
    )
    path.write_text(path.read_text().replace(":3", ":2"))
    assert load(path).keys.server_key_of == {"tcp://127.0.0.1:2": "next"}


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1:5555",
        "tcp://127.8.8.8:*",
        "tcp://[::1]:5555",
        "tcp://localhost:0",
        "ipc:///a",
    ],
)
def test_loopback_needs_no_consent(address: str) -> None:
    assert load(None, [f'transport.bind=["{address}"]']).transport.bind == (address,)


# --------------------------------------------------------------------------------- how it is told

SECTIONS = [
    cls
    for each in pkgutil.iter_modules(room.__path__, f"{room.__name__}.")
    for _, cls in inspect.getmembers(importlib.import_module(each.name), inspect.isclass)
    if cls.__module__ == each.name and attrs.has(cls)
]


@pytest.mark.parametrize("cls", SECTIONS, ids=lambda cls: cls.__name__)
def test_every_key_is_explained_and_no_other(cls: type) -> None:
    text = inspect.getdoc(cls)  # without the indentation, which Python 3.13 does not keep
    assert text
    explained = set(re.findall(r"^ {4}(\w+): ", text, re.MULTILINE))
    there = {each.name for each in attrs.fields(cls)}
    if cls in (Config, KnownClient):  # tables, and the keys of ClientPolicy
        assert not explained
    else:
        assert explained == there


def test_known_clients_may_say_all_that_the_defaults_say() -> None:
    policy, known = attrs.fields_dict(ClientPolicy), attrs.fields_dict(KnownClient)
    assert set(known) == {"id", *policy}


def test_the_defaults_are_finite() -> None:
    assert all(
        math.isfinite(value)
        for section in attrs.asdict(Config()).values()
        if isinstance(section, dict)
        for value in section.values()
        if isinstance(value, float)
    )


def test_secrets_are_where_the_service_manager_laid_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        '[keys]\nserver_directory = "$CREDENTIALS_DIRECTORY"\n'
        '[ingest.grpc.tls]\ncertificate = "$CREDENTIALS_DIRECTORY/c.pem"\n'
        'key = "$CREDENTIALS_DIRECTORY/tls.key"\n'
    )
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert load(path).keys.server_directory == "$CREDENTIALS_DIRECTORY"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/a")
    config = load(path)
    assert config.keys.server_directory == "/run/credentials/a"
    assert config.ingest.grpc.tls.key == "/run/credentials/a/tls.key"
    assert config.ingest.grpc.tls.certificate == "$CREDENTIALS_DIRECTORY/c.pem"  # no secret
    path.write_text('[keys]\nserver_directory = "/x/$CREDENTIALS_DIRECTORY"\n')
    assert load(path).keys.server_directory == "/x/$CREDENTIALS_DIRECTORY"
