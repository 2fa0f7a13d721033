"""Run by a Python that has the base install and nothing else: is the SDK whole?

make test-sdk; make test-sdk-versions, which also names an appliance that serves the model `policy`,
and installs the extra `images` in one environment.
"""

import asyncio
import importlib.util
import subprocess
import sys
import time
from importlib import metadata

import numpy as np

from appliance import AsyncConnection, Connection, Encoded, ExtraMissing, JpegImages

OTHERS = ("trio", "structlog", "cattrs", "h11", "rich", "onnxruntime", "pytest")
PATIENCE_MS = 30_000
GRAY = np.full((240, 320, 3), 128, np.uint8)
STATE = np.zeros(7, np.float32)


def without_an_appliance() -> None:
    """Nobody listens there; asking must neither wait nor fail."""
    with Connection("127.0.0.1:9", client_id="alone") as connection:
        policy = connection.model("policy")
        began = time.monotonic()
        for _ in range(300):
            policy.observe(joints=np.zeros(7, np.float32), image=Encoded(b"\xff\xd8", "jpeg"))
        assert time.monotonic() - began < 5, "asking waits for a server that is not there"
        assert policy.get_result(timeout_ms=0) is None
        statistics = connection.statistics()
    assert statistics.asked == 300
    assert statistics.asked == statistics.ended + statistics.outstanding


def what_is_missing_is_said() -> None:
    """The command says so instead of showing a traceback, and so do images."""
    command = [sys.executable, "-m", "appliance", "serve"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 2, said
    assert "pip install 'appliance[server]'" in said.stderr, said.stderr
    assert "Traceback" not in said.stderr, said.stderr
    if not importlib.util.find_spec("simplejpeg"):
        message = ""
        try:
            JpegImages()
        except ExtraMissing as error:
            message = str(error)
        assert "pip install 'appliance[images]'" in message, message


def round_trip(server: str) -> None:
    """An answer, and an episode of chunks."""
    images = JpegImages() if importlib.util.find_spec("simplejpeg") else None
    with Connection(server, client_id="alone") as connection:
        assert connection.wait_reachable(PATIENCE_MS), connection.last_error
        policy = connection.model("policy", latency_budget_ms=5000, images=images)
        described = policy.describe(PATIENCE_MS)
        assert described is not None, policy.last_message
        assert (described.horizon, described.inputs[1].resize) == (16, (96, 96))
        policy.observe(state=STATE, camera=GRAY, prompt="pick")
        result = policy.get_result(PATIENCE_MS)
        assert result is not None, policy.last_message
        assert result["action"].shape == (16, 3)
        assert np.abs(result["action"] - 128).max() < 2
        actions = 0
        with policy.episode(prompt="pick", observation_hz=10) as episode:
            for tick in policy.ticks(hz=50):
                if episode.due(tick):
                    episode.observe(tick, state=STATE, camera=GRAY)
                actions += episode.action(tick).ok
                if actions == 20:
                    break
                assert tick.number < 50 * 30, f"{actions} actions, {policy.last_message}"
            episode.reset()
        assert connection.wait_settled(PATIENCE_MS)
        statistics = connection.statistics()
        assert statistics.asked == statistics.ended
        assert not statistics.bad_answers


async def asynchronous_round_trip(server: str) -> None:
    """An answer, by asyncio."""
    async with AsyncConnection(server, client_id="alone") as connection:
        assert await connection.wait_reachable(PATIENCE_MS), connection.last_error
        policy = connection.model("policy", latency_budget_ms=5000)
        await policy.observe(state=STATE, camera=GRAY)
        result = await policy.get_result(PATIENCE_MS)
        assert result is not None, policy.last_message
        assert result["action"].shape == (16, 3)


present = [name for name in OTHERS if importlib.util.find_spec(name)]
assert not present, f"this is no base install: it has {', '.join(present)}"
without_an_appliance()
what_is_missing_is_said()
for address in sys.argv[1:]:
    round_trip(address)
    asyncio.run(asynchronous_round_trip(address))
names = ("numpy", "pyzmq", "protobuf", "attrs", "pillow", "simplejpeg")
versions = [
    f"{each.metadata['Name']} {each.version}"
    for each in metadata.distributions()
    if each.metadata["Name"].lower() in names
]
did = "answers, chunks and episodes" if sys.argv[1:] else "alone"
print(f"the SDK works ({did}): Python {sys.version.split()[0]}, {', '.join(sorted(versions))}")
