"""Headless Chromium, and what a test asks of it. Needs Debian's chromium and chromium-driver."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_S = 30.0
MISSING = "needs Chromium: apt-get install chromium chromium-driver"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-precise-memory-info",
    "--js-flags=--expose-gc",
    "--host-resolver-rules=MAP elsewhere.example 127.0.0.1",
)


def found() -> tuple[str, str] | None:
    """Return where Chromium and its driver are; None: they are not."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """One browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of an async function in the page; return what it returns."""
        wrapped = f"""
            const done = arguments[arguments.length - 1];
            (async (...args) => {{ {script} }})(...arguments).then(
                (value) => done({{ value }}), (error) => done({{ error: String(error.stack) }}));
        """
        answer = self.driver.execute_async_script(wrapped, *arguments)
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    def wait(self, script: str, *arguments: Any, patience_s: float = PATIENCE_S) -> Any:
        """Wait until an expression holds in the page; return it."""
        return WebDriverWait(self.driver, patience_s, poll_frequency=0.05).until(
            lambda driver: driver.execute_script(f"return ({script})", *arguments),
            message=f"in vain: {script}",
        )

    def text(self, css: str) -> str:
        """Return the text of an element."""
        return self.driver.execute_script(
            "return document.querySelector(arguments[0]).innerText", css
        )

    def log(self) -> list[str]:
        """Return what the page wrote to the console since, and what the policy refused."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def emulate(self, command: str, **parameters: Any) -> None:
        self.driver.execute_cdp_cmd(command, parameters)

    def scheme(self, name: str) -> None:
        """Let the system ask for `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self.emulate("Emulation.setEmulatedMedia", features=[feature])

    def size(self, width: int, height: int) -> None:
        self.emulate(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def screenshot(self, path: Path) -> None:
        assert self.driver.save_screenshot(str(path))


@contextmanager
def browser() -> Iterator[Browser]:
    """Run a browser with an empty profile; it downloads nothing."""
    paths = found()
    assert paths is not None, MISSING
    with tempfile.TemporaryDirectory(prefix="browser-") as profile:
        options = Options()
        options.binary_location = paths[0]
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = Service(paths[1], env={**os.environ, "SE_OFFLINE": "true"})
        driver = webdriver.Chrome(options=options, service=service)
        driver.set_script_timeout(PATIENCE_S * 2)
        try:
            yield Browser(driver)
        finally:
            driver.quit()
