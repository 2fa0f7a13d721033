"""What holds for every room's tests."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # no report to its vendor from a test

# Tests interrupt programs that they start. A shell that runs this in the background has that
# ignored, and they would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, and no clock: a busy machine is not a failure.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
