"""The command line. 0 only if all sections are good.

`--engine onnxruntime` runs what can be run on the CPU, to try this program itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

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
    parser.add_argument("--share", type=float, default=1.0, help="of runs and seconds (1.0)")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.section is not None:
        setting = Setting(arguments.work, arguments.device, arguments.share)
        print(json.dumps(run_section(arguments.section, setting), default=str))
        return 0
    if arguments.results is None:
        parser.error("the following arguments are required: RESULTS.json")
    order = Order(
        results=arguments.results,
        device=arguments.device if arguments.engine == "tensorrt" else CPU,
        models=arguments.models or list(MANIFESTS),
        words=arguments.only or (),
        share=arguments.share,
    )
    return 0 if run(order) else 1


if __name__ == "__main__":
    sys.exit(main())
