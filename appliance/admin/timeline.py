"""The timeline as a document: a bounded part of it, from where the asker has read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import trio
from attrs import define

from appliance.dispatch.results import MICROSECOND_NS
from appliance.dispatch.timeline import SECOND_NS, SPAN_NS, End, Ending, Position, Timeline
from appliance.dispatch.timeline import TimelineBatch as Batch
from appliance.errors import MISSES, AdminError
from appliance.metrics.status import (
    Drop,
    TimelineBatch,
    TimelineCount,
    TimelineDocument,
    TimelineRow,
)

BATCHES, ROWS, DROPS = 16, 64, 32
"""In one part. While it is made, robots wait: about 0.1 ms."""

PARTS = 32
"""In one document; between them, others have their turn."""

NEWEST = "newest"
_CURSOR = re.compile(r"([0-9a-f]{16})\.(\d{1,18})\.(\d{1,18})")
_ENDS = {end: end.name.lower() for end in End}


@define(eq=False)
class TimelineDocuments:
    """Makes the documents.

    Args:
        instance: Of this process: a cursor of another one counts for nothing.
        started_ns: What their times are relative to.
    """

    timeline: Timeline
    instance: str
    started_ns: int

    async def document(
        self, query: Mapping[str, Any], clock: Callable[[], int], wall_clock: Callable[[], float]
    ) -> str:
        """Return `PARTS` parts at most as one document in JSON; otherwise as `read`.

        What has come meanwhile is in it too, so that one question a second is enough.
        """
        part = self.read(query, clock(), wall_clock())
        lists: dict[str, list[str]] = {"batches": [], "drops": []}
        missed = part["missed"]
        for _ in range(PARTS - 1):
            _write(part, lists)
            if not any(part["more"].values()):
                break
            await trio.lowlevel.checkpoint()
            part = self.read({"since": part["cursor"]}, clock(), wall_clock())
            missed["batches"] += part["missed"]["batches"]
            missed["drops"] += part["missed"]["drops"]
        else:
            _write(part, lists)
        rest = {key: each for key, each in part.items() if key not in lists}
        texts = [json.dumps({**rest, "missed": missed})[:-1]]
        texts += [f'"{key}": [{", ".join(written)}]' for key, written in lists.items()]
        return ", ".join(texts) + "}"

    def read(self, query: Mapping[str, Any], now_ns: int, unix_s: float) -> TimelineDocument:
        """Return a part of what is over since the cursor `since`; without one, of all that is kept.

        `since=newest` returns only the cursor behind all of it.

        Raises:
            AdminError: That is no cursor.
        """
        since = self._position(query.get("since", ""))
        is_first = since == Position()
        found = self.timeline.read(since, now_ns, batches=BATCHES, rows=ROWS, endings=DROPS)
        position = found.position
        return TimelineDocument(
            instance=self.instance,
            now_us=self._us(now_ns),
            unix_s=round(unix_s, 6),
            span_s=SPAN_NS // SECOND_NS,
            cursor=f"{self.instance}.{position.batches}.{position.endings}",
            missed=TimelineCount(
                batches=0 if is_first else found.missed[0],
                drops=0 if is_first else found.missed[1],
            ),
            more=TimelineCount(batches=found.more[0], drops=found.more[1]),
            running=[self._batch(each) for each in self.timeline.running()],
            batches=[self._batch(each) for each in found.batches],
            drops=[self._drop(each) for each in found.endings],
        )

    def _position(self, cursor: str) -> Position:
        if not cursor:
            return Position()
        if cursor == NEWEST:
            return self.timeline.end
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise AdminError(
                f"/v1/timeline: since: found {cursor[:80]!r}; allowed: the `cursor` of an earlier "
                f"answer, {NEWEST!r}, or nothing"
            )
        if found[1] != self.instance:
            return Position()
        return Position(int(found[2]), int(found[3]))

    def _us(self, at_ns: int) -> int:
        return (at_ns - self.started_ns) // MICROSECOND_NS if at_ns else 0

    def _batch(self, batch: Batch) -> TimelineBatch:
        return TimelineBatch(
            id=batch.number,
            end=_ENDS[batch.end],
            model=batch.model,
            version=batch.version,
            worker=batch.worker,
            generation=batch.generation,
            staged_us=self._us(batch.staged_ns),
            started_us=self._us(batch.started_ns),
            finished_us=self._us(batch.finished_ns),
            ended_us=self._us(batch.ended_ns),
            batch_us=batch.batch_us,
            execute_us=batch.execute_us,
            error=batch.error,
            rows=self._rows(batch),
        )

    def _rows(self, batch: Batch) -> list[TimelineRow]:
        started_ns, ended_ns = self.started_ns, batch.ended_ns
        return [
            (
                client,
                (received_ns - started_ns) // MICROSECOND_NS,
                None if outcome is None else (deadline_ns - ended_ns) // MICROSECOND_NS,
                None if outcome is None else outcome.name,
            )
            for client, received_ns, deadline_ns, outcome in batch.rows
        ]

    def _drop(self, ending: Ending) -> Drop:
        return Drop(
            at_us=self._us(ending.ended_ns),
            waited_us=max(0, ending.ended_ns - ending.received_ns) // MICROSECOND_NS,
            client=ending.client,
            model=ending.model,
            outcome=ending.outcome.name,
            message=ending.message,
            count=ending.count,
            miss=ending.outcome in MISSES,
        )


def _write(part: TimelineDocument, lists: dict[str, list[str]]) -> None:
    """Write the lists of a part as JSON, without their brackets."""
    for key in ("batches", "drops"):
        if part[key]:
            lists[key].append(json.dumps(part[key])[1:-1])
