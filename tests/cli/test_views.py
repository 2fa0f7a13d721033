from io import StringIO
from typing import Any

import pytest
from cli_documents import STAGES, client, latency, model, status, worker
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from support.devices import device

from appliance.cli.status_view import status_view, unreachable_view
from appliance.cli.tables import clients_view, models_view
from appliance.cli.text import duration, milliseconds, optional, plain, size

LONG = "a-model-with-a-name-as-long-as-any-may-be-and-some-more-" + "x" * 8


def rendered(view: RenderableType, width: int = 80) -> str:
    file = StringIO()
    Console(file=file, width=width, color_system=None).print(view)
    text = file.getvalue()
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    return text


def show(document: dict[str, Any], width: int = 80) -> str:
    return rendered(status_view(document, width), width)  # type: ignore[arg-type]


def squeezed(text: str) -> str:
    """Without what folding a long word over several lines puts between its parts."""
    return "".join(text.split())


@pytest.mark.parametrize("width", [80, 160])
def test_ready_shows_what_matters(width: int) -> None:
    text = show(status(), width)
    assert text.startswith("● ready  appliance hall-2 0.1.0 · up 1 h 2 min")
    for expected in (
        "tcp://127.0.0.1:5555",
        "45.2/s",
        "125 asked",
        "120 answered (7 late)",
        "2 in flight",
        "1 queued",
        "OK 120  SUPERSEDED 3",
        "12 connected  15 known  arm-4 runs dry in 35 ms",
        "3.0 MiB of 256 MiB",
        "policy",
        "1.2/3.4",
        "cpu-0",
        "4321",
        "50 MiB",
    ):
        assert expected in text
    for absent in ("replies lost", "ledger", "ended:"):
        assert absent not in text


def test_a_wide_terminal_shows_every_stage() -> None:
    header = next(line for line in show(status(), 160).splitlines() if "rows/batch" in line)
    assert header.split()[-7:] == ["age", "queue", "batch", "execute", "reply", "total", "slack"]


def test_degraded_says_why() -> None:
    reason = "worker cpu-1 is restarting: killed by SIGKILL"
    text = show(
        status(
            state="degraded",
            reasons=[reason],
            replies_lost={"slow_reader": 5},
            models=[
                model(),
                model("broken", state="failed", error="model.onnx: not an ONNX file"),
            ],
            workers=[
                worker(),
                worker(
                    "cpu-1",
                    state="restarting",
                    pid=None,
                    restarts=3,
                    last_cause="SIGKILL",
                    busy=False,
                    remarks=["a runs without CUDA graphs: no stream"],
                ),
            ],
        )
    )
    assert text.startswith("● degraded")
    for expected in (
        reason,
        "slow_reader 5",
        "broken: model.onnx: not an ONNX file",
        "cpu-1 ended: SIGKILL",
        "cpu-1: a runs without CUDA graphs: no stream",
        "restarting",
    ):
        assert expected in text


def test_several_models_have_a_line_over_all() -> None:
    totals = status()["latency_us"] | {"total": latency(p50=8800, p99=9900)}
    text = show(status(models=[model("a"), model("b")], latency_us=totals))
    last = next(line for line in text.splitlines() if line.startswith("all"))
    assert last.split()[1] == "8"
    assert "8.8/9.9" in last
    assert "8.8/9.9" not in show(status(latency_us=totals))


def test_refused_connections_are_shown_if_there_are_any() -> None:
    text = show(status(connections_refused={"no_key": 2, "revoked_key": 7}))
    assert "refused      revoked_key 7  no_key 2" in text
    assert "refused" not in show(status())


@pytest.mark.parametrize(
    ("left_ms", "expected"),
    [
        (35.2, "arm-\\n runs dry in 35 ms"),
        (-4.6, "arm-\\n dry for 5 ms"),
        (0.0, "arm-\\n dry for 0 ms"),
    ],
)
def test_who_runs_dry_first_is_said(left_ms: float, expected: str) -> None:
    counts = {"connected": 1, "known": 1, "disconnects": 0}
    first = {"id": "arm-\n", "runs_dry_in_ms": left_ms}
    assert f"1 known  {expected}\n" in show(status(clients={**counts, "first_dry": first}))
    for unknown in (counts, {**counts, "first_dry": None}):
        assert "dry" not in show(status(clients=unknown))


def test_a_ledger_that_does_not_balance_is_shown() -> None:
    books = status()["ledger"] | {"rows_finished": 140, "balanced": False}
    assert "140 rows finished" in show(status(ledger=books))


def test_no_models_and_no_workers() -> None:
    text = show(status(state="starting", models=[], workers=[], outcomes={}))
    assert "no models" in text
    assert "no workers" in text
    assert "none yet" in text


@pytest.mark.parametrize("width", [80, 200])
def test_gpus_are_shown_with_what_is_wrong_with_them(width: int) -> None:
    hot = device(
        "cuda:1",
        holds=["thermal"],
        slowdown=1.46,
        last_xid=31,
        concerns=["throttled by heat, at 1200 MHz of 1980"],
    )
    lost = device("cuda:2", error="gone", name="", utilisation_percent=None, concerns=["gone"])
    text = show(status(devices=[device(), hot, lost]), width)
    lines = text.splitlines()
    well, throttled, unknown = (
        next(line for line in lines if line.startswith(f"{name} "))
        for name in ("cuda:0", "cuda:1", "cuda:2")
    )
    assert "40.0 GiB of 140.0 GiB" in well
    assert " no " in well
    assert "thermal 1.5x" in throttled
    assert " no " not in unknown
    assert "cuda:1: throttled by heat, at 1200 MHz of 1980" in text
    assert "GPU" not in show(status(), width)


def test_nothing_measured_yet() -> None:
    empty = latency(0, 0, 0)
    silent = model(latency_us=dict.fromkeys(status()["latency_us"], empty))
    line = next(line for line in show(status(models=[silent])).splitlines() if "policy" in line)
    assert line.split()[-4:] == ["-", "-", "-", "-"]


@pytest.mark.parametrize("width", [40, 80, 160])
def test_long_names_are_shown_whole(width: int) -> None:
    document = status(
        models=[model(LONG)], workers=[worker("cpu-0", models=[LONG] * 3)], reasons=["why " * 60]
    )
    text = show(document, width)
    first_column = "".join(line.split(" ")[0] for line in text.splitlines())
    assert LONG in first_column


@pytest.mark.parametrize("width", [80, 110, 160])
def test_names_take_one_line_where_leaving_columns_out_helps(width: int) -> None:
    names = ["a", "detector", "gripper-policy-v2", "text_direction"]
    busy = {"rows": 123_456, "latency_us": dict.fromkeys(STAGES, latency(p50=12_300, p99=45_600))}
    lists = [worker("policies-0", models=names), worker("senses-1", models=names[:1])]
    text = show(status(models=[model(name, **busy) for name in names], workers=lists), width)
    starts = {line.split()[0] for line in text.splitlines() if line and line[0] != " "}
    assert {*names, "policies-0", "senses-1"} <= starts
    header = next(line for line in text.splitlines() if line.startswith("model "))
    assert {"state", "queued", "queue", "execute", "total"} <= set(header.split())
    assert ("version" in header) is (width == 160)


def test_columns_do_not_come_and_go_with_the_figures() -> None:
    def header(p50: int, p99: int) -> list[str]:
        stages = dict.fromkeys(STAGES, latency(p50=p50, p99=p99))
        text = show(status(models=[model(latency_us=stages)], latency_us=stages), 100)
        return next(line.split() for line in text.splitlines() if line.startswith("model "))

    assert header(300, 400) == header(1200, 3400) == header(12_300, 45_600)


def test_escape_sequences_and_markup_from_outside_stay_text() -> None:
    evil = "\x1b[2J[red]\u202e\r\n"
    text = rendered(clients_view([client(evil, type=evil)], 160), 160)  # type: ignore[list-item]
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"\x1b[2J[red]\u202e\r\n" in squeezed(text)


@given(st.text())
def test_plain_text_is_printable_and_ordinary_text_unchanged(text: str) -> None:
    assert plain(text).isprintable()
    if text.isprintable():
        assert plain(text) == text


def test_clients_are_sorted_and_say_whether_they_are_here() -> None:
    gone = client("arm-0", connected=False, silent_s=65.0, cadence_hz=None, last_outcome=None)
    text = rendered(clients_view([client("arm-1"), gone], 80))  # type: ignore[list-item]
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["arm-0", "arm-1"]
    assert "gone 1 min 5 s" in squeezed_spaces(lines[1])
    assert "50.0" in lines[2]
    assert "dry in ms" in lines[0]
    assert rendered(clients_view([], 80)) == "no clients\n"
    overdue = rendered(clients_view([client("arm-2", overdue_ms=35.2)], 80))  # type: ignore[list-item]
    assert "overdue 35 ms" in squeezed_spaces(overdue)


def squeezed_spaces(text: str) -> str:
    return " ".join(text.split())


def test_models_are_listed_with_their_workers_and_errors() -> None:
    failed = model("broken", state="failed", error="no such file", workers=[])
    text = rendered(models_view([model(), failed], 80))  # type: ignore[list-item]
    assert "cpu-0" in text
    assert "broken: no such file" in text
    assert rendered(models_view([], 80)) == "no models\n"


def test_unreachable() -> None:
    assert rendered(unreachable_view("no answer")) == "● unreachable  no answer\n"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (milliseconds(45), "0.04"),
        (milliseconds(1250), "1.2"),
        (milliseconds(250_400), "250"),
        (duration(3.21), "3.2 s"),
        (duration(42), "42 s"),
        (duration(3599), "59 min 59 s"),
        (duration(90_061), "1 d 1 h"),
        (size(512), "512 B"),
        (size(1536), "1.5 KiB"),
        (size(3 << 30), "3.0 GiB"),
        (optional(None), "-"),
        (optional(35.44), "35.4"),
        (optional(35.44, 0), "35"),
    ],
)
def test_numbers(written: str, expected: str) -> None:
    assert written == expected
