"""Every error of the appliance, each with a stable code. Imports nothing; everybody may import it.

```
ApplianceError               code
├── ConfigError              CONFIG            a config or manifest key cannot be used
├── KeyFileError             KEY_FILE          a key or its file cannot be used
├── WindowFull               WINDOW_FULL       the SDK holds as much as it was told to
├── ExtraMissing             EXTRA_MISSING     an optional part of the package is not installed
├── Rejected                 (an Outcome)      a request is refused; its client is told
├── ProtocolError                              somebody broke a protocol
│   ├── LocalProtocolError   LOCAL_PROTOCOL    we did: a bug here
│   └── PeerProtocolError    PEER_PROTOCOL     the other side did
├── PeerGone                 PEER_GONE         nobody is connected under a routing id
├── RecordingError           RECORDING         a recording cannot be made or read
├── StrategyError            STRATEGY          a scheduling strategy broke a rule
├── InferenceError           INFERENCE         `appliance infer` got no answer
├── AdminError               ADMIN             a running appliance refused an admin request
│   └── AdminUnreachable     ADMIN_UNREACHABLE no appliance answers on its admin socket
└── WorkerError                                a worker process failed
    ├── WorkerNotReady       WORKER_NOT_READY  it did not come up
    ├── DeviceMissing        DEVICE_MISSING    the GPU that was configured cannot be used
    ├── DeviceLost           DEVICE_LOST       the GPU's context is broken; the process ends
    └── EngineError          ENGINE            the engine raised; the process lives on
```

`Outcome` is the closed list of ways a request can end. Each request ends in exactly one.
"""

from __future__ import annotations

import enum


class Outcome(enum.IntEnum):
    """How a request ended. The numbers are the wire's (`Code` in proto/session.proto)."""

    OK = 1
    SUPERSEDED = 2
    INFEASIBLE = 3
    EXPIRED = 4
    SHED = 5
    RATE_LIMITED = 6
    QUEUE_FULL = 7
    DRAINING = 8
    LOADING = 9
    WORKER_LOST = 10
    INVALID = 11
    TOO_LARGE = 12
    UNKNOWN_MODEL = 13
    UNAUTHENTICATED = 14
    FORBIDDEN = 15
    ENGINE_FAILED = 16
    CANCELLED = 17
    CLIENT_GONE = 18


MISSES = frozenset(
    {
        Outcome.SUPERSEDED,
        Outcome.INFEASIBLE,
        Outcome.EXPIRED,
        Outcome.SHED,
        Outcome.QUEUE_FULL,
        Outcome.WORKER_LOST,
        Outcome.ENGINE_FAILED,
    }
)
"""Outcomes that leave a robot without the action it asked for, through no fault of its own."""


class ApplianceError(Exception):
    """Base of every error raised on purpose."""

    code = "APPLIANCE"


class ConfigError(ApplianceError):
    """A configuration or manifest cannot be used.

    The message names the file, the key, what was found and what is allowed.
    """

    code = "CONFIG"


class KeyFileError(ApplianceError):
    """A key or the file that holds it cannot be used; the message says what to do."""

    code = "KEY_FILE"


class WindowFull(ApplianceError):
    """The SDK already holds as many unanswered or uncollected observations as it was told to."""

    code = "WINDOW_FULL"


class ExtraMissing(ApplianceError):
    """An optional part of the package is not installed; the message says how to install it."""

    code = "EXTRA_MISSING"


class Rejected(ApplianceError):
    """A request is refused, with the outcome that is told to its client."""

    def __init__(
        self, outcome: Outcome, message: str, *, retry_after_ns: int | None = None
    ) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message
        self.retry_after_ns = retry_after_ns

    @property
    def code(self) -> str:  # type: ignore[override]
        """The outcome's name."""
        return self.outcome.name


class ProtocolError(ApplianceError):
    """A protocol was broken."""

    code = "PROTOCOL"


class LocalProtocolError(ProtocolError):
    """This side broke the protocol: a bug here."""

    code = "LOCAL_PROTOCOL"


class PeerProtocolError(ProtocolError):
    """The other side broke the protocol."""

    code = "PEER_PROTOCOL"


class PeerGone(ApplianceError):
    """Nobody is connected under this routing id (any longer)."""

    code = "PEER_GONE"


class RecordingError(ApplianceError):
    """A recording cannot be made, or a file is none. The message says where and why."""

    code = "RECORDING"


class InferenceError(ApplianceError):
    """A question to a model got no answer; the message says why and what to do."""

    code = "INFERENCE"


class StrategyError(ApplianceError):
    """A scheduling strategy answered what may not be done; `cause` is a short name for counting."""

    code = "STRATEGY"

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class AdminError(ApplianceError):
    """A running appliance refused an admin request."""

    code = "ADMIN"


class AdminUnreachable(AdminError):
    """No appliance answers on its admin socket. The message says what to do."""

    code = "ADMIN_UNREACHABLE"


class WorkerError(ApplianceError):
    """A worker process failed."""

    code = "WORKER"


class WorkerNotReady(WorkerError):
    """A worker process did not come up."""

    code = "WORKER_NOT_READY"


class DeviceMissing(WorkerError):
    """The device that was configured cannot be used; the message says why and what to do."""

    code = "DEVICE_MISSING"


class DeviceLost(WorkerError):
    """A device failed so that every further call fails: the process has to end."""

    code = "DEVICE_LOST"


class EngineError(WorkerError):
    """An engine raised or returned something unusable; its process lives on."""

    code = "ENGINE"
