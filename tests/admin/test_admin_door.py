"""The whole admin door: router, unix socket and TCP listener, asked by our client and by curl."""

import ast
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.admin import client
from appliance.admin.http import HttpRequest
from appliance.admin.routes import OPENMETRICS, AdminSources, Route, Router, admin_router
from appliance.admin.server import open_loopback_listeners, serve_admin
from appliance.errors import AdminError, AdminUnreachable, ConfigError, RecordingError

METRICS = "# TYPE up gauge\nup 1\n# EOF\n"


def sources(drained: list[bool] | None = None) -> AdminSources:
    async def clients() -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"clients": [{"id": "arm-3 é"}]}

    def drain() -> dict[str, Any]:
        if drained is not None:
            drained.append(True)
        return {"state": "draining"}

    def record(document: Mapping[str, Any]) -> dict[str, Any]:
        if "path" not in document:
            raise RecordingError("no path")
        return {"id": 1}

    return AdminSources(
        status=lambda: {"state": "ready"},
        clients=clients,
        models=lambda: {"models": []},
        workers=lambda: {"load": float("nan")},
        metrics_text=lambda: METRICS,
        drain=drain,
        reload=lambda: {"changed": [], "error": ""},
        load_model=lambda document: {"name": document["name"], "version": "1"},
        unload_model=lambda document: {"name": document["name"]},
        timeline=lambda query: {"query": dict(query)},
        recordings=lambda: {"recordings": []},
        renew_recording=lambda _: {},
        record=record,
        stop_recording=lambda document: {"stopped": document["id"]},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "appliance.sock"


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await trio.to_thread.run_sync(function, *args)


# --------------------------------------------------------------------------------- router


async def test_the_table() -> None:
    drained: list[bool] = []
    router = admin_router(sources(drained))
    for method, where, status in (
        ("GET", "/v1/status", 200),
        ("HEAD", "/v1/status", 200),
        ("GET", "/v1/models", 200),
        ("GET", "/v1/clients", 200),
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/status", 405),
        ("GET", "/v1/drain", 405),
    ):
        response = await router.handle(HttpRequest(method=method, path=where))
        assert response.status == status, (method, where)
    assert drained == []
    assert (await router.handle(HttpRequest(method="POST", path="/v1/drain"))).status == 200
    assert drained == [True]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"path": "/a.mcap"}', 200, '"id": 1'),
        (b"{}", 400, '"code": "RECORDING", "message": "no path"'),
        (b"[]", 400, "a JSON object is expected, list came"),
        (b"", 400, "a JSON object is expected"),
        (b"\xff", 400, "a JSON object is expected"),
    ],
)
async def test_an_action_takes_a_document(body: bytes, status: int, said: str) -> None:
    request = HttpRequest(method="POST", path="/v1/recordings", body=body)
    response = await admin_router(sources()).handle(request)
    assert response.status == status
    assert said in response.body.decode()


async def test_a_refusal_says_what_is_allowed() -> None:
    router = admin_router(sources())
    response = await router.handle(HttpRequest(method="PUT", path="/v1/drain"))
    assert response.headers == (("Allow", "POST"),)
    response = await router.handle(HttpRequest(method="GET", path="/"))
    assert b"/v1/status" in response.body


async def test_read_only_never_drains() -> None:
    drained: list[bool] = []
    router = admin_router(sources(drained), read_only=True)
    for method in ("POST", "GET", "HEAD"):
        response = await router.handle(HttpRequest(method=method, path="/v1/drain"))
        assert response.status == 405
    assert (await router.handle(HttpRequest(method="GET", path="/metrics"))).status == 200
    assert drained == []


async def test_text_and_documents() -> None:
    router = Router()
    router.add(Route("GET", "/text", lambda: "hé"))
    router.add(Route("GET", "/document", lambda: {"é": None}))
    text = await router.handle(HttpRequest(method="GET", path="/text"))
    assert (text.body, text.content_type) == ("hé".encode(), "text/plain; charset=utf-8")
    document = await router.handle(HttpRequest(method="GET", path="/document"))
    assert (document.body, document.content_type) == ('{"é": null}\n'.encode(), "application/json")


# -------------------------------------------------------------------------------- sockets


async def test_our_client(path: Path) -> None:
    drained: list[bool] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: serve_admin(
                sources(drained), socket=str(path), task_status=task_status
            )
        )
        assert await in_thread(client.get, path, "/v1/status") == {"state": "ready"}
        assert await in_thread(client.get, str(path), "/v1/clients") == {
            "clients": [{"id": "arm-3 é"}]
        }
        assert await in_thread(client.get, path, "/metrics") == METRICS
        assert await in_thread(client.post, path, "/v1/drain") == {"state": "draining"}
        assert drained == [True]
        with pytest.raises(AdminError, match="GET /v1/nothing: no /v1/nothing here"):
            await in_thread(client.get, path, "/v1/nothing")
        with pytest.raises(AdminError, match="GET /v1/workers: ValueError: Out of range float"):
            await in_thread(client.get, path, "/v1/workers")
        nursery.cancel_scope.cancel()
    assert not path.exists()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curl_gets_the_same_document(path: Path) -> None:
    def curl(*args: str) -> str:
        command = ["curl", "-sS", "--max-time", "5", "--unix-socket", str(path), *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: serve_admin(sources(), socket=str(path), task_status=task_status)
        )
        ours = await in_thread(client.get, path, "/v1/clients")
        assert json.loads(await in_thread(curl, "http://x/v1/clients")) == ours
        head = await in_thread(curl, "-I", "http://x/metrics")
        assert f"Content-Type: {OPENMETRICS}" in head
        twice = await in_thread(curl, "http://x/v1/status", "http://x/v1/status")
        assert twice == '{"state": "ready"}\n' * 2
        nursery.cancel_scope.cancel()


async def test_the_tcp_listener_is_read_only(path: Path) -> None:
    def request(port: int, method: str, where: str) -> int:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request(method, where)
        status = connection.getresponse().status
        connection.close()
        return status

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    drained: list[bool] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: serve_admin(
                sources(drained),
                socket=str(path),
                listen=f"127.0.0.1:{port}",
                task_status=task_status,
            )
        )
        assert await in_thread(request, port, "GET", "/metrics") == 200
        assert await in_thread(request, port, "POST", "/v1/drain") == 405
        nursery.cancel_scope.cancel()
    assert drained == []


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:9464",
        "192.0.2.1:80",
        "example.com:80",
        "localhost",
        ":80",
        "[::]:80",
        "127.0.0.1:x",
        "127.0.0.1:70000",
        "127.0.0.1:",
    ],
)
async def test_only_loopback_is_listened_on(address: str) -> None:
    with pytest.raises(ConfigError, match="allowed is HOST:PORT on loopback"):
        await open_loopback_listeners(address)


async def test_a_port_in_use_leaves_no_socket_behind(path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"{address}: Address already in use; choose another"):
            await serve_admin(sources(), socket=str(path), listen=address)
    assert not path.exists()


# -------------------------------------------------------------------------------- our client


def test_no_socket(path: Path) -> None:
    with pytest.raises(AdminUnreachable, match=r"is the appliance running\? Start it with"):
        client.get(path, "/v1/status")


def test_a_socket_nobody_listens_on(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(AdminUnreachable, match="nobody listens"):
        client.get(path, "/v1/status")


def test_an_appliance_that_does_not_answer(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(AdminUnreachable, match=r"no answer within 0\.05 s"):
            client.get(path, "/v1/status", timeout_s=0.05)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\xff",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"",
    ],
)
async def test_something_else_that_answers(path: Path, answer: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    from appliance.io.unix_listener import open_unix_listener

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, [await open_unix_listener(path)])
        with pytest.raises(AdminUnreachable, match="no appliance answers there"):
            await in_thread(client.get, path, "/v1/status")
        nursery.cancel_scope.cancel()


def test_importing_the_client_is_light() -> None:
    program = "import sys, appliance.admin.client; print(sorted(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    heavy = {"trio", "zmq", "numpy", "h11", "attr", "google.protobuf", "structlog"}
    assert not heavy & set(ast.literal_eval(shown))
