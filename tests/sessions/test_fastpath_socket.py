"""The fast path at its socket: bursts, large payloads, and nobody left asleep."""

from __future__ import annotations

import select
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
import trio
import zmq
from attrs import evolve
from support.core import Core
from support.pair import BARE, SPEC, Pair, payload_of
from trio.testing import wait_all_tasks_blocked

from appliance.io.zmq_socket import ZmqSocket
from appliance.sessions import door, fastpath
from appliance.sessions.door import BURST, SLICE_NS
from appliance.wire.session import encode_observation
from appliance.wire.spec import InputSpec, ModelSpec, OutputSpec, with_hash
from appliance.wire.types import DType, Keep, Tensor

pytestmark = pytest.mark.skipif(bool(fastpath.missing), reason=fastpath.missing)


async def test_bursts_are_bounded_in_number(pair: Pair) -> None:
    robot = pair.fast.robot(b"arm-3")
    for number in range(200):
        observation = evolve(BARE, sequence=number, keep=Keep.ALL)
        robot.send_multipart([b"", encode_observation(observation), payload_of(BARE)])
    sizes: list[int] = []
    while len(pair.fast.posted) < 200:
        before = len(pair.fast.posted)
        assert pair.fast.door._raw.poll(5000)
        pair.fast.door._take_burst()
        sizes.append(len(pair.fast.posted) - before)
    assert max(sizes) <= BURST
    assert [seen["tag"] for seen in pair.fast.posted] == list(range(200))


async def test_bursts_are_bounded_in_time(pair: Pair) -> None:
    core, robot = pair.fast, pair.fast.robot(b"arm-3")
    core.ask(b"arm-3", b"", encode_observation(BARE), payload_of(BARE))
    core.tick_ns = SLICE_NS // 2 + 1
    for number in range(10):
        observation = evolve(BARE, sequence=number, keep=Keep.ALL)
        robot.send_multipart([b"", encode_observation(observation), payload_of(BARE)])
    while len(core.posted) < 11:
        before = len(core.posted)
        assert core.door._raw.poll(5000)
        core.door._take_burst()
        assert len(core.posted) - before <= 2
    assert core.fast == 10


async def test_a_large_image_is_copied_whole(stack: ExitStack, tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 255, (480, 640, 3), np.uint8)
    spec = with_hash(
        ModelSpec(
            "policy",
            "1",
            (InputSpec("image", "camera", DType.UINT8, image.shape, image.shape),),
            (OutputSpec("y", DType.UINT8, (16,)),),
            output_bytes_per_row=16,
        )
    )
    core = stack.enter_context(closing(Core(f"ipc://{tmp_path}/door", spec)))
    sent = evolve(BARE, tensors=(Tensor("camera", DType.UINT8, image.shape, 0, image.nbytes),))
    for _ in range(3):
        core.ask(b"arm-3", b"", encode_observation(sent), image.tobytes())
        row = core.told[-1].rows[0].feeds[0]
        assert bytes(core.arena.view(row.offset, row.length)) == image.tobytes()
        core.finish()
    assert core.fast == 2


class Untouched(ZmqSocket):
    """Does not hear that the socket underneath was used."""

    def touched(self) -> None:
        return


@pytest.mark.parametrize(("kind", "saved"), [(ZmqSocket, 1), (Untouched, 0)])
async def test_answers_do_not_leave_the_receiver_asleep(
    stack: ExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[ZmqSocket],
    saved: int,
) -> None:
    """An observation arrives, and answers are sent before the event loop can look."""
    monkeypatch.setattr(door, "ZmqSocket", kind)
    core = stack.enter_context(closing(Core(f"ipc://{tmp_path}/door", SPEC)))
    raw, robot = core.door._raw, core.robot(b"arm-3")

    def edge_is_pending() -> bool:
        return bool(select.select([raw.getsockopt(zmq.FD)], [], [], 0)[0])

    def ask(number: int) -> None:
        observation = evolve(BARE, sequence=number, keep=Keep.ALL)
        robot.send_multipart([b"", encode_observation(observation), payload_of(BARE)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(core.door._receive)
        for number in range(20):  # few enough for libzmq not to say that there is room again
            ask(number)
        with trio.fail_after(10):
            while len(core.posted) < 20:
                await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked(0.01)
        while edge_is_pending():  # of what came before
            await wait_all_tasks_blocked(0.001)
        ask(20)
        assert select.select([raw.getsockopt(zmq.FD)], [], [], 5)[0]
        while edge_is_pending():
            time.sleep(0.002)  # noqa: ASYNC251  # libzmq looks for commands only so often
            assert core.finish()
        # It is there, its edge is gone, and nobody but us has run.
        assert raw.getsockopt(zmq.EVENTS) & zmq.POLLIN
        assert core.door._socket.statistics().edges_saved == saved
        if saved:
            await wait_all_tasks_blocked(0.01)
            assert len(core.posted) == 21
        nursery.cancel_scope.cancel()
