"""Opens the admin door's sockets and serves on them."""

from __future__ import annotations

from contextlib import AsyncExitStack

import trio

from appliance.admin.http import serve_http
from appliance.admin.loopback import is_loopback
from appliance.admin.page import Page
from appliance.admin.routes import AdminSources, admin_router
from appliance.errors import ConfigError
from appliance.io.unix_listener import open_unix_listener


async def serve_admin(
    sources: AdminSources,
    *,
    socket: str,
    listen: str = "",
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on the unix socket `socket` and, read-only and with the page, on `listen`.

    Args:
        sources: Where the answers come from.
        socket: Path of the unix socket; who may open it may do everything.
        listen: `HOST:PORT` on loopback for browsers and Prometheus; empty: none.
        task_status: Started once both are listening.

    Raises:
        ConfigError: It cannot listen there, or `listen` is not on loopback.
    """
    async with AsyncExitStack() as opened:
        unix = await opened.enter_async_context(await open_unix_listener(socket))
        tcp = await open_loopback_listeners(listen) if listen else []
        for listener in tcp:
            opened.push_async_callback(listener.aclose)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_http, admin_router(sources).handle, [unix])
            if tcp:
                page = Page(admin_router(sources, read_only=True))
                await nursery.start(serve_http, page.handle, tcp)
            task_status.started()


async def open_loopback_listeners(address: str) -> list[trio.SocketListener]:
    """Listen on `HOST:PORT`, where HOST is `localhost` or a loopback address.

    Raises:
        ConfigError: It is something else, or the port is taken.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isdecimal() and int(port) < 65536 and is_loopback(host)):
        raise ConfigError(
            f"admin.listen: found {address!r}; allowed is HOST:PORT on loopback, "
            "as in 127.0.0.1:9464"
        )
    try:
        return await trio.open_tcp_listeners(int(port), host=host)
    except OSError as error:
        raise ConfigError(
            f"admin.listen: cannot listen on {address}: {error.strerror}; choose another port"
        ) from error
