"""`python -m support.pictures_of_page DIRECTORY`: under load, light and dark, and empty."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from support.box import Box
from support.browser import Browser, browser
from support.page import page_box
from support.repository import add_sleep
from support.robots import Plan, robots

HEAD = 'appliance_id = "cell-4"'
TAIL = """
[[clients.known]]
id = "inspection"
max_rate_hz = 5.0
"""
WIDTH, HEIGHT = 1600, 1000
LOADED = """
window.page && window.page.store.nowUs - window.page.store.batches[0]?.ended_us > 29e6
"""

POINT_AT_ONE = """
const lanes = window.page.views[2];
lanes.zoom(1e6);
lanes.hold.set(true);
const recent = lanes.shown().filter(
    (batch) => batch.end === "finished" && batch.ended_us > lanes.right() - 8e5);
lanes.select(recent.reduce((a, b) => (b.rows.length > a.rows.length ? b : a)), true);
"""


PLANS = (
    *(Plan(f"arm-{n}", "arm", 20 + 2 * n, key="x", budget_ms=60, steps=8) for n in range(1, 7)),
    *(Plan(f"camera-{n}", "detector", 10 + n, key="x", budget_ms=90) for n in (1, 2)),
    Plan("gripper", "detector", 9, key="x", budget_ms=34, firm=True),
    Plan("inspection", "arm", 8, key="x"),  # oftener than it may
    Plan("bench-test", "arm", 0.7, key="x", width=3),  # not what the model takes
)


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        models = Path(name)
        add_sleep(models, "arm", base_ms=5, per_row_ms=1)
        add_sleep(models, "detector", base_ms=14, per_row_ms=6, max_batch=4)
        with page_box(models, head=HEAD, tail=TAIL) as running, browser() as looking:
            looking.size(WIDTH, HEIGHT)
            looking.open(running.url)
            looking.wait("document.querySelector('#state').dataset.state === 'ready'")
            looking.screenshot(directory / "page-empty.png")
            _loaded(running, looking, directory)


def _loaded(running: Box, looking: Browser, directory: Path) -> None:
    with robots(running.address, PLANS):
        looking.run("window.page = (await import('/page/main.js')).app")
        looking.wait(LOADED, patience_s=90)
        looking.run(POINT_AT_ONE)
        for scheme in ("light", "dark"):
            looking.scheme(scheme)
            looking.run("await new Promise((done) => setTimeout(done, 1200))")
            looking.screenshot(directory / f"page-{scheme}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
