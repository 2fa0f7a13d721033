"""One instance takes the place of another: its addresses, then its admin socket.

`app` calls it; what is served and how is decided there.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog
import trio

from appliance.config import Admin
from appliance.errors import ConfigError
from appliance.io.groups import only_error
from appliance.io.unix_listener import somebody_listens
from appliance.sessions.binds import are_released

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

RELEASE_LOOK_S = 0.01
ADMIN_LOOK_S = 0.1
"""How often one that stands by looks whether it may take over."""
RETRY_S = 1.0

StartAdmin = Callable[[str, str], Awaitable[trio.CancelScope]]
"""Serves the admin documents on a socket and an address until the scope it returns is cancelled."""


async def wait_released(addresses: Sequence[str], socket: Path, drained: trio.Event) -> bool:
    """Wait until another instance has given its addresses up; return False if drained first.

    Args:
        socket: The admin socket. One that has none of these addresses is waited for until it has
            given that up: it serves, or is about to.
    """
    structlog.get_logger("appliance").info("standby", waits_for=list(addresses))
    was_held = False
    while not drained.is_set():
        if not are_released(addresses):
            was_held = True
        elif was_held or not somebody_listens(socket):
            return True
        with trio.move_on_after(RELEASE_LOOK_S if was_held else ADMIN_LOOK_S):
            await drained.wait()
    return False


async def take_admin(admin: Admin, start: StartAdmin, beside: trio.CancelScope) -> trio.CancelScope:
    """Serve where the other instance did, once it has ended, and no more beside it."""
    while somebody_listens(Path(admin.socket)):  # noqa: ASYNC110  nobody tells
        await trio.sleep(ADMIN_LOOK_S)
    scope = await _insist(admin, start)
    beside.cancel()
    return scope


async def keep_admin(admin: Admin, start: StartAdmin, scope: trio.CancelScope) -> None:
    """Serve again when somebody has taken the socket's file away, until cancelled."""
    while True:
        await trio.sleep(RETRY_S)
        if not Path(admin.socket).exists():  # noqa: ASYNC240  a local file
            scope.cancel()
            await trio.sleep(RETRY_S)  # meanwhile it gives the address up
            scope = await _insist(admin, start)


async def _insist(admin: Admin, start: StartAdmin) -> trio.CancelScope:
    """Serve at the socket, and at the address if that is free; try until it can be done.

    Robots are served all the while: what is wrong here does not end that.
    """
    told = ""
    while True:
        for listen in dict.fromkeys((admin.listen, "")):
            scope, problem = await _try(start, admin.socket, listen)
            if problem not in ("", told):
                structlog.get_logger("appliance").warning("admin", error=problem)
                told = problem
            if scope is not None:
                return scope
        await trio.sleep(RETRY_S)


async def _try(start: StartAdmin, socket: str, listen: str) -> tuple[trio.CancelScope | None, str]:
    """Serve there; return what ends it, or why it cannot be done."""
    try:
        return await start(socket, listen), ""
    except (ConfigError, BaseExceptionGroup) as group:
        error = only_error(group)
        if not isinstance(error, ConfigError):
            raise
        return None, str(error)
