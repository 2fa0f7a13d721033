"""A changed configuration in a running appliance: applied at once and whole, or not at all.

`difference` is pure: which keys changed, and whether each may. `Reloader` reads the configuration
again when asked (`appliance reload`, SIGHUP) and when its file has changed, which it looks for once
a second; what cannot be used is told and leaves everything as it was. Called by `app`, which
applies what was found. The model repository is looked at likewise (`ModelWatch`), and what has
changed there is told.
"""

from __future__ import annotations

import stat
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs
import structlog
import trio
from attrs import define, field

from appliance.config import Config
from appliance.errors import ConfigError
from appliance.models.changes import Stamp, changes, stamp
from appliance.models.repository import ModelEntry, Repository

T = TypeVar("T")

LIVE = (
    "clients",
    "rate_limits",
    "scheduling",
    "log.access_sample",
    "drain",
)
"""What may change while it runs; everything else is read at the start only."""

LOOK_S = 1.0


def difference(before: Config, after: Config) -> list[str]:
    """Return the keys that differ, all of which may change while it runs.

    Raises:
        ConfigError: Others differ too.
    """
    changed = _changed(before, after, "")
    fixed = [key for key in changed if not key.startswith(LIVE)]
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)}: read at the start only; change back, or start another instance "
            "(appliance serve --standby) and drain this one"
        )
    return changed


def _changed(before: Any, after: Any, prefix: str) -> list[str]:
    kind = cast("type[Any]", type(before))
    if not attrs.has(kind) or kind is not type(after):
        return [] if before == after else [prefix]
    keys: list[str] = []
    for attribute in attrs.fields(kind):
        name = f"{prefix}.{attribute.name}" if prefix else attribute.name
        keys += _changed(getattr(before, attribute.name), getattr(after, attribute.name), name)
    return keys


@define(eq=False)
class Reloader:
    """See the module's docstring.

    Args:
        current: What holds now.
        read: Reads the configuration as at the start, file and flags.
        apply: Puts another one into force, at once.
        file: The configuration's file, if it has one.

    Attributes:
        error: Why the configuration as it is now on disk does not hold; empty if it does.
    """

    current: Config
    read: Callable[[], Config]
    apply: Callable[[Config], None]
    file: Path | None = None
    error: str = field(default="", init=False)
    _seen: tuple[int, int, int] | None = field(default=None, init=False)
    _one_at_a_time: trio.Lock = field(factory=trio.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self._seen = self._look()

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reload when the file has changed, until cancelled."""
        task_status.started()
        before = self._seen
        while True:
            await trio.sleep(LOOK_S)
            seen = self._look()
            # Not while it is being written, and not while it is not there.
            if seen is not None and seen == before and seen != self._seen:
                self._seen = seen
                await self.reload()
            before = seen

    async def reload(self) -> list[str]:
        """Read, check, and apply what differs; return the keys, or none if it cannot be used.

        `error` tells which.
        """
        log = structlog.get_logger("appliance")
        async with self._one_at_a_time:
            try:
                config = await _in_thread(self.read)
                changed = difference(self.current, config)
            except ConfigError as error:
                self.error = str(error)
                log.warning("configuration not applied", error=self.error)
                return []
            except Exception as error:  # noqa: BLE001  a fault of ours here is not the robots' affair
                self.error = f"{type(error).__name__}: {error}"
                log.error("configuration not applied", exception=traceback.format_exc())  # noqa: TRY400
                return []
            self.error = ""
            if changed:
                self.apply(config)
                self.current = config
            log.info("configuration applied", changed=changed)
            return changed

    def _look(self) -> tuple[int, int, int] | None:
        """Return what tells one state of the file from another."""
        if self.file is None:
            return None
        try:
            status = self.file.stat()
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


@define(eq=False)
class ModelWatch:
    """Looks whether the model repository has changed since its models were loaded.

    Args:
        served: What was found there when it was loaded.

    Attributes:
        pending: What has changed, in words; it takes effect when it is loaded (see `rollout`), or
            in the next instance.
    """

    directory: Path
    served: list[ModelEntry]
    pending: list[str] = field(factory=list[str], init=False)
    _seen: Stamp = field(default=(), init=False)

    def serve(self, entries: Sequence[ModelEntry]) -> None:
        """Note that others are served from now on."""
        self.served = list(entries)
        self._seen = ()  # look again

    async def watch(self) -> None:
        """Look once a second, until cancelled. A disk that hangs holds up nothing else."""
        while True:
            await self.look()
            await trio.sleep(LOOK_S)

    async def look(self) -> None:
        """Bring `pending` up to date; what is new in it goes to the log."""
        seen = await _in_thread(lambda: stamp(self.directory))
        if seen == self._seen:
            return
        try:
            found = await _in_thread(Repository(self.directory).scan)
        except ConfigError as error:
            pending = [str(error)]
        except Exception as error:  # noqa: BLE001  a fault of ours here is not the robots' affair
            pending = [f"{self.directory}: {type(error).__name__}: {error}"]
        else:
            pending = changes(self.served, found)
        self._seen = seen
        log = structlog.get_logger("appliance")
        for change in pending:
            if change not in self.pending:
                log.warning("models changed on disk", change=change)
        self.pending = pending


async def _in_thread(look: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(look, abandon_on_cancel=True)
