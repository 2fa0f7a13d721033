"""`appliance record` and `replay`: what may be written, and what is said in the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main

Serve = Callable[[dict[str, list[Any]]], str]
Capture = pytest.CaptureFixture[str]


def document(**differing: Any) -> dict[str, Any]:
    return {
        "id": 3,
        "path": "/data/day.mcap",
        "state": "recording",
        "messages": 12,
        "bytes": 2048,
        "dropped": 0,
        "dropped_bytes": 0,
        "seconds": 1.5,
        "error": None,
        **differing,
    }


def served(serve_admin: Serve, *ends: dict[str, Any]) -> str:
    return serve_admin(
        {
            "POST /v1/recordings": [document()],
            "POST /v1/recordings/renew": list(ends),
        }
    )


def test_it_waits_for_the_end(serve_admin: Serve, capsys: Capture) -> None:
    path = served(serve_admin, document(), document(state="done"))
    assert main(["record", "day.mcap", "--seconds", "2", "--socket", path]) == 0
    assert capsys.readouterr().out == "/data/day.mcap: 12 messages, 2.0 KiB, 1.5 s\n"


def test_it_says_what_is_missing(serve_admin: Serve, capsys: Capture) -> None:
    path = served(serve_admin, document(state="done", dropped=2, dropped_bytes=1 << 20))
    assert main(["record", "day.mcap", "--bytes", "9", "--socket", path]) == 0
    assert "2 messages (1.0 MiB) are missing" in capsys.readouterr().out


def test_it_says_what_went_wrong(serve_admin: Serve, capsys: Capture) -> None:
    path = served(serve_admin, document(state="failed", error="/data: is\x1b full"))
    assert main(["record", "day.mcap", "--trigger", "miss", "--socket", path]) == 1
    assert capsys.readouterr().err == "appliance: error: /data: is\\x1b full\n"


def test_nobody_there(tmp_path: Path, capsys: Capture) -> None:
    assert main(["record", "day.mcap", "--socket", str(tmp_path / "absent.sock")]) == 2
    assert "no such socket" in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "day.mcap"
    assert main(["replay", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"appliance: error: {path}: cannot be read: No such file or directory\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["record"],
        ["record", "a", "--seconds", "0"],
        ["record", "a", "--seconds", "1", "--bytes", "1"],
        ["record", "a", "--bytes", "1.5"],
        ["record", "a", "--trigger", "noon"],
        ["replay"],
        ["replay", "a", "--speed", "0"],
        ["replay", "a", "--speed", "inf"],
        ["replay", "a", "--tolerance", "nan"],
    ],
)
def test_mistakes_are_usage_errors(words: list[str]) -> None:
    assert main(words) == 2
