"""A browser, and an appliance with its page. Skipped where there is no Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.browser import MISSING, Browser, browser, found
from support.page import page_box
from support.repository import add_sleep


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if found() is None:
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """arm, which takes 3 ms, and detector, which takes 20."""
    root = tmp_path_factory.mktemp("models")
    add_sleep(root, "arm", base_ms=3, per_row_ms=0.5)
    add_sleep(root, "detector", base_ms=20, per_row_ms=1)
    return root


@pytest.fixture(scope="session")
def looking() -> Iterator[Browser]:
    with browser() as running:
        running.size(1600, 1000)
        yield running


@pytest.fixture(scope="session")
def serving(models: Path) -> Iterator[Box]:
    with page_box(models) as running:
        yield running


@pytest.fixture
def quiet(looking: Browser) -> Iterator[None]:
    """Nothing is written to the console meanwhile: no error, nothing that the policy refuses."""
    looking.log()
    yield
    assert looking.log() == []
