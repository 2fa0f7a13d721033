"""What a file in the trace event format has to keep to, so that it is shown as it is meant."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

REQUIRED = {
    "X": {"name", "cat", "pid", "tid", "ts", "dur"},
    "i": {"name", "cat", "pid", "tid", "ts", "s"},
    "s": {"name", "cat", "pid", "tid", "ts", "id"},
    "f": {"name", "cat", "pid", "tid", "ts", "id", "bp"},
    "C": {"name", "pid", "ts", "args"},
    "M": {"name", "pid", "tid", "args"},
}


def check(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Check all events; return them by phase."""
    events: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in document["traceEvents"]:
        assert event.keys() >= REQUIRED[event["ph"]], event
        assert isinstance(event.get("ts", 0), int)
        assert event.get("dur", 0) >= 0
        events[event["ph"]].append(event)
    _check_slices(events["X"])
    _check_names(events)
    _check_flows(events)
    for counter in events["C"]:
        assert all(count >= 0 for count in counter["args"].values())
    if events["C"]:
        assert not any(events["C"][-1]["args"].values()), "somebody waits for ever"
    return events


def _check_slices(slices: list[dict[str, Any]]) -> None:
    """Slices of one track lie within each other or beside each other."""
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in slices:
        tracks[event["pid"], event["tid"]].append((event["ts"], -event["dur"]))
    for spans in tracks.values():
        open_ends: list[int] = []
        for begin, minus_duration in sorted(spans):
            while open_ends and open_ends[-1] <= begin:
                open_ends.pop()
            end = begin - minus_duration
            assert not open_ends or end <= open_ends[-1], "slices overlap"
            open_ends.append(end)


def _check_names(events: dict[str, list[dict[str, Any]]]) -> None:
    """Each process and track that is used has a name, once."""
    named = [(e["name"], e["pid"], e["tid"]) for e in events["M"]]
    assert len(named) == len(set(named))
    for event in (each for phase in "Xi" for each in events[phase]):
        assert ("thread_name", event["pid"], event["tid"]) in named
        assert ("process_name", event["pid"], 0) in named


def _check_flows(events: dict[str, list[dict[str, Any]]]) -> None:
    """Each arrow begins once and ends once, within slices."""
    begins, ends = ([e["id"] for e in events[phase]] for phase in "sf")
    assert begins == ends
    assert len(set(begins)) == len(begins)
    slices: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in events["X"]:
        slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for event in (*events["s"], *events["f"]):
        spans = slices[event["pid"], event["tid"]]
        assert any(begin <= event["ts"] <= end for begin, end in spans)
