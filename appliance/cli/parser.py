"""What may be written after `appliance`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from appliance import __version__

if TYPE_CHECKING:
    from argparse import _SubParsersAction  # pyright: ignore[reportPrivateUsage]

    Commands = _SubParsersAction[argparse.ArgumentParser]


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments, with the command's name as `command`.

    Raises:
        SystemExit: For `--help` and `--version` (0) and for mistakes (2), after saying why.
    """
    parser = argparse.ArgumentParser(
        prog="appliance",
        description="An inference appliance for robot fleets.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"appliance {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _serving(commands)
    _asking(commands)
    _keys(commands)
    _recording(commands)
    _trace(commands)
    _plan(commands)
    _infer(commands)
    demo = commands.add_parser("demo", help="run models and simulated robots, and show them")
    if words and words[0] == "demo":  # only then pay for its imports
        from appliance.cli.demo import add_arguments

        add_arguments(demo)
    return parser.parse_args(words)


def _infer(commands: Commands) -> None:
    infer = commands.add_parser("infer", help="ask a model once, over gRPC")
    infer.add_argument("model", metavar="MODEL")
    for kind, what in (
        ("image", "a JPEG or PNG, sent as it is"),
        ("audio", "a WAV or FLAC, sent as it is"),
        ("tensor", "an array that numpy saved (.npy)"),
        ("text", "the text itself"),
    ):
        infer.add_argument(
            f"--{kind}",
            metavar="[INPUT=]" + ("TEXT" if kind == "text" else "FILE"),
            action="append",
            default=[],
            help=what,
        )
    infer.add_argument("--grpc", metavar="HOST:PORT", default="127.0.0.1:8001", help="whom to ask")
    for name, what in (
        ("ca", "who signs its certificate (PEM): ask over TLS; its token is in APPLIANCE_TOKEN"),
        ("certificate", "our own certificate (PEM), where it asks for one"),
        ("key", "the key of that (PEM)"),
    ):
        infer.add_argument(f"--{name}", metavar="FILE", help=what)
    infer.add_argument(
        "--timeout-ms", metavar="MS", type=_positive(float), default=10_000.0, help="(10000)"
    )
    infer.add_argument("--json", action="store_true", help="a document instead of lines")


def _serving(commands: Commands) -> None:
    serve = commands.add_parser("serve", help="run the appliance")
    serve.add_argument("--config", metavar="FILE", help="configuration (TOML)")
    serve.add_argument("--models", metavar="DIR", help="model repository")
    serve.add_argument(
        "--bind",
        metavar="ADDR",
        action="append",
        help="tcp://HOST:PORT or ipc://PATH; may be given again",
    )
    serve.add_argument(
        "--grpc", metavar="HOST:PORT", help="serve the Open Inference Protocol there, too"
    )
    _add_socket(serve)
    serve.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any key of the configuration, as in scheduling.max_queue_size=100",
    )
    serve.add_argument(
        "--standby",
        action="store_true",
        help="load the models and wait; take the place of the instance that serves when it ends",
    )
    check = commands.add_parser("check-config", help="say whether a configuration can be used")
    check.add_argument("config", metavar="FILE")


def _asking(commands: Commands) -> None:
    status = commands.add_parser("status", help="how it goes; exits 0 if ready, else 1 or 2")
    status.add_argument("--watch", action="store_true", help="again each second, until Ctrl-C")
    top = commands.add_parser("top", help="robots, models and workers on a full screen")
    top.add_argument(
        "--period",
        metavar="S",
        type=_at_least(0.1),
        default=1.0,
        help="seconds between two looks (1.0)",
    )
    _add_socket(top)
    clients = commands.add_parser("clients", help="who is connected, and how they are served")
    models = commands.add_parser("models", help="what is served")
    actions = models.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="every model with its state")
    for each in (status, clients, listing):
        _add_socket(each)
        each.add_argument("--json", action="store_true", help="the document instead of a table")
    load = actions.add_parser("load", help="serve a model as it lies in the repository now")
    unload = actions.add_parser("unload", help="serve a model no more")
    for each in (load, unload):
        _add_socket(each)
        each.add_argument("model", metavar="MODEL")
    _versions(actions)
    doctor = commands.add_parser(
        "doctor", help="what is wrong on this box, and what to do; exits 0 if nothing, else 1 or 2"
    )
    doctor.add_argument(
        "--config",
        metavar="FILE",
        help="configuration (/etc/appliance/appliance.toml if it is there)",
    )
    _add_socket(doctor)
    doctor.add_argument("--json", action="store_true", help="the document instead of lines")
    drain = commands.add_parser("drain", help="finish what is in flight, then stop")
    _add_socket(drain)
    drain.add_argument("--wait", action="store_true", help="return when it has stopped")
    reload = commands.add_parser("reload", help="read the configuration again, and apply it")
    _add_socket(reload)


def _versions(actions: Commands) -> None:
    versions = actions.add_parser("versions", help="what the repository holds")
    verify = actions.add_parser("verify", help="compare what a version answers; 0 if it is good")
    activate = actions.add_parser("activate", help="verify a version, and have it served")
    rollback = actions.add_parser("rollback", help="have the version before served again")
    build = actions.add_parser("build", help="build the TensorRT engine of a version")
    collect = actions.add_parser("gc", help="remove the engines of versions that are gone")
    for each in (versions, verify, activate, rollback, build, collect):
        _add_socket(each)
        each.add_argument(
            "--models", metavar="DIR", help="model repository (that of the appliance that runs)"
        )
    for each in (versions, verify, activate, build):
        each.add_argument("--json", action="store_true", help="a document instead of text")
    for each in (verify, activate, rollback, build):
        each.add_argument("model", metavar="MODEL")
    for each in (verify, activate, build):
        each.add_argument("version", metavar="VERSION", nargs="?", help="(the latest)")
    for each in (verify, activate):
        each.add_argument(
            "--rounds",
            metavar="N",
            type=_positive(int),
            default=3,
            help="runs of each batch size (3)",
        )
        each.add_argument("--seed", metavar="N", type=int, help="of the made-up rows (any)")
        each.add_argument(
            "--device", metavar="NAME", help="cpu, cuda or cuda:N (where it is served; else cpu)"
        )
        each.add_argument(
            "--recording", metavar="FILE", help="its observations instead of made-up rows"
        )
    build.add_argument(
        "--capability",
        metavar="X.Y",
        action="append",
        help="compute capability of the GPU; may be repeated (8.6, 8.9, 12.0 and later); "
        "`current`: that of the one that is here",
    )
    for each in (build, collect):
        each.add_argument(
            "--cache", metavar="DIR", help="of engines (/var/cache/appliance/engines)"
        )
    activate.add_argument("--unverified", action="store_true", help="whatever it answers")


def _keys(commands: Commands) -> None:
    keys = commands.add_parser("keys", help="who may come: make keys, list and revoke them")
    actions = keys.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="make a client's key and authorise it")
    new.add_argument("name", metavar="NAME", help="the client's id")
    new.add_argument(
        "--out", metavar="FILE", help="where the client's secret goes; NAME.key if left out"
    )
    new.add_argument(
        "--server-key", metavar="NAME", help="the key of the appliance that it is to expect"
    )
    new_server = actions.add_parser("new-server", help="make another key of the appliance's own")
    new_server.add_argument("name", metavar="NAME", help="what to call it")
    listing = actions.add_parser("list", help="every client's key, the revoked ones too")
    listing.add_argument("--json", action="store_true", help="a document instead of a table")
    revoke = actions.add_parser("revoke", help="let a client come no more with the key it has")
    revoke.add_argument("name", metavar="NAME", help="the client's id")
    show = actions.add_parser("show", help="a client's public key, or the appliance's own")
    show.add_argument("name", metavar="NAME", nargs="?", help="the client's id")
    new_token = actions.add_parser("new-token", help="make an API token for the gRPC door")
    new_token.add_argument("name", metavar="NAME", help="the client's id")
    revoke_token = actions.add_parser("revoke-token", help="let a client's API token hold no more")
    revoke_token.add_argument("name", metavar="NAME", help="the client's id")
    tokens = actions.add_parser("tokens", help="who has an API token")
    for each in (new, new_server, listing, revoke, show, new_token, revoke_token, tokens):
        each.add_argument("--config", metavar="FILE", help="configuration that says where they are")
        each.add_argument("--directory", metavar="DIR", help="where they are: keys.directory")

    certificate = actions.add_parser(
        "check-certificate", help="say whether clients of the gRPC door could take it, today"
    )
    certificate.add_argument("certificate", metavar="CERTIFICATE", help="PEM")
    certificate.add_argument("key", metavar="KEY", help="of that (PEM)")
    certificate.add_argument("--client-ca", metavar="FILE", help="who signs those of clients")


def _recording(commands: Commands) -> None:
    record = commands.add_parser("record", help="write what happens to an MCAP file")
    record.add_argument("output", metavar="OUT.mcap", help="written by the appliance, not by us")
    end = record.add_mutually_exclusive_group()
    end.add_argument(
        "--seconds",
        metavar="N",
        type=_positive(float),
        help="end after so long; with --trigger: how far back",
    )
    end.add_argument("--bytes", metavar="N", type=_positive(int), help="end at this size")
    record.add_argument(
        "--trigger", choices=["miss"], help="write the last seconds when a robot misses an action"
    )
    record.add_argument("--no-images", action="store_true", help="leave the bytes of images out")
    _add_socket(record)
    replay = commands.add_parser("replay", help="send a recording again, and compare the answers")
    replay.add_argument("file", metavar="FILE", help="what `appliance record` wrote")
    replay.add_argument(
        "--speed", metavar="X", type=_positive(float), default=1.0, help="times as fast (1.0)"
    )
    replay.add_argument(
        "--server", metavar="ADDR", default="tcp://127.0.0.1:5555", help="tcp://HOST:PORT, ipc://…"
    )
    replay.add_argument(
        "--keys",
        metavar="FILE|DIR",
        help="key file of the recorded client, or a directory with a NAME.key for each",
    )
    replay.add_argument(
        "--tolerance",
        metavar="T",
        type=_positive(float, zero=True),
        default=1e-4,
        help="of floating-point outputs, absolute and relative (1e-4)",
    )
    replay.add_argument("--json", action="store_true", help="the document instead of a table")


def _trace(commands: Commands) -> None:
    trace = commands.add_parser(
        "trace", help="write who was in which batch, and when, for ui.perfetto.dev"
    )
    trace.add_argument("seconds", metavar="SECONDS", type=_positive(float), help="so long from now")
    trace.add_argument("output", metavar="OUT.json", help="a file that is not there yet")
    trace.add_argument(
        "--last", action="store_true", help="the last SECONDS instead, as far as they are kept: 30"
    )
    _add_socket(trace)


def _plan(commands: Commands) -> None:
    plan = commands.add_parser("plan", help="how many robots a box will carry, in virtual time")
    plan.add_argument("fleet", metavar="FLEET.toml", nargs="?", help="robots, engines, workers")
    plan.add_argument("--json", action="store_true", help="the document instead of a table")
    plan.add_argument("--plot", metavar="FILE.png", help="draw what is missed by how many robots")
    plan.add_argument(
        "--without-advice", action="store_true", help="robots do not follow phase advice"
    )
    plan.add_argument(
        "--processes", metavar="N", type=int, choices=(1, 2), default=2, help="1 or 2 (2)"
    )
    plan.add_argument(
        "--replay",
        metavar="FILE.mcap",
        help="serve a recording's observations instead; FLEET.toml may change models and workers",
    )
    plan.add_argument(
        "--config",
        metavar="FILE",
        help="with --replay: the configuration it was recorded with, for tiers and workers",
    )


def _positive(kind: type[int | float], *, zero: bool = False) -> Callable[[str], float]:
    def number(text: str) -> float:
        found = kind(text)
        if not (found > 0 or (zero and found == 0)) or found == float("inf"):
            raise argparse.ArgumentTypeError(f"{text}: a positive number is expected")
        return found

    return number


def _at_least(least: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        found = float(text)
        if not least <= found < float("inf"):
            raise argparse.ArgumentTypeError(f"{text}: a number from {least:g} is expected")
        return found

    return number


def _add_socket(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--socket", metavar="PATH", help="admin socket")
