import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_documents import client, model, status

from appliance.cli import main

Serve = Callable[[dict[str, list[Any]]], str]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize(
    ("state", "code"), [("ready", 0), ("starting", 1), ("degraded", 1), ("draining", 1)]
)
def test_status_exits_by_state(serve_admin: Serve, capsys: Capture, state: str, code: int) -> None:
    path = serve_admin({"GET /v1/status": [status(state=state, reasons=["because"])]})
    assert main(["status", "--socket", path]) == code
    assert f"● {state}" in capsys.readouterr().out


def test_status_as_json_is_the_document(serve_admin: Serve, capsys: Capture) -> None:
    document = status(state="degraded", reasons=["ω"])
    path = serve_admin({"GET /v1/status": [document]})
    assert main(["status", "--json", "--socket", path]) == 1
    assert json.loads(capsys.readouterr().out) == document


@pytest.mark.parametrize(
    "words", [["status"], ["status", "--json"], ["clients"], ["models", "list"], ["drain"]]
)
def test_nobody_there_is_one_line_and_code_2(
    tmp_path: Path, capsys: Capture, words: list[str]
) -> None:
    path = str(tmp_path / "absent.sock")
    assert main([*words, "--socket", path]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("appliance: error: ")
    assert path in err
    assert err.count("\n") == 1


def test_a_server_of_another_version_is_one_line(serve_admin: Serve, capsys: Capture) -> None:
    document = status()
    del document["models"]
    path = serve_admin({"GET /v1/status": [document]})
    for words in (["status"], ["models", "list", "--json"]):
        assert main([*words, "--socket", path]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("appliance: error: the appliance answers in a form")
        assert "'models'" in err


def test_clients(serve_admin: Serve, capsys: Capture) -> None:
    document = {"clients": [client("arm-1"), client("arm-2", connected=False, silent_s=9.0)]}
    path = serve_admin({"GET /v1/clients": [document]})
    assert main(["clients", "--socket", path]) == 0
    out = capsys.readouterr().out
    assert "arm-1" in out
    assert "gone 9.0 s" in out
    assert main(["clients", "--socket", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == document


def test_models_list(serve_admin: Serve, capsys: Capture) -> None:
    path = serve_admin({"GET /v1/status": [status(models=[model("pick")])]})
    assert main(["models", "list", "--socket", path]) == 0
    assert "pick" in capsys.readouterr().out
    assert main(["models", "list", "--json", "--socket", path]) == 0
    assert json.loads(capsys.readouterr().out) == {"models": [model("pick")]}


def test_drain_says_what_is_in_flight(serve_admin: Serve, capsys: Capture) -> None:
    path = serve_admin({"GET /v1/status": [status()], "POST /v1/drain": [{}]})
    assert main(["drain", "--socket", path]) == 0
    assert capsys.readouterr().out == "draining: 2 in flight\n"


@pytest.mark.parametrize("last", [None, status(instance="another")])
def test_drain_waits_until_it_is_gone(
    serve_admin: Serve, capsys: Capture, monkeypatch: pytest.MonkeyPatch, last: Any
) -> None:
    polls: list[float] = []
    monkeypatch.setattr("time.sleep", polls.append)
    draining = status(state="draining")
    path = serve_admin(
        {"GET /v1/status": [status(), draining, draining, last], "POST /v1/drain": [{}]}
    )
    assert main(["drain", "--wait", "--socket", path]) == 0
    assert capsys.readouterr().out == "stopped\n"
    assert len(polls) == 2


def test_watch_goes_on_until_interrupted(
    serve_admin: Serve, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps = iter([None, None])

    def sleep(seconds: float) -> None:
        if next(naps, KeyboardInterrupt) is KeyboardInterrupt:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    path = serve_admin({"GET /v1/status": [status(), status(state="degraded"), None]})
    assert main(["status", "--watch", "--socket", path]) == 2
    assert "● unreachable" in capsys.readouterr().out


def test_watch_as_json_is_one_document_a_line(
    serve_admin: Serve, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps = iter([None])

    def sleep(seconds: float) -> None:
        if next(naps, KeyboardInterrupt) is KeyboardInterrupt:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    path = serve_admin({"GET /v1/status": [status(), status(state="degraded")]})
    assert main(["status", "--watch", "--json", "--socket", path]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["ready", "degraded"]


@pytest.mark.parametrize(
    "words",
    [[], ["nonsense"], ["status", "--nonsense"], ["models"], ["check-config"], ["serve", "extra"]],
)
def test_usage_is_code_2(capsys: Capture, words: list[str]) -> None:
    assert main(words) == 2
    assert "usage: appliance" in capsys.readouterr().err


def test_help_and_version_are_code_0(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    assert "check-config" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("appliance ")


def test_status_imports_only_what_it_needs(serve_admin: Serve) -> None:
    """The promise of a quick `status`, kept where a clock would not be deterministic."""
    path = serve_admin({"GET /v1/status": [status()]})
    program = textwrap.dedent(
        f"""
        import sys
        from appliance.cli import main
        code = main(["status", "--socket", {path!r}])
        slow = "asyncio attr cattrs google numpy onnxruntime structlog tempfile trio zmq".split()
        print("imported:", [name for name in slow if name in sys.modules], file=sys.stderr)
        sys.exit(code)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert "● ready" in done.stdout
    assert done.stderr == "imported: []\n"


def test_as_a_module(serve_admin: Serve) -> None:
    path = serve_admin({"GET /v1/status": [status(state="draining")]})
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "status", "--json", "--socket", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["state"] == "draining"


def test_a_reader_that_leaves_early_is_no_traceback(serve_admin: Serve) -> None:
    path = serve_admin(
        {"GET /v1/clients": [{"clients": [client(f"arm-{n}") for n in range(2000)]}]}
    )
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m appliance clients --json --socket {path} | head -1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_a_package_that_is_not_installed_is_named(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, serve_admin: Serve
) -> None:
    path = serve_admin({"GET /v1/status": [status()]})
    monkeypatch.delitem(sys.modules, "rich.console", raising=False)
    monkeypatch.delitem(sys.modules, "rich", raising=False)
    monkeypatch.setitem(sys.modules, "rich", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "appliance.cli.status_view", raising=False)
    assert main(["status", "--socket", path]) == 2
    err = capsys.readouterr().err
    assert err == "appliance: error: rich is not installed: pip install 'appliance[server]'\n"
