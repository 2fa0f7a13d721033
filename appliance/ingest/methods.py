"""How a method is run: counted from the call's first header until its answer has left.

To gRPC every method here takes a stream. It calls those of one message when that has come, and of
who sends none it would say nothing.

Runs in asyncio. A call is one task of gRPC's, which is also what sends its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio
from attrs import define, field
from google.protobuf.message import DecodeError

from appliance.errors import Outcome, Rejected
from appliance.ingest.open_calls import PATIENCE_S, OpenCalls
from appliance.ingest.status import Context, refuse

LOOK_S = 1.0

Answer = Callable[[Any, str, Context], Awaitable[Any]]
"""Takes a message, who sent it, and the call; gives the answer or raises Rejected."""
Stream = Callable[[AsyncIterator[Any], str, Context], AsyncGenerator[Any, None]]
"""Takes the messages as they come, and likewise; yields the answers."""
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@define(eq=False)
class Methods:
    """See the module's docstring.

    Args:
        open_calls: Says how many there may be.
        name: Says whose a call is.
    """

    open_calls: OpenCalls
    name: Callable[[Context], str]
    _waits: dict[asyncio.Task[Any], float] = field(
        factory=dict["asyncio.Task[Any]", float], init=False
    )

    def unary(self, answer: Answer, request: Any) -> Handler:
        """Return the handler of a method that takes and gives one message."""

        async def method(_: Any, context: Context) -> Any:
            client, task = await self._begin(context, stream=False)
            self._waits[task] = asyncio.get_running_loop().time()
            message: Any = await context.read()
            del self._waits[task]
            try:
                if message is grpc.aio.EOF:
                    raise Rejected(Outcome.INVALID, "a message is missing")  # noqa: TRY301
                return await answer(message, client, context)
            except Rejected as rejected:
                await refuse(context, rejected)
            finally:
                self._waits[task] = asyncio.get_running_loop().time()

        return grpc.stream_unary_rpc_method_handler(method, _reads(request), _serialized)

    def stream(self, answers: Stream, request: Any) -> Handler:
        """Return the handler of a method that takes and gives any number."""

        async def method(messages: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            client, _ = await self._begin(context, stream=True)
            try:
                async with aclosing(answers(messages, client, context)) as found:
                    async for each in found:
                        yield each
            except Rejected as rejected:
                await refuse(context, rejected)

        return grpc.stream_stream_rpc_method_handler(method, _reads(request), _serialized)

    async def _begin(self, context: Context, *, stream: bool) -> tuple[str, asyncio.Task[Any]]:
        client = self.name(context)
        try:
            self.open_calls.begin(client, stream=stream)
        except Rejected as rejected:
            await refuse(context, rejected)
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(partial(self._end, client, stream=stream))
        return client, task

    def _end(self, client: str, task: asyncio.Task[Any], *, stream: bool) -> None:
        self._waits.pop(task, None)
        self.open_calls.end(client, stream=stream)

    async def watch(self) -> None:
        """End calls that keep the box waiting for too long, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            before_s = asyncio.get_running_loop().time() - PATIENCE_S
            for task in [task for task, since_s in self._waits.items() if since_s < before_s]:
                task.cancel()


def by_address(context: Context) -> str:
    """Return where a call comes from; of all on this machine, the same."""
    peer = context.peer()
    return peer.rpartition(":")[0] or peer


def _reads(message: Any) -> Callable[[bytes], Any]:
    """Return what reads a message, or says that it is none: to gRPC that would be its own fault."""

    def read(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError as error:
            text = f"what came is no {message.DESCRIPTOR.name}: {error}"
            return Rejected(Outcome.INVALID, text)

    return read


def _serialized(message: Any) -> bytes:
    # Written already, where gRPC is to hold no more than that.
    return message if isinstance(message, bytes) else message.SerializeToString()
