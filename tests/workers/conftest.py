"""Hypothesis without its deadline: machines that test are shared, and slow at times."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
