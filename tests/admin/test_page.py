"""The page's listener: its files, who may ask, and what a browser is told to refuse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from hypothesis import given
from hypothesis import strategies as st

from appliance.admin import page as module
from appliance.admin.http import HttpRequest, HttpResponse, json_response
from appliance.admin.loopback import is_loopback
from appliance.admin.page import Page
from appliance.admin.routes import Route, Router

STATIC = Path(module.__file__).parent / "static"


@pytest.fixture(scope="module")
def page() -> Page:
    router = Router(read_only=True)
    router.add(Route("GET", "/v1/status", lambda: {"state": "ready"}))
    router.add(Route("POST", "/v1/drain", lambda: {"state": "draining"}))
    return Page(router)


async def ask(
    page: Page, path: str, method: str = "GET", host: str | None = "127.0.0.1:9464"
) -> HttpResponse:
    headers = () if host is None else (("host", host),)
    return await page.handle(HttpRequest(method=method, path=path, headers=headers))


async def test_every_file_that_the_page_names_is_there(page: Page) -> None:
    seen: set[str] = set()
    waiting = ["/"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        response = await ask(page, path)
        assert response.status == 200, path
        if path.startswith("/page/uplot/"):
            continue
        text = response.body.decode()
        named = re.findall(r'(?:src|href)="([^"]+)"', text)
        named += [f"/page/{name}" for name in re.findall(r'from "\./([^"]+)"', text)]
        waiting += [name for name in named if name not in seen]
    files = {f"/page/{path.relative_to(STATIC)}" for path in STATIC.rglob("*.*s")}
    assert files <= seen, "a file that nobody needs"


async def test_the_page_holds_nothing_that_its_own_policy_refuses(page: Page) -> None:
    text = (await ask(page, "/")).body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", text)
    assert "https://" not in text
    for path in STATIC.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|https?:", path.read_text()
        )


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/v1/status", "/nothing"])
async def test_a_browser_is_told_what_to_refuse(page: Page, path: str) -> None:
    headers = dict((await ask(page, path)).headers)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:80", "127.8.9.1", "[::1]", "[::1]:9464"],
)
async def test_loopback_by_any_of_its_names(page: Page, host: str) -> None:
    assert (await ask(page, "/v1/status", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9464",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.0.7",
        "0.0.0.0",
        "[::]",
        "[::1].evil.example",
        "::1",
        "",
        "[",
        None,
    ],
)
async def test_a_name_that_leads_here_from_elsewhere_is_refused(
    page: Page, host: str | None
) -> None:
    for path in ("/", "/v1/status"):
        response = await ask(page, path, host=host)
        assert response.status == 403
        assert b"localhost and loopback addresses" in response.body
        assert b"ready" not in response.body


@given(st.text(max_size=40))
def test_whatever_is_taken_for_loopback_is(text: str) -> None:
    assert not is_loopback(text) or text.lower() == "localhost" or text[0] in "1:0"


async def test_nothing_can_be_changed_there(page: Page) -> None:
    for method, path in (("POST", "/v1/drain"), ("POST", "/"), ("DELETE", "/page/main.js")):
        assert (await ask(page, path, method)).status in (404, 405)
    assert (await ask(page, "/", "HEAD")).status == 200
    assert (await ask(page, "/page/../__init__.py")).status == 404
    assert (await ask(page, "/v1/status")).body == json_response({"state": "ready"}).body


def test_the_wheel_holds_the_page() -> None:
    root = Path(__file__).parent.parent.parent
    held = {each.distribution_path for each in WheelBuilder(str(root)).recurse_included_files()}
    assert {str(each.relative_to(root)) for each in STATIC.rglob("*") if each.is_file()} <= held
    assert "appliance/admin/static/uplot/LICENSE" in held
