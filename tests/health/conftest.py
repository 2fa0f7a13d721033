from __future__ import annotations

from pathlib import Path

import pytest
from support.fake_driver import FakeDriver, make_libraries


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_libraries(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def driver(libraries: Path, tmp_path: Path) -> FakeDriver:
    made = FakeDriver(libraries, tmp_path / "says")
    made.says()
    return made
