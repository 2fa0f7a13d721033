"""Fixtures: an appliance that does as it is told, and a connection to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_appliance import PATIENCE_MS, FakeAppliance

from appliance.client.connection import Connection
from appliance.client.link import Link


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[FakeAppliance]:
    """An appliance that is up."""
    fake = FakeAppliance(f"ipc://{tmp_path}/wire")
    fake.start()
    yield fake
    fake.close()


@pytest.fixture
def connection(appliance: FakeAppliance) -> Iterator[Connection]:
    """A connection to it that is up, so that what is observed is sent at once."""
    with Connection(
        appliance.address, "r1", "sim", reconnect_ivl_ms=10, reconnect_max_ms=20
    ) as made:
        made._link.wait(lambda: made._link.up, PATIENCE_MS)
        assert made._link.up
        yield made


@pytest.fixture
def state() -> np.ndarray[Any, Any]:
    """What a small robot observes."""
    return np.arange(7, dtype=np.float32)


@pytest.fixture
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiters are woken by arrivals alone; looking again once a second would hide a lost one."""
    seldom = 1 << 60
    usual = Link.idle_ns.fget
    assert usual is not None

    def idle_ns(link: Link) -> int:
        return seldom if link._again_ns is None else usual(link)

    monkeypatch.setattr(Link, "idle_ns", property(idle_ns))
