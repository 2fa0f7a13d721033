"""`appliance trace`: what it writes, what it says, and what it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import perfetto

from appliance.cli import main
from appliance.cli.perfetto import QUEUE, ROBOTS, WORKERS, Trace

Serve = Callable[[dict[str, list[Any]]], str]
Capture = pytest.CaptureFixture[str]


def batch(number: int, received_us: int = 0, **differing: Any) -> dict[str, Any]:
    """A batch of two rows: 1 ms queued, 2 ms gathered, 3 ms executed, answered 1 ms later."""
    return {
        "id": number,
        "end": "finished",
        "model": "arm",
        "version": "1",
        "worker": "cpu-0",
        "generation": 1,
        "staged_us": received_us + 1000,
        "started_us": received_us + 1000,
        "finished_us": received_us + 6000,
        "ended_us": received_us + 7000,
        "batch_us": 2000,
        "execute_us": 3000,
        "error": "",
        "rows": [["arm-1", received_us, 5000, "OK"], ["arm-2", received_us + 500, -1, "OK"]],
        **differing,
    }


def drop(at_us: int, **differing: Any) -> dict[str, Any]:
    return {
        "at_us": at_us,
        "waited_us": 500,
        "client": "arm-1",
        "model": "arm",
        "outcome": "EXPIRED",
        "message": "too late",
        "count": 1,
        "miss": True,
        **differing,
    }


def document(now_us: int, cursor: str = "c", **differing: Any) -> dict[str, Any]:
    nothing = {"batches": 0, "drops": 0}
    return {
        "instance": "ab",
        "now_us": now_us,
        "unix_s": 1000.0,
        "span_s": 30,
        "cursor": cursor,
        "missed": nothing,
        "more": nothing,
        "running": [],
        "batches": [],
        "drops": [],
        **differing,
    }


def answers(**by_cursor: list[Any]) -> dict[str, list[Any]]:
    return {f"GET /v1/timeline?since={key}": bodies for key, bodies in by_cursor.items()}


def events_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    return perfetto.check(json.loads(path.read_text()))


# ----------------------------------------------------------------------------------- events


def made(*batches: Any, drops: Any = ()) -> dict[str, list[dict[str, Any]]]:
    trace = Trace()
    events = [event for each in batches for event in trace.batch(each)]
    events += [trace.drop(each) for each in drops]
    return perfetto.check({"traceEvents": [*events, *trace.closing()]})


def test_a_batch_is_a_slice_on_its_worker_and_its_rows_are_on_their_robots() -> None:
    events = made(batch(7, 10_000))
    slices = {(e["pid"], e["name"]): (e["ts"], e["dur"]) for e in events["X"] if e["tid"] == 1}
    assert slices[WORKERS, "arm"] == (11_000, 5000)
    assert slices[WORKERS, "gather"] == (11_000, 2000)
    assert slices[WORKERS, "execute"] == (13_000, 3000)
    assert slices[ROBOTS, "arm"] == (10_000, 7000)
    assert slices[ROBOTS, "queue"] == (10_000, 1000)
    names = {e["args"]["name"] for e in events["M"]}
    assert names == {"workers", "robots", "queue", "cpu-0", "arm-1", "arm-2"}
    about = next(e["args"] for e in events["X"] if e["pid"] == WORKERS)
    assert (about["batch"], about["robots"]) == (7, "arm-1, arm-2")
    queued = [(e["ts"], e["args"]) for e in events["C"] if e["pid"] == QUEUE]
    assert queued == [(10_000, {"arm": 1}), (10_500, {"arm": 2}), (11_000, {"arm": 0})]


def test_drops_are_instants_with_their_cause() -> None:
    events = made(drops=[drop(9000), drop(9999, client="", model="", count=40)])
    alone, counted = events["i"]
    assert (alone["name"], alone["ts"], alone["args"]["message"]) == ("EXPIRED", 9000, "too late")
    assert counted["args"]["count"] == 40
    assert {e["args"]["name"] for e in events["M"]} >= {"arm-1", "several"}


def test_what_came_to_nothing() -> None:
    nothing = {"finished_us": 0, "batch_us": 0, "execute_us": 0}
    events = made(
        batch(1, end="revoked", started_us=0, **nothing), batch(2, 9000, end="lost", **nothing)
    )
    assert [e["name"] for e in events["i"]] == ["arm revoked"]
    assert "arm lost" in [e["name"] for e in events["X"]]


@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)),
        max_size=30,
    )
)
def test_whatever_comes_slices_never_cross(times: list[tuple[int, int, int, int]]) -> None:
    batches = [
        batch(
            number,
            started_us=received + queued,
            finished_us=received + queued + ran,
            ended_us=received + queued + ran + replied,
            batch_us=ran // 3,
            execute_us=ran - ran // 3,
            rows=[["a", received, 1, "OK"], ["b\x1b", received, None, None]],
        )
        for number, (received, queued, ran, replied) in enumerate(times)
    ]
    made(*batches, drops=[drop(received) for received, *_ in times])


# ---------------------------------------------------------------------------------- command


def test_so_long_from_now(serve_admin: Serve, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out.json"
    path = serve_admin(
        answers(
            newest=[document(1_000_000)],
            c=[
                document(1_600_000, "d", batches=[batch(1, 1_100_000)]),
            ],
            d=[
                document(
                    2_100_000,
                    batches=[batch(2, 1_900_000), batch(3, 1_999_000)],
                    drops=[drop(1_950_000), drop(2_000_001)],
                ),
            ],
        )
    )
    assert main(["trace", "1", str(out), "--socket", path]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: 2 batches, 4 rows, 1 drops, ")
    batches = [e["args"]["batch"] for e in events_of(out)["X"] if e["pid"] == WORKERS and e["args"]]
    assert batches == [1, 2]  # the third ended after the second was over
    assert json.loads(out.read_text())["otherData"]["zero"] == {"unix_s": 999.0}
    assert list(tmp_path.glob("out*")) == [out]


def test_the_last_seconds_part_by_part(serve_admin: Serve, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    more = {"batches": 1, "drops": 0}
    first = document(40_000_000, "d", batches=[batch(1, 5_000_000), batch(2, 39_000_000)])
    then = document(41_000_000, batches=[batch(3, 39_500_000)])
    path = serve_admin(answers(**{"": [{**first, "more": more}], "d": [then]}))
    assert main(["trace", "10", str(out), "--last", "--socket", path]) == 0
    batches = [e["args"]["batch"] for e in events_of(out)["X"] if e["pid"] == WORKERS and e["args"]]
    assert batches == [2, 3]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (None, "it ends early: "),
        ({"instance": "cd"}, "it ends early: the appliance was started anew"),
        ({"missed": {"batches": 4, "drops": 2}}, "4 batches and 2 drops are missing"),
    ],
)
def test_what_is_missing_is_said(
    serve_admin: Serve, tmp_path: Path, capsys: Capture, second: Any, said: str
) -> None:
    out = tmp_path / "out.json"
    body = None if second is None else document(2_000_000, **second)
    first = document(1_000_000)
    whole = document(1_500_000, "d", batches=[batch(1, 1_100_000)])
    path = serve_admin(answers(newest=[first], c=[whole], d=[body]))
    assert main(["trace", "1", str(out), "--socket", path]) == 1
    assert said in capsys.readouterr().out
    assert events_of(out)["X"]


def test_ctrl_c_ends_it_and_keeps_what_there_is(
    serve_admin: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out.json"
    whole = document(1_500_000, "d", batches=[batch(1, 1_100_000)])
    path = serve_admin(answers(newest=[{**document(1_000_000), "more": {"drops": 1}}], c=[whole]))
    monkeypatch.setattr("appliance.cli.trace.time.sleep", interrupted)
    assert main(["trace", "60", str(out), "--socket", path]) == 0
    assert events_of(out)["X"]


def test_nobody_there_leaves_nothing(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out.json"
    assert main(["trace", "1", str(out), "--socket", str(tmp_path / "absent.sock")]) == 2
    assert "is the appliance running?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_left_alone(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out.json"
    out.write_text("mine")
    assert main(["trace", "1", str(out), "--socket", str(tmp_path / "absent.sock")]) == 2
    assert "is there already; choose another name" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_a_directory_that_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "no" / "out.json"
    assert main(["trace", "1", str(out), "--socket", "x"]) == 2
    assert f"{out}: cannot be written: No such file" in capsys.readouterr().err


def test_no_room_for_the_file(serve_admin: Serve, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    batches = [batch(number, 39_000_000) for number in range(20)]
    path = serve_admin(answers(**{"": [document(40_000_000, batches=batches)]}))
    words = [sys.executable, "-m", "appliance", "trace", "9", str(out), "--last", "--socket", path]
    command = ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == f"appliance: error: {out}: cannot be written: File too large\n"
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.parametrize(
    "words", [["trace"], ["trace", "5"], ["trace", "0", "a"], ["trace", "inf", "a"]]
)
def test_mistakes_are_usage_errors(words: list[str]) -> None:
    assert main(words) == 2


def test_another_kind_of_answer(serve_admin: Serve, tmp_path: Path, capsys: Capture) -> None:
    path = serve_admin(answers(newest=[{"state": "ready"}]))
    assert main(["trace", "1", str(tmp_path / "out.json"), "--socket", path]) == 2
    assert "is it of this version?" in capsys.readouterr().err
