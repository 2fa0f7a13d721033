"""The documents of a running appliance, as commands read them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from appliance.admin import client as admin
from appliance.cli import NOT_QUITE, OK
from appliance.errors import PeerProtocolError

if TYPE_CHECKING:
    from appliance.metrics.status import Status

TIMEOUT_S = 5.0


def fetch_status(path: str) -> Status:
    """Ask for the status document.

    Raises:
        AdminUnreachable: No appliance answers at `path`.
    """
    return cast("Status", fetch(path, "/v1/status"))


def exit_code(document: Status) -> int:
    """Return 0 if ready, else 1."""
    with readable():
        return OK if document["state"] == "ready" else NOT_QUITE


def fetch(path: str, resource: str) -> dict[str, Any]:
    """Ask for a document.

    Raises:
        AdminUnreachable: No appliance answers at `path`.
        PeerProtocolError: It is no document.
    """
    with readable():
        document = admin.get(path, resource, TIMEOUT_S)
        if isinstance(document, str):
            raise TypeError(f"{resource} is not JSON")
    return document


@contextmanager
def readable() -> Generator[None, None, None]:
    """Turn a document of another shape into an error: the server is of another version."""
    try:
        yield
    except (KeyError, TypeError) as error:
        raise PeerProtocolError(
            f"the appliance answers in a form this command does not know ({error!r}); "
            "are both of the same version?"
        ) from error
