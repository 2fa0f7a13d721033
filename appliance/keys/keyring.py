"""Whose key is whose, and what follows for a connection and for what it says. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from attrs import field, frozen

from appliance.errors import Outcome, Rejected
from appliance.keys import z85
from appliance.keys.zap import CURVE, Status, ZapReply, ZapRequest


class Refusal(enum.Enum):
    """Why a connection is not let in. The values are labels of metrics."""

    NO_KEY = "no_key"
    UNKNOWN_KEY = "unknown_key"
    REVOKED_KEY = "revoked_key"
    WRONG_SERVER_KEY = "wrong_server_key"
    UNEXPECTED_KEY = "unexpected_key"
    BROKEN_OFF = "broken_off"
    MALFORMED = "malformed"


@frozen
class Keyring:
    """Public keys, as Z85, with the ids of the clients that hold their secrets.

    A key that is in both counts as revoked.

    Attributes:
        problems: What could not be read, in words.
    """

    authorised: Mapping[str, str] = field(factory=dict[str, str])
    revoked: Mapping[str, str] = field(factory=dict[str, str])
    problems: tuple[str, ...] = ()

    def client_of(self, key: str) -> str | None:
        """Return whose key this is, if it may come."""
        return None if key in self.revoked else self.authorised.get(key)

    def name_of(self, key: str) -> str | None:
        """Return whose key this is or was."""
        return self.authorised.get(key) or self.revoked.get(key)

    def judge(self, request: ZapRequest) -> tuple[ZapReply, Refusal | None]:
        """Answer a connection that asks to be let in; its user id is the key it holds."""
        key = ""
        if request.mechanism != CURVE:
            why = Refusal.NO_KEY
        elif len(request.credentials) != 1 or len(request.credentials[0]) != z85.KEY_BYTES:
            why = Refusal.MALFORMED
        else:
            key = z85.encode(request.credentials[0])
            if self.client_of(key) is not None:
                accepted = ZapReply(
                    request_id=request.request_id, status=Status.ACCEPTED, user_id=key
                )
                return accepted, None
            why = Refusal.REVOKED_KEY if key in self.revoked else Refusal.UNKNOWN_KEY
        refused = ZapReply(request_id=request.request_id, status=Status.REFUSED, text=why.value)
        return refused, why

    def unauthenticated(self, key: str) -> Rejected:
        """Return what the holder of a key is told that may not come."""
        name = self.name_of(key)
        return Rejected(
            Outcome.UNAUTHENTICATED,
            f"the key of {name!r} was revoked" if name else "the key is not authorised",
        )

    def check(self, key: str, claimed: str) -> None:
        """Check what a connection says that was let in with `key`.

        Args:
            claimed: The client id in the message; empty if it names none.

        Raises:
            Rejected: UNAUTHENTICATED, the key is not authorised any more; FORBIDDEN, it is, but
                for another client than the message names.
        """
        client = self.client_of(key)
        if client is None:
            raise self.unauthenticated(key)
        if claimed and claimed != client:
            raise Rejected(
                Outcome.FORBIDDEN, f"the key is that of client {client!r}, not of {claimed!r}"
            )
