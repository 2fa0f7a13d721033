"""`python -m support.slow_gatherer`: a worker process that takes so long over gathering a batch."""

from __future__ import annotations

import sys
import time

from appliance.engines import __main__ as program
from appliance.engines.gather import Gathered
from appliance.engines.model import LoadedModel
from appliance.wire.pb import worker_pb2

GATHERS_S = 0.02


def main() -> int:
    right = LoadedModel.gather

    def gather(model: LoadedModel, stage: worker_pb2.Stage) -> Gathered:
        time.sleep(GATHERS_S)
        return right(model, stage)

    LoadedModel.gather = gather
    return program.main()


if __name__ == "__main__":
    sys.exit(main())
