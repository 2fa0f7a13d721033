"""Who may import whom, and how little the SDK needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SERVER_ONLY = (
    "trio",
    "h11",
    "rich",
    "structlog",
    "cattrs",
    "hdrh",
    "onnxruntime",
    "PIL",
    "soundfile",
    "appliance.config",
    "appliance.scheduling",
    "appliance.admission",
    "appliance.dispatch",
    "appliance.models",
    "appliance.io",
)


def loaded_by(statement: str) -> set[str]:
    """The modules a fresh interpreter has after a statement."""
    script = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(found.stdout.split())


def test_the_import_contracts_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run(
        [lint, "--no-cache"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout[-3000:]
    assert " 0 broken" in found.stdout


@pytest.mark.parametrize(
    "statement", ["import appliance.client", "from appliance import Connection"]
)
def test_the_sdk_loads_nothing_of_the_server(statement: str) -> None:
    modules = loaded_by(statement)
    assert "appliance" in modules
    assert not modules & set(SERVER_ONLY)


def test_the_pure_rooms_load_no_event_loop_and_no_socket_library() -> None:
    modules = loaded_by(
        "import appliance.simulation, appliance.admission.admission, appliance.config"
    )
    assert {"appliance.scheduling.scheduler", "appliance.admission.admission"} <= modules
    assert not modules & {"trio", "zmq", "asyncio", "structlog", "appliance.io"}


def test_the_package_itself_loads_next_to_nothing() -> None:
    assert not {m for m in loaded_by("import appliance") if m.startswith("appliance.")}
