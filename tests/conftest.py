"""What holds for every room's tests."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # no report to its vendor from a test

# The same examples in every run, and no clock: a busy machine is not a failure.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
