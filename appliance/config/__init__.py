"""The configuration: a frozen tree, read from TOML, overridden by `--set`, checked whole.

Every key has a default, so an empty file (or none) is a working configuration. `load()` is the
one way in; its errors name the key, what was found and what is allowed.

`doors`, `clients`, `serving` and `service` have the tables; `checks`, what single values may be;
`whole`, the tree and what its tables may not be together; `loading`, the way in. Imports
`appliance.structure` and `appliance.errors`; called by whatever is configured.
"""

from appliance.config.checks import NOT_NEGATIVE, POSITIVE
from appliance.config.clients import TIER, ClientPolicy, Clients, KnownClient, RateLimits
from appliance.config.doors import LAST_PORT, GrpcIngest, GrpcTls, Ingest, Keys, Transport
from appliance.config.loading import load
from appliance.config.service import Admin, Drain, Log, Recording
from appliance.config.serving import EVERY_MODEL, Arena, Models, Scheduling, Workers
from appliance.config.whole import Config

__all__ = [
    "EVERY_MODEL",
    "LAST_PORT",
    "NOT_NEGATIVE",
    "POSITIVE",
    "TIER",
    "Admin",
    "Arena",
    "ClientPolicy",
    "Clients",
    "Config",
    "Drain",
    "GrpcIngest",
    "GrpcTls",
    "Ingest",
    "Keys",
    "KnownClient",
    "Log",
    "Models",
    "RateLimits",
    "Recording",
    "Scheduling",
    "Transport",
    "Workers",
    "load",
]
