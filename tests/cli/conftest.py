"""A process that answers as an appliance's admin socket does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Answers requests from a script {"METHOD PATH": [body, ...]}; the last body of a list is repeated,
# and at a body of null the process ends without an answer.
SERVER = """
import http.server, json, os, pathlib, socketserver, sys
path, script = sys.argv[1], json.loads(pathlib.Path(sys.argv[2]).read_text())
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        bodies = script.get(f"{self.command} {self.path}", [])
        unknown = [{"error": {"message": "no such"}}]
        body = bodies.pop(0) if len(bodies) > 1 else (bodies or unknown)[0]
        if body is None:
            os._exit(0)
        data = json.dumps(body).encode()
        self.send_response(200 if bodies else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    do_GET = do_POST = answer
    def log_message(self, *_): pass
    def address_string(self): return "unix"
with socketserver.UnixStreamServer(path, Handler) as server:
    print("listening", flush=True)
    server.serve_forever()
"""

Serve = Callable[[dict[str, list[Any]]], str]


@pytest.fixture
def serve_admin(tmp_path: Path) -> Iterator[Serve]:
    """Start a process that answers on a unix socket; gives the socket's path."""
    running: list[subprocess.Popen[str]] = []

    def serve(script: dict[str, list[Any]]) -> str:
        path, scripted = tmp_path / "admin.sock", tmp_path / "script.json"
        scripted.write_text(json.dumps(script))
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(path), str(scripted)],
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        return str(path)

    yield serve
    for process in running:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
