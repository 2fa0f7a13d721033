"""Keeps a reader of the devices' health, hands on what it says, and has the latest of it to show.

A reader that says nothing for too long is killed, one that has ended is followed by another, later
and later while none can read anything. One that is stuck in the kernel and cannot even be killed is
waited for: a second one would get stuck, too. Without readings clocks count as free, so that the
scheduler learns how long batches take from the batches alone.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import cast

import attrs
import structlog
import trio
from attrs import define, field

from appliance.engines.cuda.driver import ordinal_of
from appliance.errors import PeerProtocolError
from appliance.health.clocks import Clocks
from appliance.health.concerns import concerns
from appliance.health.reading import MOST_LINE_BYTES, DeviceHealth, from_line
from appliance.metrics.status import Device
from appliance.timeslice import LOADING_NS, set_time_slice

START_S = 30.0
"""Until the first line: a driver that nobody used before takes its time."""

SILENCE_S = 5.0
"""Between two lines."""

FIRST_PAUSE_S, MOST_PAUSE_S = 1.0, 60.0
"""Before the next reader; doubled each time that one had nothing to say."""

CLOSE_S = 1.0
"""For a reader to be gone that was killed."""

LOGGED_NS = 60_000_000_000
"""A device's throttling is logged once in so long: at its power limit it may come and go with each
reading."""

NOT_YET, ENDED = "not read yet", "the process that read it has ended"


@define(eq=False)
class _Watched:
    """One device.

    Attributes:
        slots: The workers that compute on it.
        read_ns: When `latest` was read.
        logged_ns: When its throttling was logged last; None: never.
    """

    slots: tuple[str, ...]
    latest: DeviceHealth
    read_ns: int
    clocks: Clocks = field(factory=Clocks, init=False)
    logged_ns: int | None = field(default=None, init=False)


@define(eq=False)
class HealthMonitor:
    """See the module's docstring.

    Args:
        workers: The device of each worker slot, by name; those on the CPU do not matter.
        on_clocks: Told with each reading how far the clocks of slots' devices are held down, by
            slot: how many times slower than usual they are. Must not block or raise.
        clock: Monotonic nanoseconds.
        arguments: For the reader, beside the devices.
        environment: For the reader; None: our own.
    """

    workers: Mapping[str, str]
    on_clocks: Callable[[Mapping[str, float]], None]
    clock: Callable[[], int] = time.monotonic_ns
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] | None = None
    _devices: dict[str, _Watched] = field(init=False)
    _stuck: trio.Process | None = field(default=None, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=lambda: structlog.get_logger("health"), init=False
    )

    def __attrs_post_init__(self) -> None:
        slots: dict[str, list[str]] = {}
        for slot, device in self.workers.items():
            ordinal = ordinal_of(device)
            if ordinal is not None:
                slots.setdefault(f"cuda:{ordinal}", []).append(slot)
        self._devices = {
            device: _Watched(tuple(names), DeviceHealth(device=device, error=NOT_YET), self.clock())
            for device, names in slots.items()
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a reader until cancelled; return at once if no worker computes on a GPU."""
        task_status.started()
        pause_s = FIRST_PAUSE_S
        while self._devices:
            has_read, why = await self._follow_reader()
            self._lose(why)
            pause_s = FIRST_PAUSE_S if has_read else min(2 * pause_s, MOST_PAUSE_S)
            await trio.sleep(pause_s)

    def documents(self) -> list[Device]:
        """Return what is known of each device."""
        now_ns = self.clock()
        return [
            cast(
                "Device",
                {
                    **attrs.asdict(watched.latest),
                    "holds": list(watched.latest.holds),
                    "workers": list(watched.slots),
                    "slowdown": round(watched.clocks.slowdown, 3),
                    "concerns": [concern.found for concern in concerns(watched.latest)],
                    "age_s": round((now_ns - watched.read_ns) / 1e9, 1),
                },
            )
            for watched in self._devices.values()
        ]

    # ------------------------------------------------------------------------------- reader

    async def _follow_reader(self) -> tuple[bool, str]:
        """Start a reader and take in what it says until it ends.

        Returns:
            Whether it could read anything, and why it is over.
        """
        if self._stuck is not None and self._stuck.poll() is None:
            return False, "the process that read it hangs in the driver, and cannot be killed"
        self._stuck = None
        try:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "appliance.health", *self.arguments, *self._devices],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                env=self.environment,
            )
        except OSError as error:
            return False, f"no process to read it: {error.strerror}"
        has_read = False
        try:
            set_time_slice(LOADING_NS, process.pid)  # who answers robots is let in first
            assert process.stdout is not None
            buffered, patience_s = bytearray(), START_S
            while (lines := await _receive(process.stdout, buffered, patience_s)) is not None:
                for line in lines:
                    has_read = self._take(from_line(line)) or has_read
                    patience_s = SILENCE_S
        except trio.TooSlowError:
            return has_read, "the process that reads it has said nothing for too long"
        except PeerProtocolError as error:
            return has_read, str(error)
        finally:
            await self._end(process)
        return has_read, ENDED

    async def _end(self, process: trio.Process) -> None:
        """End a reader by force: it has nothing to finish."""
        with suppress(ProcessLookupError):
            process.kill()
        with trio.move_on_after(CLOSE_S, shield=True):
            await process.wait()
        if process.returncode is None:
            self._stuck = process
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            await trio.aclose_forcefully(pipe)

    # ----------------------------------------------------------------------------- readings

    def _take(self, readings: Sequence[DeviceHealth]) -> bool:
        """Take in a reading of each device; return whether any says anything."""
        for reading in readings:
            watched = self._devices.get(reading.device)
            if watched is not None:
                self._note(watched, reading)
                watched.latest, watched.read_ns = reading, self.clock()
                watched.clocks.read(reading)
        self._tell()
        return any(not reading.error for reading in readings)

    def _lose(self, why: str) -> None:
        """Nothing is known any more; a reader that ended may have said why."""
        for watched in self._devices.values():
            if why != ENDED or watched.latest.error in ("", NOT_YET):
                lost = attrs.evolve(watched.latest, error=why, holds=())
                self._note(watched, lost)
                watched.latest = lost
            watched.clocks.read(watched.latest)
        self._tell()

    def _tell(self) -> None:
        self.on_clocks(
            {
                slot: watched.clocks.slowdown
                for watched in self._devices.values()
                for slot in watched.slots
            }
        )

    def _note(self, watched: _Watched, reading: DeviceHealth) -> None:
        """Log what is new and bad."""
        before, now_ns, device = watched.latest, self.clock(), reading.device
        if reading.error:
            if reading.error != before.error:
                self._log.warning("GPU health unknown", device=device, error=reading.error)
            return
        if (reading.xids or 0) > (before.xids or 0):
            self._log.error("GPU error", device=device, xid=reading.last_xid)
        if (reading.ecc_uncorrected or 0) > (before.ecc_uncorrected or 0):
            self._log.error(
                "GPU memory error", device=device, ecc_uncorrected=reading.ecc_uncorrected
            )
        is_due = watched.logged_ns is None or now_ns - watched.logged_ns > LOGGED_NS
        if reading.holds and not before.holds and is_due:
            watched.logged_ns = now_ns
            self._log.warning(
                "GPU throttled",
                device=device,
                by=list(reading.holds),
                clock_mhz=reading.clock_mhz,
                temperature_c=reading.temperature_c,
            )


async def _receive(
    stream: trio.abc.ReceiveStream, buffered: bytearray, patience_s: float
) -> list[str] | None:
    """Return the lines that have come, which may be none yet; None: no more do.

    Args:
        buffered: Keeps the beginning of the next one.

    Raises:
        TooSlowError: Nothing comes.
        PeerProtocolError: A line is too long.
    """
    with trio.fail_after(patience_s):
        some = await stream.receive_some(MOST_LINE_BYTES)
    if not some:
        return None
    *lines, rest = bytes(buffered + some).split(b"\n")
    if len(rest) > MOST_LINE_BYTES:
        raise PeerProtocolError("a line of readings does not end")
    buffered[:] = rest
    return [line.decode(errors="replace") for line in lines]
