"""The page's parts in a browser, told of a box that is not there by clocks that are set by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.box import Box
from support.browser import Browser
from support.devices import device

from appliance.cli import text

FAKE = (Path(__file__).parent.parent / "support" / "fake_box.js").read_text()
START = """
const { App } = await import("/page/app.js");
const { app } = await import("/page/main.js");
app.stop();
const timers = new FakeTimers();
"""


@pytest.fixture
def page(serving: Box, looking: Browser) -> Browser:
    looking.open(serving.url)
    looking.scheme("light")
    return looking


def run(page: Browser, script: str, *arguments: Any) -> Any:
    return page.run(FAKE + START + script, *arguments)


# ----------------------------------------------------------------------------------- asking


def test_one_request_at_a_time_once_a_second(page: Browser) -> None:
    found = run(
        page,
        """
        const box = new FakeBox(3);
        const page = new App(outsideOf(box, timers));
        page.start();
        await timers.pass(100);
        for (let click = 0; click < 5; click += 1) page.poller.poll();
        await timers.pass(9900);
        page.stop();
        await timers.pass(60_000);
        return { most: box.mostOpen, asked: box.asked, waiting: timers.waiting.size };
        """,
    )
    assert found["most"] == 1
    assert found["asked"][:3] == ["/v1/status", "/v1/clients", "/v1/timeline?since="]
    assert found["asked"][3::2][:4] == ["/v1/clients", "/v1/status"] * 2
    assert 3 + 2 * 8 <= len(found["asked"]) <= 3 + 2 * 10
    assert found["waiting"] == 0


def test_while_nobody_looks_it_asks_less_often_and_then_at_once(page: Browser) -> None:
    found = run(
        page,
        """
        const box = new FakeBox(3);
        const hidden = new EventTarget();
        hidden.hidden = true;
        const page = new App(outsideOf(box, timers, hidden));
        page.start();
        await timers.pass(60_000);
        const before = box.asked.length;
        hidden.hidden = false;
        hidden.dispatchEvent(new Event("visibilitychange"));
        await timers.pass(0);
        const after = box.asked.length;
        page.stop();
        return [before, after];
        """,
    )
    assert found[0] <= 3 + 2 * 6
    assert found[1] == found[0] + 2


def test_while_nobody_answers_it_asks_less_and_less_often(page: Browser) -> None:
    found = run(
        page,
        """
        const box = new FakeBox(3);
        const page = new App(outsideOf(box, timers));
        const notices = () => document.querySelector("#notices").innerText;
        page.start();
        await timers.pass(2500);
        box.broken = true;
        await timers.pass(3000);
        const said = notices();
        const before = box.asked.length;
        await timers.pass(100_000);
        const during = box.asked.length - before;
        const later = notices();
        box.broken = false;
        box.nowUs += 100e6;
        await timers.pass(11_000);
        const end = notices();
        page.stop();
        return { said, later, during, end, instance: page.store.instance };
        """,
    )
    assert "No answer from the appliance since" in found["said"]
    assert "nobody listens there" in found["said"]
    assert "1 min" in found["later"]
    assert 8 <= found["during"] <= 16
    assert found["end"] == ""


def test_what_comes_faster_than_it_is_read_is_left_out_and_said(page: Browser) -> None:
    found = run(
        page,
        """
        const box = new FakeBox(3);
        const page = new App(outsideOf(box, timers));
        page.start();
        await timers.pass(10);
        box.more = 1000;
        box.asked = [];
        await timers.pass(1000);
        page.stop();
        const said = document.querySelector("#notices").innerText;
        return { asked: box.asked.length, last: box.asked.at(-1), said };
        """,
    )
    assert found["asked"] == 1 + 6 + 1
    assert found["last"] == "/v1/timeline?since=newest"
    assert found["said"].startswith("1000 batches of the last 30 s came faster")


def test_what_a_round_that_failed_has_read_is_read_again(page: Browser) -> None:
    found = run(
        page,
        """
        const box = new FakeBox(3);
        const outside = outsideOf(box, timers);
        const page = new App({ ...outside, fetch: (path) => {
          if (box.more && path.includes("since=") && box.asked.at(-1).includes("since=")) {
            box.more = 0;
            box.asked.push("failed");
            return Promise.reject(new Error("gone"));
          }
          return outside.fetch(path);
        } });
        page.start();
        await timers.pass(10);
        box.more = 1;
        box.asked = [];
        await timers.pass(5000);
        page.stop();
        return box.asked.filter((path) => path.includes("since=") || path === "failed");
        """,
    )
    assert "failed" in found
    at = found.index("failed")
    assert found[at - 1] == found[at + 1], "from the same cursor"


def test_another_life_of_the_box_begins_anew(page: Browser) -> None:
    found = run(
        page,
        """
        let box = new FakeBox(3);
        const outside = { ...outsideOf(box, timers), fetch: (path) => box.fetch(path) };
        const page = new App(outside);
        page.start();
        for (let second = 0; second < 5; second += 1) {
          box.nowUs += 1e6;
          await timers.pass(1000);
        }
        const before = page.store.batches.length;
        box = new FakeBox(1, { instance: "00000000000000bb" });
        box.nowUs = 2e6;
        await timers.pass(1000);
        const said = document.querySelector("#notices").innerText;
        const { batches, seconds } = page.store;
        await timers.pass(60_000);
        page.stop();
        const later = document.querySelector("#notices").innerText;
        return { before, after: batches.length, seconds: seconds.length, said, later };
        """,
    )
    assert found["before"] > found["after"] == 2
    assert found["seconds"] <= 2
    assert "was started anew" in found["said"]
    assert found["later"] == ""


# ------------------------------------------------------------------------------ an hour, open


def test_gpus_are_shown_where_there_are_some(page: Browser) -> None:
    well = device(name="<b>H200</b>", temperature_c=None)
    hot = device("cuda:1", temperature_c=89.0, last_xid=31, concerns=["throttled by heat", "hot"])
    found = run(
        page,
        """
        const box = new FakeBox(3);
        const page = new App(outsideOf(box, timers));
        const table = document.querySelector("#devices");
        const seen = [];
        for (const devices of [undefined, [], arguments[0]]) {
          box.devices = devices;
          page.poller.status = null; // both documents in one round
          await page.poller.poll();
          seen.push(table.hidden);
        }
        page.stop();
        const rows = [...table.querySelectorAll("tbody tr")];
        const cells = rows.map((row) => [...row.children].map((cell) => cell.innerText));
        const marked = [...table.querySelectorAll("td.warn, td.bad")].map((cell) => cell.innerText);
        return { seen, cells, marked };
        """,
        [well, hot],
    )
    assert found["seen"] == [True, True, False]
    first, second = found["cells"]
    assert first[:6] == ["cuda:0", "<b>H200</b>", "gpu-0", "87", "40.0 of 140.0", "-"]
    assert (first[-1], second[-1]) == ("none", "throttled by heat; hot")
    assert found["marked"] == ["89", "31", "throttled by heat; hot"]


def test_an_hour_does_not_let_it_grow(page: Browser) -> None:
    found = run(
        page,
        """
        const box = new FakeBox(12, { perSecond: 3 });
        const page = new App(outsideOf(box, timers));
        page.start();
        const sizes = () => {
          gc();
          const { batches, drops, seconds, rows } = page.store;
          return {
            heap: performance.memory.usedJSHeapSize,
            nodes: document.querySelectorAll("*").length,
            lengths: [batches.length, drops.length, seconds.length, rows].join(),
            colours: page.colours.models.length,
            waiting: timers.waiting.size,
          };
        };
        const minutes = async (count) => {
          for (let second = 0; second < count * 60; second += 1) {
            box.nowUs += 1e6;
            box.asked.length = 0;
            await timers.pass(1000);
          }
        };
        await minutes(6);
        const early = sizes();
        await minutes(54);
        const late = sizes();
        page.stop();
        return { early, late };
        """,
    )
    early, late = found["early"], found["late"]
    assert late["lengths"] == early["lengths"]
    assert late["lengths"].split(",")[2] == "300"
    assert late["nodes"] == early["nodes"]
    assert late["waiting"] == early["waiting"] == 1
    assert late["colours"] == 2
    assert late["heap"] < early["heap"] + 1_000_000


def test_whatever_comes_it_holds_so_much_and_no_more(page: Browser) -> None:
    lengths = run(
        page,
        """
        const { Store, MOST_BATCHES, MOST_ROWS, MOST_DROPS } = await import("/page/store.js");
        const store = new Store();
        const box = new FakeBox(100, { perSecond: 50 });
        for (let round = 0; round < 12; round += 1) {
          box.nowUs += 1e6;
          const part = box.timeline("");
          part.drops = Array.from({ length: 900 }, () => box.drop(box.nowUs));
          for (const batch of part.batches) batch.rows = Array(6).fill(batch.rows[0]);
          store.take({ status: box.status(), clients: [], timelines: [part], skipped: 1 });
        }
        const { batches, rows, drops, skips } = store;
        return [batches.length <= MOST_BATCHES, rows <= MOST_ROWS, rows > MOST_ROWS / 2,
          batches.reduce((sum, each) => sum + each.rows.length, 0) === rows,
          drops.length === MOST_DROPS, skips.length];
        """,
    )
    assert lengths == [True, True, True, True, True, 12]


@pytest.mark.parametrize("robots", [0, 1, 200])
def test_any_number_of_robots_and_nothing_jumps(page: Browser, robots: int) -> None:
    found = run(
        page,
        """
        const box = new FakeBox(args[0]);
        const page = new App(outsideOf(box, timers));
        const places = () => [...document.querySelectorAll("header, section, h2, canvas#lanes")]
          .map((node) => node.getBoundingClientRect())
          .map(({ x, y, width, height }) => [x, y, width, height].join());
        page.start();
        box.nowUs += 1e6;
        await timers.pass(1000);
        const before = places();
        for (let second = 0; second < 5; second += 1) {
          box.nowUs += 1e6;
          await timers.pass(1000);
        }
        const took = performance.now();
        page.redraw();
        page.stop();
        return {
          took: performance.now() - took,
          same: JSON.stringify(before) === JSON.stringify(places()),
          rows: document.querySelectorAll("#robots-table tbody tr").length,
          first: document.querySelector("#robots-table tbody td")?.innerText,
          wide: document.documentElement.scrollWidth <= innerWidth,
        };
        """,
        robots,
    )
    assert found["same"]
    assert found["rows"] == robots
    assert found["wide"]
    assert found["first"] == ("robot-0" if robots else None)  # it has the least slack
    assert found["took"] < 1000


# --------------------------------------------------------------------------------- figures


def test_numbers_are_written_as_the_command_line_does(page: Browser) -> None:
    times = [0, 4, 999, 1000, 1449, 12_345, 99_940, 100_400, 1_234_567]
    spans = [0.4, 9.96, 10, 59.9, 60, 3599, 3600, 86_399, 86_400, 1e6]
    names = ["arm-3", "é", "a b", "a\nb", "\x1b[31m", "\u202egnp", "\ud800", "\U000e0001", "\xa0"]
    found = page.run(
        """
        const format = await import("/page/format.js");
        const [times, spans, names] = args;
        return [times.map(format.milliseconds), spans.map(format.duration),
          JSON.parse(names).map(format.plain)];
        """,
        times,
        spans,
        json.dumps(names),
    )
    assert found == [
        [text.milliseconds(each) for each in times],
        [text.duration(each) for each in spans],
        [text.plain(each) for each in names],
    ]


def test_percentiles_and_slack_are_what_they_are(page: Browser) -> None:
    found = page.run(
        FAKE
        + """
        const { Store, summary } = await import("/page/store.js");
        const store = new Store();
        const box = new FakeBox(4, { perSecond: 25 });
        box.nowUs += 1e6;
        const timelines = [box.timeline("")];
        store.take({ status: box.status(), clients: [], timelines, skipped: 0 });
        const slack = store.slacks().get("robot-0");
        const total = store.latencies(["total", "queue"]).get("model-0");
        const hundred = summary(Array.from({ length: 100 }, (_, n) => 100 - n));
        return { slack, total, hundred, none: summary([]), totals: store.totals() };
        """
    )
    assert found["hundred"] == {"count": 100, "p50": 50, "p99": 99, "max": 100}
    assert found["none"] == {"count": 0, "p50": None, "p99": None, "max": None}
    slack = found["slack"]
    assert (slack["least"], slack["late"], slack["answered"], slack["misses"]) == (-2000, 25, 25, 1)
    assert found["total"]["stages"]["total"] == {"count": 50, "p50": 8000, "p99": 8000, "max": 8000}
    assert found["total"]["stages"]["queue"]["p50"] == 2500
    assert found["totals"] == {"answered": 100, "late": 50, "missed": 1}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(page: Browser, scheme: str) -> None:
    page.scheme(scheme)
    found = page.run(
        """
        const probe = document.createElement("canvas").getContext("2d");
        const style = getComputedStyle(document.documentElement);
        const light = (name) => {
          probe.fillStyle = style.getPropertyValue(`--${name}`).trim();
          probe.fillRect(0, 0, 1, 1);
          const parts = [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => {
            const share = part / 255;
            return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
          });
          return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
        };
        const contrast = (a, b) => {
          const [high, low] = [light(a), light(b)].sort((x, y) => y - x);
          return (high + 0.05) / (low + 0.05);
        };
        const result = {};
        for (const name of ["ink", "quiet", "bad", "warn"]) result[name] = contrast(name, "paper");
        for (let n = 0; n < 8; n += 1) result[`model-${n}`] = contrast(`model-${n}`, "paper");
        return result;
        """
    )
    page.scheme("light")
    texts = {name: value for name, value in found.items() if not name.startswith("model-")}
    assert min(texts.values()) >= 4.5
    assert min(found.values()) >= 2
