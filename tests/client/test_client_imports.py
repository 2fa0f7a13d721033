"""What importing costs, and what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import appliance

ROOT = Path(appliance.__file__).parents[1]


def modules_after(statement: str) -> set[str]:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_package_itself_loads_nothing() -> None:
    loaded = modules_after("import appliance; dir(appliance)")
    assert not loaded & {"numpy", "zmq", "google", "attrs", "asyncio"}


def test_the_sdk_needs_only_the_base_install() -> None:
    names = [name for name in appliance.__all__ if "Trio" not in name]
    statement = f"from appliance import {', '.join(names)}"
    loaded = {name.partition(".")[0] for name in modules_after(statement)}
    assert {"numpy", "zmq", "google", "attrs"} <= loaded
    others = {"trio", "structlog", "cattrs", "h11", "hdrh", "rich", "onnxruntime"}
    assert not loaded & {*others, "PIL", "simplejpeg"}


def test_the_synchronous_face_does_without_asyncio() -> None:
    assert "appliance.client.aio" not in modules_after("from appliance import Connection")


def test_every_promised_name_is_there() -> None:
    for name in appliance.__all__:
        assert getattr(appliance, name).__name__ == name
    assert set(appliance.__all__) <= set(dir(appliance))
    with pytest.raises(AttributeError, match="no attribute 'Connexion'"):
        _ = appliance.Connexion  # type: ignore[attr-defined]
