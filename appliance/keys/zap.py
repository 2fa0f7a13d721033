"""ZAP, the question libzmq asks of each new connection (RFC 27): frames to values and back."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from attrs import field, frozen

from appliance.errors import PeerProtocolError

ENDPOINT = "inproc://zeromq.zap.01"
"""Where libzmq looks for whoever answers, within one context."""

VERSION = b"1.0"
CURVE = "CURVE"

_REQUEST_HEAD = 6
_REPLY_FRAMES = 6


class Status(enum.Enum):
    """What the answer comes to."""

    ACCEPTED = b"200"
    REFUSED = b"400"
    FAILED = b"500"


@frozen(kw_only=True)
class ZapRequest:
    """One connection asks to be let in.

    Attributes:
        request_id: Comes back in the reply.
        domain: Which kind of door it came to.
        address: Of the peer, without its port.
        identity: The routing id it wishes; proves nothing.
        mechanism: `NULL`, `PLAIN`, `CURVE`, ...
        credentials: For CURVE one: the 32 bytes of the public key it holds the secret of.
    """

    request_id: bytes
    domain: str = ""
    address: str = ""
    identity: bytes = b""
    mechanism: str = CURVE
    credentials: tuple[bytes, ...] = field(default=(), converter=tuple)


@frozen(kw_only=True)
class ZapReply:
    """The answer.

    Attributes:
        text: Why; libzmq tells the peer the status only.
        user_id: Who it is: comes with each message of the connection as `User-Id`.
    """

    request_id: bytes
    status: Status
    text: str = ""
    user_id: str = ""


def decode_request(frames: Sequence[bytes]) -> ZapRequest:
    """Read a request.

    Raises:
        PeerProtocolError: It is none, or of another version.
    """
    if len(frames) < _REQUEST_HEAD:
        raise PeerProtocolError(f"ZAP: at least {_REQUEST_HEAD} frames, came {len(frames)}")
    version, request_id, domain, address, identity, mechanism, *credentials = map(bytes, frames)
    if version != VERSION:
        raise PeerProtocolError(f"ZAP: version {VERSION!r}, came {version!r}")
    return ZapRequest(
        request_id=request_id,
        domain=_text(domain),
        address=_text(address),
        identity=identity,
        mechanism=_text(mechanism),
        credentials=credentials,
    )


def encode_request(request: ZapRequest) -> list[bytes]:
    """Write a request, as libzmq does."""
    return [
        VERSION,
        request.request_id,
        request.domain.encode(),
        request.address.encode(),
        request.identity,
        request.mechanism.encode(),
        *request.credentials,
    ]


def decode_reply(frames: Sequence[bytes]) -> ZapReply:
    """Read a reply, as libzmq does.

    Raises:
        PeerProtocolError: It is none.
    """
    if len(frames) != _REPLY_FRAMES or frames[0] != VERSION:
        raise PeerProtocolError(f"ZAP: no reply: {len(frames)} frames")
    _, request_id, status, text, user_id, _ = frames
    try:
        return ZapReply(
            request_id=request_id,
            status=Status(status),
            text=text.decode(),
            user_id=user_id.decode(),
        )
    except ValueError as error:
        raise PeerProtocolError(f"ZAP: no reply: {error}") from error


def encode_reply(reply: ZapReply) -> list[bytes]:
    """Write a reply; the metadata, its last frame, is empty."""
    return [
        VERSION,
        reply.request_id,
        reply.status.value,
        reply.text.encode(),
        reply.user_id.encode(),
        b"",
    ]


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PeerProtocolError(f"ZAP: {data[:40]!r} is no text") from error
