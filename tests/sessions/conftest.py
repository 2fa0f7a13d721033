"""Cores for the tests of the fast path; closed where Trio runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.pair import Pair


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    with closing(Pair(tmp_path)) as made:
        yield made


@pytest.fixture
async def stack() -> AsyncIterator[ExitStack]:
    with ExitStack() as stack:
        yield stack
