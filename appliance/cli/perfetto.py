"""The timeline in the trace event format that ui.perfetto.dev opens. Pure: documents to events.

A track for each worker with its batches; one for each robot with the waiting and the execution of
its rows, an arrow from each row to its batch, and an instant for each drop; a counter of what was
queued. Times are microseconds since the start of the appliance.
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attrs import define, field

from appliance.cli.text import plain

if TYPE_CHECKING:
    from appliance.metrics.status import Drop, TimelineBatch, TimelineRow

Event = dict[str, Any]

WORKERS, ROBOTS, QUEUE = 1, 2, 3
"""Processes of the trace."""

_PROCESSES = {WORKERS: "workers", ROBOTS: "robots", QUEUE: "queue"}


@define(eq=False)
class Tracks:
    """Numbers of the tracks of one process, where slices must not overlap.

    What would overlap goes to a further track of the same name.
    """

    process: int
    _free_us: dict[str, list[int]] = field(factory=dict[str, "list[int]"], init=False)
    _numbers: dict[tuple[str, int], int] = field(factory=dict[tuple[str, int], int], init=False)

    def take(self, name: str, begin_us: int, end_us: int) -> int:
        """Return the first track of `name` that is free at `begin_us`."""
        free = self._free_us.setdefault(name, [])
        for index, free_us in enumerate(free):
            if free_us <= begin_us:
                free[index] = end_us
                break
        else:
            index = len(free)
            free.append(end_us)
        return self._numbers.setdefault((name, index), len(self._numbers) + 1)

    def first(self, name: str) -> int:
        """Return the first track of `name`."""
        if name not in self._free_us:
            self._free_us[name] = [0]
        return self._numbers.setdefault((name, 0), len(self._numbers) + 1)

    def metadata(self) -> Iterator[Event]:
        """Name the process and its tracks."""
        yield _name("process_name", self.process, 0, _PROCESSES[self.process])
        for (name, index), number in self._numbers.items():
            label = plain(name) or "several"
            shown = label if not index else f"{label} ({index + 1})"
            yield _name("thread_name", self.process, number, shown)


@define(eq=False)
class Trace:
    """Makes events of batches and drops, in the order of the timeline; at the end, of all of them.

    Attributes:
        batches, drops, rows: Taken so far.
    """

    batches: int = field(default=0, init=False)
    drops: int = field(default=0, init=False)
    rows: int = field(default=0, init=False)
    _queued: list[tuple[int, int, str]] = field(factory=list[tuple[int, int, str]], init=False)
    _workers: Tracks = field(factory=lambda: Tracks(WORKERS), init=False)
    _robots: Tracks = field(factory=lambda: Tracks(ROBOTS), init=False)

    def batch(self, batch: TimelineBatch) -> Iterator[Event]:
        """Return the events of a batch that is over."""
        self.batches += 1
        end = batch["end"]
        if end == "revoked" or not batch["started_us"]:
            track = self._workers.first(batch["worker"])
            name = f"{plain(batch['model'])} {end}"
            yield _instant(WORKERS, track, name, batch["ended_us"], _about(batch))
            return
        end_us = batch["finished_us"] or batch["ended_us"]
        begin_us = batch["started_us"]
        if batch["finished_us"]:
            begin_us = end_us - batch["batch_us"] - batch["execute_us"]
        track = self._workers.take(batch["worker"], begin_us, end_us)
        name = plain(batch["model"]) + ("" if end == "finished" else f" {end}")
        yield _slice(WORKERS, track, name, begin_us, end_us, _about(batch))
        if batch["finished_us"]:
            execute_us = end_us - batch["execute_us"]
            yield _slice(WORKERS, track, "gather", begin_us, execute_us)
            yield _slice(WORKERS, track, "execute", execute_us, end_us)
        for row in batch["rows"]:
            yield from self._row(batch, row, (track, begin_us))

    def _row(self, batch: TimelineBatch, row: TimelineRow, at: tuple[int, int]) -> Iterator[Event]:
        client, received_us, slack_us, outcome = row
        started_us, ended_us = batch["started_us"], batch["ended_us"]
        self.rows += 1
        track = self._robots.take(client, received_us, ended_us)
        about = {"batch": batch["id"], "slack_us": slack_us, "outcome": outcome}
        yield _slice(ROBOTS, track, plain(batch["model"]), received_us, ended_us, about)
        yield _slice(ROBOTS, track, "queue", received_us, started_us)
        flow = {"name": "row", "cat": "row", "id": self.rows}
        begin_us = max(received_us, at[1])
        yield {**flow, "ph": "s", "pid": ROBOTS, "tid": track, "ts": received_us}
        yield {**flow, "ph": "f", "bp": "e", "pid": WORKERS, "tid": at[0], "ts": begin_us}
        self._waited(batch["model"], received_us, started_us)

    def drop(self, drop: Drop) -> Event:
        """Return the event of a request that ended other than OK, or of several only counted."""
        self.drops += drop["count"]
        about = {key: drop[key] for key in ("model", "message", "count", "waited_us", "miss")}
        track = self._robots.first(drop["client"])
        if drop["count"] == 1:
            self._waited(drop["model"], drop["at_us"] - drop["waited_us"], drop["at_us"])
        return _instant(ROBOTS, track, drop["outcome"], drop["at_us"], about)

    def _waited(self, model: str, since_us: int, until_us: int) -> None:
        if until_us > since_us:
            self._queued += ((since_us, 1, model), (until_us, -1, model))

    def _counters(self) -> Iterator[Event]:
        """Say at each change how many wait, by model."""
        names = sorted({plain(model) or "not served" for _, _, model in self._queued})
        waiting = dict.fromkeys(names, 0)
        changes = sorted(self._queued)
        for index, (at_us, change, model) in enumerate(changes):
            waiting[plain(model) or "not served"] += change
            if index + 1 < len(changes) and changes[index + 1][0] == at_us:
                continue
            yield {
                "name": "queued",
                "ph": "C",
                "pid": QUEUE,
                "tid": 0,
                "ts": at_us,
                "args": dict(waiting),
            }

    def closing(self) -> Iterator[Event]:
        """Return what is known at the end: the tracks' names, and how many were queued when."""
        yield from self._workers.metadata()
        yield from self._robots.metadata()
        yield _name("process_name", QUEUE, 0, _PROCESSES[QUEUE])
        yield from self._counters()


def _name(what: str, process: int, track: int, name: str) -> Event:
    return {"name": what, "ph": "M", "pid": process, "tid": track, "args": {"name": name}}


def _about(batch: TimelineBatch) -> dict[str, Any]:
    return {
        "batch": batch["id"],
        "version": batch["version"],
        "generation": batch["generation"],
        "rows": len(batch["rows"]),
        "robots": ", ".join(plain(client) for client, *_ in batch["rows"][:32]),
        "staged_us": batch["staged_us"],
        "started_us": batch["started_us"],
        "error": batch["error"],
    }


def _slice(
    process: int,
    track: int,
    name: str,
    begin_us: int,
    end_us: int,
    about: dict[str, Any] | None = None,
) -> Event:
    return {
        "name": name,
        "cat": _PROCESSES[process],
        "ph": "X",
        "pid": process,
        "tid": track,
        "ts": begin_us,
        "dur": max(0, end_us - begin_us),
        "args": about or {},
    }


def _instant(process: int, track: int, name: str, at_us: int, about: dict[str, Any]) -> Event:
    return {
        "name": name,
        "cat": "drop" if process == ROBOTS else _PROCESSES[process],
        "ph": "i",
        "s": "t",
        "pid": process,
        "tid": track,
        "ts": at_us,
        "args": about,
    }
