"""Who calls: by its API token, its certificate, or its own word where that is believed.

Runs in asyncio.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any, Union, cast

import grpc
import grpc.aio
import structlog
from attrs import define, field

from appliance.errors import KeyFileError
from appliance.ingest.status import Context
from appliance.keys.tokens import Tokens
from appliance.wire.checks import MAX_NAME_BYTES

CLIENT = "client-id"
"""The metadata in which a caller may say who it is."""
AUTHORIZATION, SCHEME = "authorization", "Bearer "
OPEN = "/grpc.health.v1.Health/Check"
"""Needs no token, as it ends at once: whoever watches over the box has none."""
LOOK_NS = 1_000_000_000
TRACE = "traceparent"
_TRACE = re.compile(
    r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)  # W3C Trace Context, level 1

Metadata = Iterable[tuple[str, Union[str, bytes]]]  # noqa: UP007


@define(eq=False)
class Callers:
    """See the module's docstring.

    Args:
        tokens: Every call needs one of these; None: no call does.
        believes_names: Where there are neither tokens nor certificates, callers are who they say.
    """

    tokens: Tokens | None
    believes_names: bool
    _looked_ns: int = field(default=0, init=False)
    _problems: tuple[str, ...] = field(default=(), init=False)

    def name(self, context: Context) -> str:
        """Return who a call counts for; without anything better, the address it comes from."""
        metadata = context.invocation_metadata() or ()
        if self.tokens is not None:
            return self.holder(metadata) or ""  # revoked since its stream was opened
        for name in context.auth_context().get("x509_common_name", ()):
            return name.decode(errors="replace")[:MAX_NAME_BYTES]
        for key, text in metadata if self.believes_names else ():
            if key == CLIENT and isinstance(text, str) and 0 < len(text.encode()) <= MAX_NAME_BYTES:
                return text
        peer = context.peer()
        return peer.rpartition(":")[0] or peer

    @property
    def why_nobody(self) -> str:
        """Say why a caller has no name."""
        if self.tokens is not None:
            return "the token of this stream holds no more"
        return "the client's certificate names nobody: its subject needs a common name (CN)"

    def holder(self, metadata: Metadata) -> str | None:
        """Return whose token comes with a call; None: nobody's."""
        assert self.tokens is not None
        for key, text in metadata:
            if key == AUTHORIZATION and isinstance(text, str) and text.startswith(SCHEME):
                self._look()
                return self.tokens.client_of(text[len(SCHEME) :])
        return None

    def _look(self) -> None:
        """See, at most once a second, which tokens hold."""
        now_ns = time.monotonic_ns()
        if self.tokens is None or now_ns - self._looked_ns < LOOK_NS:
            return
        self._looked_ns = now_ns
        try:
            self.tokens.look()
            problems = self.tokens.problems
        except KeyFileError as error:
            problems = (str(error),)
        for problem in problems:
            if problem not in self._problems:
                structlog.get_logger("appliance").warning("token left out", error=problem)
        self._problems = problems


def trace_of(metadata: Metadata) -> str:
    """Return the id of the trace that a call belongs to; empty: of none."""
    for key, text in metadata:
        if key == TRACE and isinstance(text, str):
            found = _TRACE.fullmatch(text)
            return found[1] if found is not None else ""
    return ""


@define(eq=False)
class TokenCheck(grpc.aio.ServerInterceptor):
    """Refuses calls without a token, before anything of them is read."""

    callers: Callers

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        metadata = handler_call_details.invocation_metadata or ()
        if handler_call_details.method == OPEN or self.callers.holder(metadata):
            return await continuation(handler_call_details)
        return _REFUSING


async def _refuse(_: Any, context: Context) -> None:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        f"a token is needed that holds: metadata {AUTHORIZATION!r} with '{SCHEME}TOKEN'; "
        "`appliance keys new-token NAME` makes one",
    )


# Of this kind because it waits for nothing that the caller sends.
_REFUSING = cast("Any", grpc.stream_stream_rpc_method_handler(_refuse))
