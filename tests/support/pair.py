"""The same core twice, with a fast path and without, and observations of several forms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import evolve

from appliance.wire.session import encode_observation
from appliance.wire.spec import InputSpec, ModelSpec, OutputSpec, with_hash
from appliance.wire.types import DType, Observation, Tensor
from support.core import Core

STATE = Tensor("state", DType.FLOAT32, (4,), 0, 16)
CAMERA = Tensor("camera", DType.UINT8, (2, 3, 3), 16, 18)
SPEC = with_hash(
    ModelSpec(
        "policy",
        "3",
        (
            InputSpec("x", "state", DType.FLOAT32, (4,), (4,)),
            InputSpec("image", "camera", DType.UINT8, (2, 3, 3), (2, 3, 3), optional=True),
            InputSpec("text", "metadata:prompt", DType.STRING, (1,), (1,), optional=True),
        ),
        (OutputSpec("y", DType.UINT8, (16,)),),
        max_batch=4,
        output_bytes_per_row=16,
        horizon=8,
        step_period_us=20_000,
    )
)
BARE = Observation(
    client_id="arm-3",
    client_type="arm",
    model_id="policy",
    tensors=(STATE,),
    protocol_version=1,
    wants_status=True,
)
FORMS = (
    BARE,
    evolve(BARE, tensors=(STATE, CAMERA)),
    evolve(BARE, metadata={"prompt": "pick up the cup"}),
    evolve(BARE, tensors=(STATE, CAMERA), metadata={"prompt": "é"}, model_version="3"),
    evolve(BARE, spec_hash=SPEC.hash),
    Observation(client_id="arm-3", client_type="arm", model_id="policy", tensors=(STATE,)),
)


class Pair:
    """The same core twice: one with a fast path, one without."""

    def __init__(self, directory: Path, document: dict[str, Any] | None = None) -> None:
        self.fast = Core(f"ipc://{directory}/fast", SPEC, document)
        self.slow = Core(f"ipc://{directory}/slow", SPEC, document, fast_path=False)

    def close(self) -> None:
        for core in self:
            core.close()

    def __iter__(self) -> Iterator[Core]:
        return iter((self.fast, self.slow))

    def ask(self, observation: Observation, payload: bytes, name: bytes = b"arm-3") -> None:
        for core in self:
            core.ask(name, b"", encode_observation(observation), payload)

    def finish(self) -> None:
        for core in self:
            while core.finish():
                pass

    def check(self, *names: bytes) -> None:
        """Compare all that can be told apart from outside."""
        fast, slow = self.fast, self.slow
        assert fast.posted == slow.posted
        assert [str(m) for m in fast.told] == [str(m) for m in slow.told]
        assert bytes(fast.arena.memory) == bytes(slow.arena.memory)
        for name in names or (b"arm-3",):
            assert _comparable(fast.heard(name)) == _comparable(slow.heard(name))
        fast_books, slow_books = fast.books(), slow.books()
        for name in slow_books:
            assert fast_books[name] == slow_books[name], name


def _comparable(heard: list[Any]) -> list[Any]:
    """Drop what no two answers have in common."""
    return [
        (evolve(response, response_id="", timestamp_ns=0), payload) for response, payload in heard
    ]


def payload_of(observation: Observation, number: int = 0) -> bytes:
    end = max((t.offset + t.length for t in observation.tensors), default=0)
    return bytes((number + index) % 256 for index in range(end))


@contextmanager
def fresh_pair() -> Iterator[Pair]:
    with TemporaryDirectory() as directory, closing(Pair(Path(directory))) as made:
        yield made
