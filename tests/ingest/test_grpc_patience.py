"""A call whose message does not come, or whose answer is not read, does not keep its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from support.http2 import DATA, END_STREAM, RawClient, message

from appliance.errors import Rejected
from appliance.ingest import methods
from appliance.ingest.methods import Methods, by_address
from appliance.ingest.open_calls import OpenCalls
from appliance.wire.pb import inference_pb2 as pb

PATH = "/a.Service/Method"
END_S = 20.0


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, OpenCalls]]:
    """Serve a method whose answers are longer than a window."""
    open_calls = OpenCalls(4)
    made = Methods(open_calls, by_address)

    async def answer(_: Any, __: str, ___: object) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="x" * 100_000)

    server = grpc.aio.server()
    handlers = {"Method": made.unary(answer, pb.ServerMetadataRequest)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    watching = asyncio.ensure_future(made.watch())
    try:
        yield f"127.0.0.1:{port}", open_calls
    finally:
        watching.cancel()
        await server.stop(0)


def counts(open_calls: OpenCalls) -> bool:
    """Return whether another two calls of this machine would be too many."""
    client = "ipv4:127.0.0.1"
    try:
        open_calls.begin(client)
    except Rejected:
        return True
    open_calls.end(client)
    return False


@pytest.mark.parametrize("body", [None, message(0)], ids=["no message", "no reader"])
def test_it_is_ended(monkeypatch: pytest.MonkeyPatch, body: bytes | None) -> None:
    monkeypatch.setattr(methods, "PATIENCE_S", 0.3)
    monkeypatch.setattr(methods, "LOOK_S", 0.01)

    async def run() -> None:
        async with serving() as (address, open_calls):
            with RawClient(address, reads=False) as client:
                for number in (1, 3):
                    client.open(number, PATH)
                    if body is not None:
                        client.frame(DATA, END_STREAM, number, body)

                async def come_and_gone() -> None:
                    while not counts(open_calls):  # noqa: ASYNC110  nothing tells of it
                        await asyncio.sleep(0)
                    while counts(open_calls):  # noqa: ASYNC110
                        await asyncio.sleep(0)

                await asyncio.wait_for(come_and_gone(), END_S)  # as Python 3.10 has it

    asyncio.run(run())
