"""`appliance top` without a screen: what is shown, in which order, and what stands out."""

from __future__ import annotations

from typing import Any

import pytest
from cli_documents import client, model, status, worker
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from support.devices import device

from appliance.cli.tables import CLIENT_COLUMNS
from appliance.cli.top.grid import Grid
from appliance.cli.top.page import VIEWS, Page, shares
from appliance.cli.top.robots import (
    COLUMNS,
    ORDERS,
    SOON_MS,
    Attention,
    Robot,
    filtered,
    ordered,
    robots,
)
from appliance.cli.top.trend import MOST_SAMPLES, WINDOW_NS, Trend
from appliance.cli.top.viewport import Viewport

SECOND_NS = 1_000_000_000
HOSTILE = "\x1b[2J[bold]\u202e\r\n日本" + "x" * 90


def robot(name: str = "arm-1", risen: int = 0, **changes: Any) -> Robot:
    (found,) = robots([client(name, session=name, **changes)], lambda _: risen)
    return found


documents = st.builds(
    lambda name, **changes: client(name, session=name, **changes),
    st.text(max_size=12),
    connected=st.booleans(),
    cadence_hz=st.none() | st.floats(0.1, 1000),
    jitter_ms=st.none() | st.floats(0, 1000),
    misses=st.integers(0, 50),
    queued=st.integers(0, 2),
    slack_ms=st.none() | st.floats(-1000, 1000),
    runs_dry_in_ms=st.none() | st.floats(-1e6, 1e6),
    last_outcome=st.sampled_from([None, "OK", "EXPIRED"]),
)
crowds = st.lists(documents, max_size=20, unique_by=lambda document: document["session"])


# ---------------------------------------------------------------------------------- attention


@pytest.mark.parametrize(
    ("found", "attention", "words"),
    [
        (robot(), Attention.HERE, "here"),
        (robot(connected=False, silent_s=65.0, misses=9), Attention.GONE, "gone 1 min 5 s"),
        (robot(slack_ms=-0.1), Attention.LATE, "late"),
        (robot(slack_ms=-0.1, overdue_ms=35.2), Attention.LATE, "late"),
        (robot(overdue_ms=35.2), Attention.OVERDUE, "overdue 35 ms"),
        (robot(connected=False, silent_s=2.0, overdue_ms=35.2), Attention.GONE, "gone 2.0 s"),
        (robot(slack_ms=None, last_outcome=None), Attention.HERE, "here"),
        (robot(queued=1, runs_dry_in_ms=SOON_MS - 1), Attention.SOON, "dry soon"),
        (robot(queued=1, runs_dry_in_ms=SOON_MS), Attention.HERE, "here"),
        (robot(queued=0, runs_dry_in_ms=-5.0), Attention.HERE, "here"),  # it was answered since
        (robot(queued=0, runs_dry_in_ms=-5.0, last_outcome="EXPIRED"), Attention.DRY, "dry"),
        (robot(queued=1, runs_dry_in_ms=0.0), Attention.DRY, "dry"),
        (robot(risen=3, queued=1, runs_dry_in_ms=1.0), Attention.MISSES, "misses +3"),
        (robot(risen=3, queued=1, runs_dry_in_ms=-1.0), Attention.DRY, "dry"),
    ],
)
def test_what_is_the_matter_with_a_robot(found: Robot, attention: Attention, words: str) -> None:
    assert (found.attention, found.words) == (attention, words)


def test_a_session_that_ended_is_left_out_once_its_client_is_back() -> None:
    old = client("arm-1", session="a", connected=False)
    new = client("arm-1", session="b")
    other = client("arm-2", session="c", connected=False)
    assert [found.key for found in robots([old, new, other], lambda _: 0)] == ["b", "c"]


def test_an_older_appliance_says_no_slack() -> None:
    document = client()
    del document["slack_ms"]
    page = Page()
    page.take(status(), [document], 0)
    assert "arm-1" in text_of(page)


# -------------------------------------------------------------------------------------- trend


def test_misses_rise_within_the_window_and_are_forgotten_after_it() -> None:
    trend = Trend()
    for second, misses in enumerate([5, 5, 7, 7, 7]):
        trend.take([client(session="a", misses=misses)], second * SECOND_NS)
    assert trend.risen("a") == 2
    trend.take([client(session="a", misses=7)], 2 * SECOND_NS + WINDOW_NS)
    assert trend.risen("a") == 0
    assert trend.risen("b") == 0


def test_misses_before_the_first_look_do_not_count_nor_do_those_of_another_count() -> None:
    trend = Trend()
    trend.take([client(session="a", misses=900)], 0)
    assert trend.risen("a") == 0
    trend.take([client(session="a", misses=2)], SECOND_NS)  # it began anew
    assert trend.risen("a") == 0
    trend.take([], 2 * SECOND_NS)
    trend.take([client(session="a", misses=3)], 3 * SECOND_NS)
    assert trend.risen("a") == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3 * SECOND_NS)), max_size=60))
def test_the_rise_is_that_since_the_last_look_before_the_window(
    steps: list[tuple[int, int]],
) -> None:
    trend, looks, now_ns, misses = Trend(), [], 0, 0
    for more, wait_ns in steps:
        now_ns, misses = now_ns + wait_ns, misses + more
        looks.append((now_ns, misses))
        trend.take([client(session="a", misses=misses)], now_ns)
        before = [seen for at_ns, seen in looks if now_ns - at_ns >= WINDOW_NS]
        assert trend.risen("a") == misses - (before[-1] if before else looks[0][1])


def test_it_keeps_no_more_than_it_may() -> None:
    trend = Trend()
    for number in range(3 * MOST_SAMPLES):
        trend.take([client(session="a", misses=number)], number)
    assert trend.risen("a") == MOST_SAMPLES - 1


# --------------------------------------------------------------------------- order and filter


@given(crowds, st.sampled_from(ORDERS), st.booleans())
def test_every_order_keeps_all_robots_and_puts_the_unknown_last(
    crowd: list[Any],
    order: Any,
    turned: bool,  # noqa: FBT001
) -> None:
    found = robots(crowd, lambda session: len(session) % 3)
    shown = ordered(found, order, turned=turned)
    assert sorted(each.key for each in shown) == sorted(each.key for each in found)
    values = [order.value(each) for each in shown]
    known = [value for value in values if value is not None]
    assert values == known + [None] * (len(values) - len(known))
    assert known == sorted(known, reverse=order.descending is not turned)


def test_equals_are_in_order_of_their_names() -> None:
    found = [robot(name, misses=1) for name in ("c", "A", "b")]
    for order in ORDERS[0], ORDERS[4]:
        assert [each.key for each in ordered(found, order)] == ["A", "b", "c"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", {"arm-1", "arm-2", "cart-1"}),
        ("ARM", {"arm-1", "arm-2"}),
        ("arm 2", {"arm-2"}),
        ("miss", {"arm-2"}),
        ("missed", {"arm-2"}),
        ("gone", {"cart-1"}),
        ("here", {"arm-1", "arm-2"}),
        ("expired", {"arm-2"}),
        ("10.0.0.9", {"cart-1"}),
        ("arm cart", set()),
    ],
)
def test_the_filter_finds_each_word_anywhere(text: str, names: set[str]) -> None:
    found = [
        robot("arm-1", misses=0),
        robot("arm-2", misses=4, last_outcome="EXPIRED"),
        robot("cart-1", misses=0, connected=False, type="cart", address="tcp://10.0.0.9"),
    ]
    assert {each.key for each in filtered(found, text)} == names


def test_every_order_has_a_column_which_is_always_shown_or_the_least_important() -> None:
    headers = [column.header for column in COLUMNS]
    assert {order.header for order in ORDERS} <= set(headers)
    assert len(headers) == len(set(headers)) == len(CLIENT_COLUMNS)


# ----------------------------------------------------------------------------------- viewport


moves = st.one_of(
    st.tuples(st.just("move"), st.integers(-3, 3)),
    st.tuples(st.just("page"), st.integers(-2, 2)),
    st.tuples(st.just("end"), st.booleans()),
    st.tuples(st.just("take"), st.tuples(st.permutations(range(12)), st.integers(0, 12))),
    st.tuples(st.just("height"), st.integers(-1, 15)),
    st.tuples(st.just("release"), st.none()),
)


@given(st.lists(moves, max_size=40))
def test_what_is_selected_stays_selected_and_in_sight(steps: list[tuple[str, Any]]) -> None:
    viewport, keys, height = Viewport(), [str(number) for number in range(12)], 5
    viewport.take(keys, height)
    for kind, value in steps:
        selected = viewport.selected
        if kind == "end":
            viewport.end(last=value)
        elif kind in ("move", "page"):
            getattr(viewport, kind)(value)
        elif kind == "release":
            viewport.release()
        elif kind == "take":
            order, count = value
            keys = [str(number) for number in order[:count]]
        else:
            height = value
        seen = viewport.take(keys, height)
        assert 0 <= seen.start <= seen.stop <= len(keys)
        assert len(seen) == min(max(height, 0), len(keys))  # no more is empty than must be
        if kind in ("take", "height"):
            assert viewport.selected == selected
        if kind in ("move", "page", "end") and keys and height > 0:
            assert viewport.selected is not None
            if viewport.selected in keys:
                assert keys.index(viewport.selected) in seen
        if viewport.selected is None:
            assert seen.start == 0


def test_the_selection_goes_with_its_row() -> None:
    viewport = Viewport()
    viewport.take(["a", "b", "c", "d", "e"], 2)
    viewport.move(0)
    assert viewport.selected == "a"
    assert list(viewport.take(["b", "c", "d", "e", "a"], 2)) == [3, 4]
    viewport.move(-1)
    assert viewport.selected == "e"
    viewport.take(["b", "c"], 2)  # it is filtered out
    viewport.take(["b", "c", "e"], 2)
    assert viewport.selected == "e"


# ----------------------------------------------------------------------------------- the page


def text_of(page: Page, width: int = 80, height: int = 23, now_ns: int = 0) -> str:
    lines = page.lines(width, height, now_ns)
    assert len(lines) <= height
    return "\n".join(line.plain.rstrip() for line in lines)


def page_of(*clients: Any, **changes: Any) -> Page:
    page = Page()
    page.take(status(**changes), clients, 0)  # type: ignore[arg-type]
    page.lines(80, 23, 0)
    return page


@given(crowds, st.integers(20, 200), st.integers(0, 60), st.sampled_from(VIEWS), st.booleans())
def test_nothing_is_wider_or_higher_than_the_screen_nor_anything_but_text(
    crowd: list[Any],
    width: int,
    height: int,
    view: Any,
    opened: bool,  # noqa: FBT001
) -> None:
    page = page_of(*crowd, client(HOSTILE, session="evil", type=HOSTILE))
    page.view = view
    if opened:
        page.open()
    for away in ("", HOSTILE):
        page.lost(away)
        lines = page.lines(width, height, SECOND_NS)
        assert len(lines) <= height
        assert all(line.plain.isprintable() for line in lines)
        if not opened:  # what is long there is cut by the screen
            body = lines[4:] if not away else []
            assert all(cell_len(line.plain) <= width for line in body)


def test_a_full_page() -> None:
    text = text_of(
        page_of(
            client("arm-1", session="a"),
            client("arm-2", session="b", connected=False, silent_s=3.0),
            client("arm-3", session="c", slack_ms=-2.0),
            outcomes={"OK": 120, "EXPIRED": 3, "INVALID": 9},
            models=[model("policy"), model("broken", state="failed", error="no such file")],
            workers=[worker(), worker("cpu-1", state="restarting")],
        )
    )
    lines = text.splitlines()
    assert lines[0].startswith("● ready  appliance hall-2 0.1.0 · up 1 h 2 min")
    assert "45.2/s  120 answered (7 late)  3 missed (+0 in 10 s)" in lines[1]
    assert "1.2/3.4 ms p50/p99  12 robots connected  2 to look at" in lines[2]
    assert "3 robots · by state ▼" in lines[3]
    assert lines[4].split() == [
        *("client", "state▼", "Hz", "jitter", "ms", "misses", "slack", "ms"),
        *("dry", "in", "ms", "last"),
    ]
    assert [line.split()[:3] for line in lines[5:8]] == [
        ["*", "arm-3", "late"],
        ["-", "arm-2", "gone"],
        ["arm-1", "here", "50.0"],
    ]
    assert any(line.startswith("! broken") for line in lines)
    assert any(line.startswith("! cpu-1") for line in lines)
    assert "  policy" in text


def test_reasons_are_shown_up_to_a_bound() -> None:
    text = text_of(page_of(state="degraded", reasons=[f"worker {n} is lost" for n in range(9)]))
    assert "● degraded" in text
    assert "worker 1 is lost" in text
    assert "and 7 lines more" in text
    assert "worker 2" not in text


def test_misses_that_rise_are_summed_and_stand_out_until_the_box_is_another() -> None:
    page = page_of(client(misses=6))
    page.take(status(), [client(misses=8)], SECOND_NS)  # type: ignore[list-item]
    assert "missed (+2 in 10 s)" in text_of(page)
    assert "! arm-1   misses +2" in text_of(page)
    page.take(status(instance="another"), [client(misses=9)], SECOND_NS)  # type: ignore[list-item]
    assert "missed (+0 in 10 s)" in text_of(page)


def test_while_nobody_answers_the_last_is_shown_and_how_old_it_is() -> None:
    page = Page()
    assert text_of(page) == "asking"
    page.lost("/run/a.sock: no such socket")
    assert text_of(page) == "● unreachable  still trying\n  /run/a.sock: no such socket"
    page.take(status(), [client()], SECOND_NS)  # type: ignore[list-item]
    assert "unreachable" not in text_of(page)
    page.lost("gone")
    text = text_of(page, now_ns=5 * SECOND_NS)
    assert "● unreachable  still trying; what is below is 4.0 s old" in text
    assert "arm-1" in text


@pytest.mark.parametrize(
    ("documents", "error"),
    [
        ((status(), [{"id": "arm-1"}]), KeyError),
        ((status(), ["arm-1"]), TypeError),
        (({"instance": "beef"}, []), KeyError),
        ((status(models=[{}]), []), KeyError),
    ],
)
def test_documents_of_another_form_change_nothing(documents: Any, error: Any) -> None:
    page = page_of(client())
    before = text_of(page)
    with pytest.raises(error):
        page.take(*documents, SECOND_NS)
    assert text_of(page) == before


def test_sorting_goes_through_the_columns_and_back() -> None:
    page = page_of(client("a", session="a", misses=1), client("b", session="b", misses=2))
    seen = []
    for _ in ORDERS:
        page.sort()
        seen.append(text_of(page).splitlines()[3].partition("by ")[2])
    assert seen[-1] == "state ▼"
    assert len(set(seen)) == len(ORDERS)
    page.sort()  # by name
    assert names_of(page) == ["a", "b"]
    page.turn()
    assert names_of(page) == ["b", "a"]
    assert "client▼" in text_of(page)


def names_of(page: Page) -> list[str]:
    lines = text_of(page).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("  client"))
    end = next(n for n, line in enumerate(lines) if line.startswith("  latencies"))
    return [line[2:].split()[0] for line in lines[start + 1 : end]]


def test_a_filter_is_said_and_what_fits_none_too() -> None:
    page = page_of(client("arm-1", session="a"), client("cart-1", session="b"))
    page.seek("cart")
    assert "1 of 2 robots · by state ▼ · filter: cart" in text_of(page)
    assert "arm-1" not in text_of(page)
    page.seek("nothing\x1b[2J")
    assert "the filter fits none" in text_of(page)
    page.close()
    assert "2 robots" in text_of(page)


def test_details_follow_the_robot_and_escape_leads_back_step_by_step() -> None:
    page = page_of(client("arm-1", session="a"), client("arm-2", session="b", slack_ms=-3.25))
    page.open()
    assert page.viewport.selected == "b"  # it is late, so it is first
    for expected in ("slack         -3.2 ms", "cadence       50.0 Hz", "last outcome  OK"):
        assert expected in text_of(page)
    page.take(status(), [client("arm-1", session="a")], 0)  # type: ignore[list-item]
    assert "not known any more" in text_of(page)
    page.close()
    assert "arm-1" in text_of(page)
    page.close()
    assert page.viewport.selected is None


def test_every_field_of_a_client_is_in_the_details() -> None:
    page = page_of(client())
    page.open()
    assert len(page.lines(80, 40, 0)) - 4 == len(client())  # `connected` as its state


def test_views() -> None:
    page = page_of(client())
    for expected, absent in (
        ("arm-1", "cpu-0"),
        ("policy", "arm-1"),
        ("cpu-0", "arm-1"),
        ("cpu-0", "nothing"),
    ):
        page.next_view()
        assert expected in text_of(page)
        assert absent not in text_of(page)
    assert page.view == "all"


def test_gpus_have_a_table_where_there_are_any() -> None:
    page = page_of(client(), devices=[device(), device("cuda:1", concerns=["too hot"])])
    lines = text_of(page, width=100).splitlines()
    assert "GPUs" in lines[3]
    assert [line.split()[:2] for line in lines if "cuda:" in line] == [
        ["cuda:0", "NVIDIA"],
        ["!", "cuda:1"],
    ]
    for view in VIEWS[1:]:
        page.next_view()
        assert page.view == view
    assert "arm-1" not in text_of(page)
    assert "cuda:1" in text_of(page)
    # The box has lost them: the next view is one that it has.
    page.take(status(), [client()], SECOND_NS)  # type: ignore[arg-type]
    page.next_view()
    assert page.view == "all"
    assert "GPUs" not in text_of(page)


@given(st.integers(0, 80), st.integers(1, 600), st.lists(st.integers(2, 40), max_size=3))
def test_tables_share_the_room(room: int, crowd: int, others: list[int]) -> None:
    robots_share, *given_to = shares(room, crowd, *others)
    assert robots_share + sum(given_to) <= room
    assert robots_share >= min(room // 2, crowd)
    for share, wanted in zip(given_to, others, strict=True):
        assert share in (0, *range(3, wanted + 1))
    if crowd + sum(others) <= room and min(others, default=3) >= 3:
        assert [robots_share, *given_to] == [crowd, *others]


def test_what_has_no_room_is_counted() -> None:
    crowd = [client(f"arm-{n:03}", session=str(n)) for n in range(500)]
    page = page_of(*crowd, models=[model(f"model-{n}") for n in range(20)])
    text = text_of(page)
    assert "500 robots, rows 1-" in text
    assert " more" in text
    page.viewport.end(last=True)
    assert "arm-499" in text_of(page)


def test_one_long_name_pushes_no_figures_out_and_is_whole_where_there_is_room() -> None:
    long = client("x" * 100, session="long", slack_ms=-8.5, runs_dry_in_ms=77.0)
    lines = text_of(page_of(client(), long)).splitlines()
    assert "slack ms  dry in ms" in lines[4]
    assert lines[5].split()[-3:] == ["-8.5", "77", "OK"]
    assert "x" * 100 not in text_of(page_of(long))
    assert "x" * 100 in text_of(page_of(long), width=260)


def test_lists_are_whole_where_there_is_room() -> None:
    names = ", ".join(f"model-number-{n}" for n in range(6))
    page = page_of(workers=[worker(models=names.split(", "))])
    assert names in text_of(page, width=200)
    assert names not in text_of(page, width=100)


def test_columns_keep_their_width_until_the_terminal_changes() -> None:
    grid = Grid(COLUMNS)
    wide = [robot("a-robot-with-a-long-name").client["id"]]
    narrow_header = grid.header(200).plain
    cells = ["" for _ in COLUMNS]
    grid.measure([[*wide, *cells[1:]]])
    kept = grid.header(200).plain
    assert kept != narrow_header
    grid.measure([cells])
    assert grid.header(200).plain == kept
    grid.forget()
    assert grid.header(200).plain == narrow_header
