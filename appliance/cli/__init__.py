"""The command `appliance`: arguments in, exit code out.

Whatever a command needs is imported when it runs, so that `appliance status` is quick. May import
everything; nobody imports it but the entry point and `python -m appliance`.

Exit codes: 0 done, or ready; 1 not quite (`status`: degraded, starting or draining;
`check-config`: the file cannot be used; `plan`: beyond the target; `doctor`: warnings); 2 usage,
configuration, no appliance there, or something that `doctor` found wrong; 3 `models activate` and
`rollback`: whether the version that is active now is served is not known.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from appliance.errors import ApplianceError

if TYPE_CHECKING:
    import argparse

OK, NOT_QUITE, ERROR, NOT_KNOWN, INTERRUPTED = 0, 1, 2, 3, 130

_EXTRAS = {"demo": "demo"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A user's mistake is one line, no traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and words[:1] == ["serve"]:
        _end_at_signals()
    from appliance.cli.parser import parse

    try:
        arguments = parse(words)
        code = _run(arguments)
        sys.stdout.flush()
    except SystemExit as stop:  # argparse has said why
        code = stop.code if isinstance(stop.code, int) else ERROR
    except ApplianceError as error:
        code = _fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "appliance"):
            raise
        extra = _EXTRAS.get(words[0], "server")
        code = _fail(f"{package} is not installed: pip install 'appliance[{extra}]'")
    except BrokenPipeError:  # the reader, as in `appliance clients | head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = NOT_QUITE
    except KeyboardInterrupt:
        code = INTERRUPTED
    return code


def _end_at_signals() -> None:
    """Let SIGTERM and SIGINT end this program with 0 until the appliance takes them itself.

    Nothing is to be drained yet, and an exception could not be raised safely: it would come out
    of whatever is being imported.
    """

    def leave(*_: object) -> None:
        os._exit(OK)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)


def _run(arguments: argparse.Namespace) -> int:
    command: str = arguments.command
    code: int
    if command in ("demo", "doctor", "infer", "plan", "replay", "top"):
        code = import_module(f"appliance.cli.{command}").run(arguments)
        return code
    if command in ("serve", "check-config"):
        from appliance.cli import server

        return server.serve(arguments) if command == "serve" else server.check_config(arguments)
    if command == "keys":
        from appliance.cli import keys

        return keys.COMMANDS[arguments.action](arguments)
    if command in ("record", "trace"):
        from appliance.cli import record, trace

        return record.record(arguments) if command == "record" else trace.trace(arguments)
    if command == "models" and arguments.action not in ("list", "load", "unload"):
        name = "building" if arguments.action in ("build", "gc") else "versions"
        code = import_module(f"appliance.cli.{name}").COMMANDS[arguments.action](arguments)
        return code
    from appliance.cli import asking

    return asking.COMMANDS[command](arguments)


def _fail(message: str) -> int:
    print(f"appliance: error: {message}", file=sys.stderr)
    return ERROR
