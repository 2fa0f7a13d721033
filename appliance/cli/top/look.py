"""Asks the appliance for both documents.

On the event loop of `screen`, without a thread: while a box is stuck, the screen goes on to be
painted, keys are taken, and whoever leaves need not wait for an answer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from appliance.admin import client as admin
from appliance.errors import AdminUnreachable, PeerProtocolError

if TYPE_CHECKING:
    from appliance.metrics.status import Client, ClientList, Status

TIMEOUT_S = 2.0


async def look(socket_path: str) -> tuple[Status, list[Client]]:
    """Return `/v1/status` and the clients of `/v1/clients`, asked for one after the other.

    Raises:
        AdminError: Nobody answers within `TIMEOUT_S`, or it is an error.
        PeerProtocolError: An answer is of another form.
    """
    status = await _get(socket_path, "/v1/status")
    clients = await _get(socket_path, "/v1/clients")
    if not isinstance(status, dict) or not isinstance(clients, dict) or "clients" not in clients:
        raise PeerProtocolError("the appliance does not answer with documents that are known here")
    return cast("Status", status), cast("ClientList", clients)["clients"]


async def _get(socket_path: str, path: str) -> object:
    try:
        raw = await asyncio.wait_for(_exchange(socket_path, path), TIMEOUT_S)
        return admin.answer("GET", path, raw)
    except asyncio.TimeoutError as error:  # before Python 3.11 not a TimeoutError
        raise AdminUnreachable(admin.why(socket_path, TIMEOUT_S, TimeoutError())) from error
    except (OSError, ValueError) as error:
        raise AdminUnreachable(admin.why(socket_path, TIMEOUT_S, error)) from error


async def _exchange(socket_path: str, path: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(socket_path)
    try:
        writer.write(admin.request("GET", path))
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()
