"""Keys at the robots' door: answers libzmq's question about each connection, and watches the keys.

One task does both. The decisions are `keys.keyring`'s; here are the socket, the directory's reading
(in a worker thread, for it may be slow) and the counting. A connection that was let in keeps its
user id, the public key it proved to hold, and libzmq hands it out with each message.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import structlog
import trio
import zmq
from attrs import define, field

from appliance.config import Config
from appliance.errors import ConfigError, KeyFileError, Outcome, PeerProtocolError, Rejected
from appliance.io.zmq_socket import ZmqSocket
from appliance.keys.directory import KeyDirectory
from appliance.keys.keyring import Keyring, Refusal
from appliance.keys.zap import ENDPOINT, decode_request, encode_reply
from appliance.wire.types import Observation

LOOK_S = 0.2
"""How often the keys are looked at while nobody comes."""
AGAIN_NS = 200_000_000
"""How often they are read while something is wrong with them: what puts it right may change the
time of no directory."""

NOBODY = "(unknown key)"

LOG_NS = 1_000_000_000
"""Refused connections are logged no more often than that."""


def _nothing() -> None:
    return


@define(eq=False)
class Gate:
    """See the module's docstring.

    Args:
        secrets: The appliance's secret key at each address that asks for keys.
        everywhere: No address is without.
        clock: Monotonic nanoseconds.

    Attributes:
        on_change: Called when other keys may come than before.
        refused: Connections not let in, by cause.
        problem: Why the directory could not be read last time; empty if it could.
    """

    directory: KeyDirectory
    secrets: dict[str, bytes] = field(repr=False)
    everywhere: bool = False
    clock: Callable[[], int] = time.monotonic_ns
    on_change: Callable[[], None] = _nothing
    refused: dict[str, int] = field(factory=dict[str, int], init=False)
    problem: str = field(default="", init=False)
    _socket: ZmqSocket | None = field(default=None, init=False)
    _read_ns: int = field(default=0, init=False)
    _logged_ns: int | None = field(default=None, init=False)
    _unlogged: int = field(default=0, init=False)

    @property
    def keyring(self) -> Keyring:
        """The clients' keys, as last read."""
        return self.directory.keyring

    def problems(self) -> list[str]:
        """Say in words what is wrong with the keys."""
        return [*([self.problem] if self.problem else []), *self.keyring.problems]

    def owner(self, key: str) -> str | None:
        """Return whose key a connection holds or held; None if it came without."""
        return (self.keyring.name_of(key) or NOBODY) if key else None

    def check(self, observation: Observation, key: str) -> None:
        """Check what a message says of its sender against the key of its connection.

        Raises:
            Rejected: UNAUTHENTICATED, the key may not come any more; FORBIDDEN, it is another
                client's.
        """
        if key:
            self.keyring.check(key, observation.client_id if observation.protocol_version else "")
        elif self.everywhere:
            raise Rejected(Outcome.UNAUTHENTICATED, "the connection has no key")

    def open(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Be there to answer, before any address of this context is bound."""
        raw = context.socket(zmq.ROUTER)
        raw.bind(ENDPOINT)
        self._socket = ZmqSocket(raw)

    def close(self) -> None:
        """Answer no more: nobody new comes in. Idempotent."""
        if self._socket is not None:
            self._socket.close()

    async def run(self) -> None:
        """Answer and watch until cancelled, or closed."""
        assert self._socket is not None
        while True:
            asked: list[list[bytes]] = []
            with trio.move_on_after(LOOK_S):
                asked = [
                    [bytes(part) for part in parts] for parts in await self._socket.receive_some()
                ]
            now_ns = self.clock()
            overdue = now_ns - self._read_ns >= AGAIN_NS
            if self.directory.is_stale(now_ns) or (overdue and self.problems()):
                self._read_ns = now_ns
                await self._read()
            answers = [self._judge(parts) for parts in asked]
            self._socket.send_some_nowait([answer for answer in answers if answer is not None])

    async def _read(self) -> None:
        before = self.keyring
        try:
            await trio.to_thread.run_sync(self.directory.read)
        except KeyFileError as error:
            if str(error) != self.problem:
                structlog.get_logger("keys").warning("keys cannot be read", error=str(error))
            self.problem = str(error)
            return
        self.problem = ""
        if self.keyring == before:
            return
        log = structlog.get_logger("keys")
        log.info(
            "keys read", authorised=len(self.keyring.authorised), revoked=len(self.keyring.revoked)
        )
        for problem in self.keyring.problems:
            log.warning("key left out", error=problem)
        self.on_change()

    def _judge(self, parts: list[bytes]) -> list[bytes] | None:
        """Return the answer to one question, with its address; None to what is none."""
        peer, _, *frames = parts
        try:
            request = decode_request(frames)
        except PeerProtocolError:
            self._refuse(Refusal.MALFORMED, "")
            return None
        reply, why = self.keyring.judge(request)
        if why is not None:
            self._refuse(why, request.address)
        return [peer, b"", *encode_reply(reply)]

    def _refuse(self, why: Refusal, address: str) -> None:
        self.refused[why.value] = self.refused.get(why.value, 0) + 1
        now_ns = self.clock()
        if self._logged_ns is not None and now_ns - self._logged_ns < LOG_NS:
            self._unlogged += 1
            return
        structlog.get_logger("keys").warning(
            "connection refused", cause=why.value, address=address, skipped=self._unlogged
        )
        self._logged_ns, self._unlogged = now_ns, 0


def gate_of(config: Config) -> Gate | None:
    """Return the gate of a configuration; None if it asks for no keys.

    Raises:
        KeyFileError: A key of the appliance's own, or the directory, cannot be used.
        ConfigError: ZeroMQ cannot do it here.
    """
    keys = config.keys
    if not keys.required:
        return None
    if not zmq.has("curve"):
        raise ConfigError("keys.required: this pyzmq was built without CURVE; install its wheel")
    own = Path(keys.server_directory) if keys.server_directory else None
    directory = KeyDirectory(Path(keys.directory), own)
    secrets = {
        address: _secret(directory, keys.server_key_of.get(address, keys.server_key))
        for address in config.transport.bind
        if keys.ipc or not address.startswith("ipc://")
    }
    directory.read()
    everywhere = len(secrets) == len(set(config.transport.bind))
    return Gate(directory, secrets, everywhere=everywhere)


def _secret(directory: KeyDirectory, name: str) -> bytes:
    """Return one of the appliance's own secret keys.

    Raises:
        KeyFileError: It cannot be used, or is not that of the public key beside it.
    """
    pair = directory.server_pair(name)
    secret = pair.secret_key.encode("ascii")
    if zmq.curve_public(secret) != pair.public_key.encode("ascii"):
        raise KeyFileError(
            f"{directory.path}: server key {name}: its secret_key and public_key are not of one "
            "pair; put the file that `appliance keys` wrote back, or make a new key"
        )
    return secret
