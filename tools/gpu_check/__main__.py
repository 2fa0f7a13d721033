"""The command line. 0 only if all sections are good.

`--engine onnxruntime` runs what can be run on the CPU, to try this program itself.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import NoReturn

from appliance.engines.cuda.driver import CPU
from tools.gpu_check.models import MANIFESTS
from tools.gpu_check.program import Order, run, run_section
from tools.gpu_check.setting import Setting


def main() -> int:
    """Check; 0 if all is good."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu_check", description="Does this GPU do what it should?"
    )
    parser.add_argument("results", type=Path, metavar="RESULTS.json", nargs="?")
    parser.add_argument("--engine", choices=("tensorrt", "onnxruntime"), default="tensorrt")
    parser.add_argument("--device", default="cuda:0", metavar="NAME", help="(cuda:0)")
    parser.add_argument("--only", action="append", metavar="WORD", help="sections with this word")
    parser.add_argument("--models", action="append", choices=sorted(MANIFESTS), help="(all)")
    parser.add_argument(
        "--share", type=_share, default=1.0, metavar="PART", help="of runs and seconds (1.0)"
    )
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.section is not None:
        setting = Setting(arguments.work, arguments.device, arguments.share)
        print(json.dumps(run_section(arguments.section, setting), default=str))
        return 0
    if arguments.results is None:
        parser.error("the following arguments are required: RESULTS.json")
    try:
        arguments.results.open("a").close()
    except OSError as error:
        parser.error(f"the results cannot be written: {error}")
    order = Order(
        results=arguments.results,
        device=arguments.device if arguments.engine == "tensorrt" else CPU,
        models=arguments.models or list(MANIFESTS),
        words=arguments.only or (),
        share=arguments.share,
    )
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, _leave)
    try:
        return 0 if run(order) else 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0 and at most 1")
    return share


def _leave(number: int, _: object) -> NoReturn:
    """Unwind, so that nothing is left behind: no process, no folder."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
