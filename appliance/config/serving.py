"""Tables of the queue, the models and the workers."""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen
from attrs.validators import and_, ge, gt, le, matches_re

from appliance.config.checks import LARGEST, MIB, POSITIVE
from appliance.keys.files import NAME

EVERY_MODEL = "*"
DEVICE = r"cpu|cuda(:\d{1,3})?"
Overflow = Literal["drop_oldest", "reject_newest"]


@frozen(kw_only=True)
class Scheduling:
    """The queue.

    Attributes:
        request_ttl_ms: Nobody waits longer in the queue: EXPIRED.
        max_queue_size: Waiting requests over all clients.
        overflow_policy: What a full queue does: drop its oldest, or refuse the newcomer.
        max_retries: Further tries of a row after the engine failed on it alone.
        strategy: Who chooses what runs next: a registered name, an entry point of the group
            `appliance.schedulers`, or `module:attribute`. Checked where it is loaded.
        parameters: For the strategy.
    """

    request_ttl_ms: float = field(default=5000.0, validator=POSITIVE)
    max_queue_size: int = field(default=1000, validator=ge(1))
    overflow_policy: Overflow = "drop_oldest"
    max_retries: int = field(default=0, validator=and_(ge(0), le(10)))
    strategy: str = "deadline_aware"
    parameters: dict[str, Any] = field(factory=dict[str, Any])


@frozen(kw_only=True)
class Models:
    """The repository.

    Attributes:
        directory: Holds `<model>/model.toml` and `<model>/<version>/`.
    """

    directory: str = "./models"


@frozen(kw_only=True)
class Workers:
    """One `[[workers]]` table: `count` processes on `device` that host the models named.

    Attributes:
        name: Of the group; its processes are `name-0`, `name-1` and so on.
        count: Processes.
        device: What they compute on: `cpu`, `cuda` (that is, `cuda:0`) or `cuda:N`.
        models: Names; `*` is every model of the repository, each of which some table must name.
        memory_mib: What the models of one process may take together; 0: all stay, whatever they do.
        start_timeout_s: Without any progress while loading.
        hang_floor_ms: No batch is called hung before this; above it, see `hang_factor`.
        hang_factor: Times the slowest batch seen.
    """

    name: str = field(default="cpu", validator=matches_re(NAME))
    count: int = field(default=1, validator=and_(ge(1), le(64)))
    device: str = field(default="cpu", validator=matches_re(DEVICE))
    models: tuple[str, ...] = (EVERY_MODEL,)
    memory_mib: int = field(default=0, validator=and_(ge(0), le(1 << 24)))
    start_timeout_s: float = field(default=120.0, validator=POSITIVE)
    hang_floor_ms: float = field(default=2000.0, validator=POSITIVE)
    hang_factor: float = field(default=10.0, validator=and_(gt(1), le(LARGEST)))


@frozen(kw_only=True)
class Arena:
    """Shared memory for observations and outputs.

    Attributes:
        bytes: Its size, reserved at start and taken as it is used.
    """

    bytes: int = field(default=256 * MIB, validator=and_(ge(MIB), le(64 * 1024 * MIB)))
