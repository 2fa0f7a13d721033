import io
import json
from pathlib import Path
from typing import cast

import cli_documents
import pytest
from PIL import Image
from rich.console import Console

from appliance.cli.demo.book import Book, Pending
from appliance.cli.demo.ledgers import reconcile
from appliance.cli.demo.plot import draw, points, write_plot
from appliance.cli.demo.report import make_document, summary
from appliance.cli.demo.reports import RobotReport, SdkLedger
from appliance.cli.demo.roster import MODELS
from appliance.cli.demo.run import _plot
from appliance.cli.demo.view import running_line, running_view
from appliance.errors import Outcome
from appliance.metrics.status import Model, Status

MS = 1_000_000

# ------------------------------------------------------------------------------------ ledgers


def sdk(**changes: object) -> SdkLedger:
    ledger = SdkLedger(
        asked=10,
        sent=10,
        outcomes={"OK": 7, "RATE_LIMITED": 3},
        superseded_locally=0,
        cancelled_locally=0,
        unanswered=0,
        stale_dropped=0,
        unmatched=0,
        bad_answers=0,
    )
    return SdkLedger(**{**ledger, **changes})  # type: ignore[typeddict-item]


def server(
    *,
    asked: int = 10,
    outcomes: dict[str, int] | None = None,
    lost: dict[str, int] | None = None,
    rows: int = 7,
    wasted: dict[str, int] | None = None,
) -> Status:
    status = cast("Status", cli_documents.status())
    outcomes = {"OK": 7, "RATE_LIMITED": 3} if outcomes is None else outcomes
    status["requests"]["asked"] = asked
    status["outcomes"] = outcomes
    status["replies_lost"] = lost or {}
    status["ledger"]["wasted"] = wasted or {}
    for worker in status["workers"]:
        worker["rows_finished"] = 0
    status["workers"][0]["rows_finished"] = rows
    return status


def test_equal_ledgers() -> None:
    assert reconcile([sdk()], server())["equal"]
    two = reconcile(
        [sdk(), sdk()], server(asked=20, outcomes={"OK": 14, "RATE_LIMITED": 6}, rows=14)
    )
    assert two["equal"]
    assert two["sdks"]["outcomes"] == two["server"]["outcomes"]


def test_what_never_left_a_robot_is_not_the_servers() -> None:
    local = sdk(
        asked=13,
        superseded_locally=2,
        cancelled_locally=1,
        outcomes={"OK": 7, "RATE_LIMITED": 3, "SUPERSEDED": 2, "CANCELLED": 1},
    )
    assert reconcile([local], server())["differences"] == []


def test_lost_replies_and_clients_that_left_explain_what_robots_did_not_hear() -> None:
    deaf = sdk(outcomes={"OK": 5, "RATE_LIMITED": 3}, unanswered=2)
    lost = reconcile([deaf], server(lost={"slow_reader": 2}))
    assert lost["equal"]
    gone = server(
        outcomes={"OK": 5, "RATE_LIMITED": 3, "CLIENT_GONE": 2}, wasted={"client_gone": 2}
    )
    assert reconcile([deaf], gone)["equal"]
    assert not reconcile([deaf], server())["equal"]


@pytest.mark.parametrize(
    ("ledger", "status", "found"),
    [
        (sdk(asked=11), server(), "an SDK asked 11, but 10 ended"),
        (sdk(), server(asked=9, outcomes={"OK": 6, "RATE_LIMITED": 3}, rows=6), "SDKs sent 10"),
        (sdk(), server(outcomes={"OK": 7, "SHED": 3}), "SHED: SDKs heard 0, the server counts 3"),
        (sdk(), server(outcomes={"OK": 7}), "the server counts 10 asked, but 7 ended"),
        (sdk(), server(rows=8), "engines finished 8 rows"),
        (sdk(), server(rows=7, wasted={"worker_lost": 1}), "engines finished 6 rows"),
    ],
)
def test_every_difference_is_found(ledger: SdkLedger, status: Status, found: str) -> None:
    ledgers = reconcile([ledger], status)
    assert not ledgers["equal"]
    assert any(found in difference for difference in ledgers["differences"])


# ------------------------------------------------------------------------------------- report


def report(**changes: object) -> RobotReport:
    book = Book(keeps_all=True)
    for sequence in range(1, 101):
        book.ask(sequence, Pending(0, MS, tick=0))
        book.end(sequence, Outcome.OK, sequence * MS)
    made = RobotReport(
        name="arm-1",
        role="arm",
        model="policy",
        rate_hz=10.0,
        p50_ms=book.percentile_ms(50),
        p99_ms=book.percentile_ms(99),
        p99_9_ms=book.percentile_ms(99.9),
        max_ms=book.percentile_ms(100),
        answered=100,
        misses=book.misses,
        dry_steps=0,
        wrong=0,
        held_back=0,
        sdk=sdk(),
        histogram=book.histogram.encode().decode(),
    )
    return RobotReport(**{**made, **changes})  # type: ignore[typeddict-item]


def complete() -> Status:
    """A status in which every model of the demo has answered."""
    status = server()
    models = [cli_documents.model(name, outcomes={"OK": 1}) for name in MODELS]
    status["models"] = cast("list[Model]", models)
    return status


def test_a_good_run_makes_one_document() -> None:
    document = make_document(seconds=10, reports=[report()], status=complete())
    assert document["ok"]
    assert document["problems"] == []
    assert json.loads(json.dumps(document)) == document
    assert document["requests"] == sum(document["outcomes"].values()) == 10
    (robot,) = document["robots"]
    assert (robot["p50_ms"], robot["misses"]) == (pytest.approx(50, rel=0.001), 99)
    assert "histogram" not in robot


def test_a_model_that_never_answered_is_a_problem() -> None:
    status = complete()
    status["models"][1]["outcomes"] = {"EXPIRED": 4}
    document = make_document(seconds=10, reports=[report()], status=status)
    assert document["problems"] == [f"{MODELS[1]}: no observation was answered"]
    assert not document["ok"]


def test_wrong_answers_and_unequal_ledgers_are_problems() -> None:
    document = make_document(
        seconds=10, reports=[report(wrong=2, sdk=sdk(asked=11))], status=complete()
    )
    assert any("arm-1: 2 of 100 answers are wrong" in each for each in document["problems"])
    assert any("the ledgers differ" in each for each in document["problems"])


def text(renderable: object, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(renderable, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_summary_fits_a_narrow_terminal() -> None:
    document = make_document(seconds=10, reports=[report(name="microphone-12")], status=complete())
    document["plot"] = "/somewhere/plot.png"
    shown = text(summary(document))
    assert "microphone-12" in shown
    assert "/somewhere/plot.png" in shown
    assert "not equal" not in shown
    table = [line for line in shown.splitlines() if "p99.9" in line or "microphone" in line]
    assert max(map(len, table)) <= 80


def test_what_is_shown_while_it_runs() -> None:
    status = complete()
    assert "RATE_LIMITED 3" in running_line(status, [], 1.2, 10)
    assert "1 of 10 s" in text(running_view(status, [], 1.2, 10, 80))


# --------------------------------------------------------------------------------------- plot


def test_the_curve_ends_at_the_last_answer() -> None:
    book = Book(keeps_all=True)
    for milliseconds in (1, 2, 3, 4):
        book.ask(milliseconds, Pending(0, MS, tick=0))
        book.end(milliseconds, Outcome.OK, milliseconds * MS)
    nines, latencies = points(book.histogram)
    assert nines == [1.0, pytest.approx(4 / 3), 2.0, 4.0, 4.0]
    assert latencies == pytest.approx([1, 1, 2, 3, 4], rel=0.001)


@pytest.mark.parametrize(
    "reports", [[], [report(), report(role="noisy"), report(role="camera", name="c")]]
)
def test_the_plot_is_a_picture(reports: list[RobotReport]) -> None:
    image = Image.open(io.BytesIO(draw(reports, "title")))
    assert image.format == "PNG"
    assert image.size[0] >= 1000


@pytest.mark.parametrize("place", ["/dev/full", "nowhere/plot.png", "."])
def test_a_plot_that_cannot_be_written_is_a_problem_and_nothing_else(
    place: str, tmp_path: Path
) -> None:
    path = Path(place) if place.startswith("/") else tmp_path / place
    document = make_document(seconds=10, reports=[report()], status=complete())
    _plot(document, [report()], path)
    assert not document["ok"]
    assert document["plot"] is None
    assert len(document["problems"]) == 1
    assert str(path) in document["problems"][0]
    assert list(tmp_path.iterdir()) == []
    assert Path("/dev/full").is_char_device()


def test_a_plot_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    path.write_bytes(b"old")
    write_plot(path, [report()], "title")
    assert path.read_bytes().startswith(b"\x89PNG")
