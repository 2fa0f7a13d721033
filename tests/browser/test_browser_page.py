"""The page in a real browser, of a real appliance with real robots."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from support.box import Box, end, start
from support.browser import Browser
from support.page import page_box
from support.robots import Plan, robots

HOSTILE = "<img src=x onerror=window.taken=1>"
ROBOTS = [
    Plan("arm-1", "arm", 40, key="x", steps=8),
    Plan("arm-2", "arm", 30, key="x"),
    Plan(HOSTILE, "detector", 40, key="x"),
    Plan("hurried", "detector", 15, key="x", budget_ms=30, firm=True),
    Plan("broken", "arm", 5, key="x", width=3),
]
CAUSES = "window.page.store.causes().map(({ outcome }) => outcome)"
APP = "window.page = (await import('/page/main.js')).app"


def opened(looking: Browser, url: str) -> None:
    looking.open(url)
    looking.run(APP)
    looking.wait("document.querySelector('#state').dataset.state === 'ready'")


def cells(looking: Browser, table: str, column: int) -> list[str]:
    return looking.driver.execute_script(
        f"return [...document.querySelectorAll('{table} tbody tr')]"
        f".map((row) => row.children[{column}].innerText)"
    )


@pytest.fixture(scope="module")
def busy(serving: Box, looking: Browser) -> Any:
    """The page while robots ask; what it has shown so far covers all of them."""
    with robots(serving.address, ROBOTS):
        opened(looking, serving.url)
        looking.wait(f"{CAUSES}.includes('INVALID') && {CAUSES}.includes('INFEASIBLE')")
        looking.wait("window.page.store.latencies(['total']).size === 2")
        yield looking


@pytest.mark.usefixtures("quiet")
def test_it_shows_how_it_goes(busy: Browser) -> None:
    busy.wait("document.querySelectorAll('#robots-table tbody tr').length === 5")
    assert set(cells(busy, "#robots-table", 0)) == {robot.name for robot in ROBOTS}
    assert [name.strip() for name in cells(busy, "#latency-table", 0)] == ["arm", "detector"]
    assert all(float(each) > 2.9 for each in cells(busy, "#latency-table", 5))
    assert float(busy.text("#rate").removesuffix("/s")) > 0
    assert busy.text("#connected") == "5"
    assert int(busy.text("#answered")) > 0
    busy.wait("document.querySelector('#drops-table').innerText.includes('INFEASIBLE')")
    causes = dict(zip(cells(busy, "#drops-table", 0), cells(busy, "#drops-table", 3), strict=True))
    assert causes["INVALID"].startswith("broken ")
    assert "hurried" in causes["INFEASIBLE"]
    assert "expected" in next(x for x in cells(busy, "#drops-table", 4) if "tensor" in x)
    assert int(busy.text("#missed")) > 0


@pytest.mark.usefixtures("quiet")
def test_batches_and_charts_are_drawn(busy: Browser) -> None:
    painted = """
        const colour = (name) => {
          const probe = document.createElement("canvas").getContext("2d");
          probe.fillStyle = window.page.colours.get(name);
          probe.fillRect(0, 0, 1, 1);
          return probe.getImageData(0, 0, 1, 1).data.join();
        };
        const found = {};
        for (const [place, names] of Object.entries({
          "#lanes": ["model-0", "model-1", "group-0", "group-4"],
          "#latency-chart canvas": ["model-0", "model-1"],
          "#drops-chart canvas": ["group-0", "group-4"],
          "#robots-table canvas": ["good|bad"],  // slack or lateness: the machine may be busy
        })) {
          const canvas = document.querySelector(place);
          const { data } = canvas.getContext("2d")
            .getImageData(0, 0, canvas.width, canvas.height);
          const seen = new Set();
          for (let at = 0; at < data.length; at += 4) seen.add(data.slice(at, at + 4).join());
          const isThere = (name) => name.split("|").some((each) => seen.has(colour(each)));
          found[place] = names.filter((name) => !isThere(name));
        }
        return found;
    """
    busy.wait("window.page.store.seconds.filter((each) => each.drops.size > 1).length > 1")
    busy.wait("window.page.store.seconds.filter((each) => each.models.size > 1).length > 1")
    busy.run("window.page.redraw()")
    assert busy.run(painted) == {
        "#lanes": [],
        "#latency-chart canvas": [],
        "#drops-chart canvas": [],
        "#robots-table canvas": [],
    }


@pytest.mark.usefixtures("quiet")
def test_names_from_outside_are_only_text(busy: Browser) -> None:
    busy.run(
        """
        const lanes = window.page.views[2];
        const isThere = ({ rows }) => rows.some(([client]) => client === args[0]);
        lanes.select(window.page.store.batches.findLast(isThere), true);
        """,
        HOSTILE,
    )
    assert HOSTILE in busy.text("#details")
    assert HOSTILE in busy.text("#robots-table")
    assert busy.run("return document.images.length") == 0
    assert busy.run("return window.taken ?? null") is None
    busy.run("window.page.views[2].release()")


@pytest.mark.usefixtures("quiet")
def test_who_was_in_a_batch_by_keys_and_by_pointer(busy: Browser) -> None:
    canvas = busy.driver.find_element(By.ID, "lanes")
    busy.run("document.querySelector('#lanes').focus()")
    ActionChains(busy.driver).send_keys(Keys.ARROW_LEFT).perform()
    selected = "window.page.views[2].selected"
    first = busy.wait(f"{selected}?.batch.id")
    assert "batch " in busy.text("#details")
    assert busy.wait("window.page.views[2].hold.on")
    ActionChains(busy.driver).send_keys(Keys.ARROW_LEFT).perform()
    assert busy.wait(f"{selected}?.batch.id") < first
    worker = busy.wait(f"{selected}.batch.worker")
    key = Keys.ARROW_DOWN if worker == "policies-0" else Keys.ARROW_UP
    ActionChains(busy.driver).send_keys(key).perform()
    assert busy.wait(f"{selected}.batch.worker") != worker
    ActionChains(busy.driver).send_keys("+").perform()
    assert busy.wait("window.page.views[2].span") == 3_000_000
    ActionChains(busy.driver).send_keys(Keys.ESCAPE).perform()
    assert busy.run("return window.page.views[2].selected") is None
    busy.run("window.page.views[2].zoom(1e6); window.page.views[2].hold.set(true)")
    lane, left, right, number = busy.run(
        """
        const lanes = window.page.views[2];
        const wide = (batch) => lanes.extent(batch)[1] - lanes.extent(batch)[0] > 3;
        const batch = lanes.shown().findLast((each) => each.end === "finished" && wide(each));
        return [lanes.workers().indexOf(batch.worker), ...lanes.extent(batch), batch.id];
        """
    )
    middle = ((left + right) / 2, 20 + lane * 38 + 15)
    size = canvas.size
    at = (int(middle[0] - size["width"] / 2), int(middle[1] - size["height"] / 2))
    ActionChains(busy.driver).move_to_element_with_offset(canvas, *at).perform()
    assert busy.run("return window.page.views[2].selected.batch.id") == number
    busy.run("window.page.views[2].release()")


@pytest.mark.usefixtures("quiet")
def test_robots_are_sorted_by_any_column(busy: Browser) -> None:
    heading = busy.driver.find_element(By.XPATH, "//section[@class='robots']//th/button[.='Hz']")
    heading.send_keys(Keys.ENTER)
    ascending = [float(each) for each in cells(busy, "#robots-table", 3)]
    assert ascending == sorted(ascending)
    heading.send_keys(Keys.ENTER)
    descending = [float(each) for each in cells(busy, "#robots-table", 3)]
    assert descending == sorted(descending, reverse=True)
    assert descending != ascending
    sorts = busy.run(
        "return [...document.querySelectorAll('th[aria-sort]')].map((each) => each.ariaSort)"
    )
    assert sorts.count("descending") == 1


@pytest.mark.usefixtures("quiet")
def test_stages_and_figures_since_the_start(busy: Browser) -> None:
    def press(label: str) -> None:
        busy.driver.find_element(By.XPATH, f"//button[.='{label}']").click()

    press("stages")
    assert "execute p99" in busy.text("#latency-table")
    press("since the start")
    rows = busy.wait("window.page.store.status.models[1].rows")
    busy.run("window.page.views[1].show()")
    assert int(cells(busy, "#latency-table", 3)[1]) >= rows
    press("stages")
    press("last 30 s")
    assert "execute p99" not in busy.text("#latency-table")


def test_a_name_that_was_made_to_lead_here_is_refused(serving: Box, looking: Browser) -> None:
    port = serving.url.rstrip("/").rpartition(":")[2]
    looking.open(f"http://elsewhere.example:{port}/v1/status")
    assert '"code": "FORBIDDEN"' in looking.text("body")


# ------------------------------------------------------------------------ coming and going


def test_without_robots_it_says_what_to_do(looking: Browser, models: Path) -> None:
    with page_box(models) as running:
        opened(looking, running.url)
        address = running.address.removeprefix("tcp://")
        assert f'Connection("{address}", client_id="arm-1")' in looking.text(".robots")
        assert "No batch was run in the last 30 s" in looking.text(".lanes")
        assert "Every observation of the last 30 s was answered" in looking.text(".drops")
        assert looking.text("#connected") == "0"
        assert cells(looking, "#latency-table", 5) == ["-", "-"]


def test_it_says_that_the_box_is_gone_and_that_it_was_started_anew(
    looking: Browser, models: Path
) -> None:
    with page_box(models) as running:
        flags = ("--models", str(models))
        with robots(running.address, ROBOTS[:1]):
            opened(looking, running.url)
            looking.wait("window.page.store.batches.length > 0")
            running.process.send_signal(signal.SIGKILL)
            running.process.wait(10)
            looking.wait("document.querySelector('.notice.bad')?.innerText.includes('No answer')")
            assert "Asked again in" in looking.text(".notice.bad")
            assert looking.run("return document.body.classList.contains('away')")
            again = start(running.directory, *flags)
            try:
                looking.wait("document.querySelector('.notice.warn')?.innerText.includes('anew')")
                looking.wait("document.querySelector('#state').dataset.state === 'ready'")
                assert not looking.run("return document.body.classList.contains('away')")
                looking.wait("window.page.store.batches.length > 0")
                oldest = looking.run("return window.page.store.batches[0].ended_us")
                assert oldest < looking.run("return window.page.store.nowUs")
            finally:
                end(again)
