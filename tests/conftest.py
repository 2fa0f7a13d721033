"""What holds for every room's tests."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run, and no clock: a busy machine is not a failure.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
