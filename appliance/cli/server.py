"""`serve` and `check-config`: the commands that read a configuration."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import attrs

from appliance.cli import NOT_QUITE, OK
from appliance.cli.socket_path import default_socket_path
from appliance.config import Config, load
from appliance.engines.cuda.driver import CPU
from appliance.errors import ConfigError

PROBE_S = 60


def serve(arguments: argparse.Namespace) -> int:
    """Run the appliance until it is told to stop; return its exit code."""
    config = configuration(arguments)
    _check_devices(config)
    from appliance.app import serve as run  # after the check: it takes a while to import
    from appliance.cli.logs import configure

    configure(config.log)
    file = Path(arguments.config) if arguments.config else None
    return run(config, lambda: configuration(arguments), file=file, standby=arguments.standby)


def _check_devices(config: Config) -> None:
    """Make sure that there is what workers are to compute on: the CPU never takes its place.

    A process of its own looks, for this one must not: it forks.

    Raises:
        ConfigError: There is not: which, why, and what to do.
    """
    for group in config.workers:
        if group.device == CPU:
            continue
        command = [sys.executable, "-m", "appliance.engines", "--probe", group.device]
        try:
            probe = subprocess.run(  # noqa: S603  the device is checked by its pattern
                command, capture_output=True, text=True, check=False, timeout=PROBE_S
            )
        except subprocess.TimeoutExpired:
            why = f"the driver does not answer within {PROBE_S} s; see `nvidia-smi`"
        else:
            if probe.returncode == 0:
                continue
            lines = probe.stderr.strip().splitlines()
            why = lines[-1] if lines else f"looking for it ended with status {probe.returncode}"
        raise ConfigError(f"workers.{group.name}.device: {group.device} cannot be used: {why}")


def configuration(arguments: argparse.Namespace) -> Config:
    """Return the configuration: the file, overridden by `--set`, overridden by the other flags.

    `admin.socket` is never empty in it.

    Raises:
        ConfigError: It cannot be used.
    """
    overrides: list[str] = list(arguments.set)
    for key, value in (
        ("models.directory", arguments.models),
        ("transport.bind", arguments.bind),
        ("ingest.grpc.bind", arguments.grpc),
        ("admin.socket", arguments.socket),
    ):
        if value is not None:
            # Quoted, so that a directory named 2024 stays a string.
            overrides.append(f"{key}={json.dumps(value, ensure_ascii=False)}")
    config = load(Path(arguments.config) if arguments.config else None, overrides)
    if config.admin.socket:
        return config
    return attrs.evolve(config, admin=attrs.evolve(config.admin, socket=default_socket_path()))


def check_config(arguments: argparse.Namespace) -> int:
    """Print `ok` and what the file comes to, or the error."""
    try:
        config = load(Path(arguments.config))
        models = _models(config, arguments.config)
        _check_strategy(config, arguments.config)
        _check_traces(config, arguments.config)
        _check_certificate(config)
    except ConfigError as error:
        print(f"appliance: error: {error}", file=sys.stderr)
        return NOT_QUITE
    for line in ["ok", *summary(config, models)]:
        print(line)
    return OK


def _check_certificate(config: Config) -> None:
    """Check what the gRPC door has, if it is there: a configuration may be checked elsewhere.

    Raises:
        ConfigError: It cannot be used, or has expired.
    """
    tls = config.ingest.grpc.tls
    if all(Path(each).exists() for each in (tls.certificate, tls.key) if each) and tls.certificate:
        from appliance.ingest.certificates import check

        check(tls)


def _models(config: Config, where: str) -> list[str] | None:
    """Return the models of the repository, to which the configuration fits.

    None if it is not there: a configuration may be checked elsewhere than where it is used.

    Raises:
        ConfigError: It does not fit, or the repository cannot be read.
    """
    from appliance.models.repository import Repository
    from appliance.workers.placement import slots_of

    directory = Path(config.models.directory)
    if not directory.exists():
        return None
    try:
        entries = Repository(directory).scan()
        slots_of(config, entries)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return [entry.name for entry in entries]


def _check_strategy(config: Config, where: str) -> None:
    """Raise ConfigError if the strategy cannot be loaded here."""
    from appliance.dispatch.strategy import strategy_of

    try:
        strategy_of(config.scheduling)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_traces(config: Config, where: str) -> None:
    """Raise ConfigError if spans are asked for and cannot be made here."""
    if config.ingest.grpc.traces:
        from appliance.ingest.bridge import load_spans

        try:
            load_spans(config.ingest.grpc)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


def summary(config: Config, models: list[str] | None) -> list[str]:
    """Say in a few lines what a configuration comes to; `models` is None if nobody knows them."""
    held = "not there, so its models are not checked" if models is None else ", ".join(models)
    clients, defaults = config.clients, config.clients.defaults
    others = "welcome" if clients.accept_unknown else "refused"
    workers = [f"{each.name}: {each.count} on {each.device}" for each in config.workers]
    rules = [
        f"tier {defaults.tier}",
        f"{defaults.latency_budget_ms:g} ms",
        f"keep {defaults.keep}",
        defaults.lateness,
    ]
    return [
        f"  binds    {', '.join(config.transport.bind)}",
        f"  models   {config.models.directory}: {held or 'none'}",
        f"  workers  {', '.join(workers)}",
        f"  keys     {_keys(config)}",
        f"  clients  {len(clients.known)} known, others {others}; default {', '.join(rules)}",
        f"  arena    {config.arena.bytes / (1 << 20):g} MiB",
        f"  admin    {config.admin.socket or default_socket_path()}",
    ]


def _keys(config: Config) -> str:
    """Say where keys are asked for."""
    keys = config.keys
    if not keys.required:
        return "not asked for"
    binds = "tcp:// and ipc://" if keys.ipc else "tcp://"
    return f"asked for at {binds}; {keys.directory}, server key {keys.server_key}"
