"""`appliance doctor` on real boxes: a healthy one, and broken ones."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.box import box
from support.certificates import make_ca, make_certificate
from support.fake_driver import SW_THERMAL, FakeDriver, make_libraries, needs_stand_ins
from support.ports import free_ports
from support.repository import add_echo

from appliance.cli import main
from appliance.doctor.gathering import gather
from appliance.doctor.gathering import models as repository
from appliance.doctor.gathering import running as asking

Capture = pytest.CaptureFixture[str]

OF_THE_MACHINE = {"clock", "unit", "hardening", "deployment"}
"""What depends on the machine that runs the tests."""

LISTEN = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    add_echo(tmp_path / "models", "arm")
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is given time."""
    monkeypatch.setattr(gather, "PATIENCE_S", 30.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of engines."""
    monkeypatch.setattr(repository, "SYSTEM_CACHE", tmp_path / "no-service" / "here")
    monkeypatch.setattr(repository, "default_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def doctor(capsys: Capture, config: Path, sock: str, code: int) -> dict[str, Any]:
    """Run it; return findings by name."""
    found = main(["doctor", "--config", str(config), "--socket", sock, "--json"])
    document = json.loads(capsys.readouterr().out)
    findings = {each["name"]: each for each in document["findings"]}
    assert found == code, [each for each in findings.values() if each["advice"]]
    return findings


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "appliance.toml"
    path.write_text(text)
    return path


def absent(tmp_path: Path) -> str:
    return str(tmp_path / "absent.sock")


def test_a_healthy_box(models: Path, capsys: Capture) -> None:
    door, grpc = free_ports()
    config = f"""
        models.directory = "{models}"
        transport.bind = ["tcp://127.0.0.1:{door}"]
        ingest.grpc.bind = "127.0.0.1:{grpc}"
    """
    with box(models, config=config) as running:
        file = running.directory / "config.toml"
        code = main(["doctor", "--config", str(file), "--socket", running.socket, "--json"])
        document = json.loads(capsys.readouterr().out)
    levels = {each["name"]: each["level"] for each in document["findings"]}
    assert {name for name, level in levels.items() if level in ("warning", "error")} <= (
        OF_THE_MACHINE
    )
    assert {levels[name] for name in ("appliance", "configuration", "models", "ports")} == {"ok"}
    assert code == {"ok": 0, "skipped": 0, "warning": 1, "error": 2}[document["level"]]
    (ports,) = (each for each in document["findings"] if each["name"] == "ports")
    assert ports["found"].count("is held by the appliance") == 2


def test_a_key_that_others_can_read(models: Path, tmp_path: Path, capsys: Capture) -> None:
    keys = tmp_path / "keys"
    assert main(["keys", "new-server", "main", "--directory", str(keys)]) == 0
    capsys.readouterr()
    file = written(
        tmp_path,
        f'models.directory = "{models}"\nkeys.required = true\nkeys.directory = "{keys}"\n',
    )
    assert doctor(capsys, file, absent(tmp_path), 1)["secrets"]["level"] == "ok"
    (keys / "server/main.key").chmod(0o644)
    secrets = doctor(capsys, file, absent(tmp_path), 2)["secrets"]
    assert f"{keys}/server/main.key: others may read it (mode 0644)" in secrets["found"]
    assert secrets["advice"].startswith(f"chmod 600 {keys}/server/main.key")


def test_a_port_that_another_process_has(models: Path, tmp_path: Path, capsys: Capture) -> None:
    door, _ = free_ports()
    file = written(
        tmp_path,
        f'models.directory = "{models}"\ntransport.bind = ["tcp://127.0.0.1:{door}"]\n',
    )
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(door)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        ports = doctor(capsys, file, absent(tmp_path), 2)["ports"]
        other.kill()
    assert f"tcp://127.0.0.1:{door} is held by python" in ports["found"]
    assert f"(pid {other.pid})" in ports["found"]


def test_an_address_that_is_none_of_this_box(models: Path, tmp_path: Path, capsys: Capture) -> None:
    file = written(
        tmp_path,
        f'models.directory = "{models}"\nadmin.listen = "127.0.0.1"\n'
        'transport.bind = ["tcp://192.0.2.1:5555"]\ntransport.insecure = true\n',
    )
    ports = doctor(capsys, file, absent(tmp_path), 2)["ports"]
    assert "tcp://192.0.2.1:5555: Cannot assign requested address" in ports["found"]
    assert "admin.listen: 127.0.0.1: is no HOST:PORT" in ports["found"]


def test_a_model_that_is_missing_and_one_that_is_broken(
    models: Path, tmp_path: Path, capsys: Capture
) -> None:
    text = f'models.directory = "{models}"\n[[workers]]\nmodels = ["arm", "gone"]\n'
    found = doctor(capsys, written(tmp_path, text), absent(tmp_path), 2)
    assert "workers.cpu.models: found 'gone'" in found["models"]["found"]
    (models / "arm/model.toml").write_text("max_batch = 0\n")
    text = f'models.directory = "{models}"\n'
    found = doctor(capsys, written(tmp_path, text), absent(tmp_path), 2)
    assert "max_batch" in found["models"]["found"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[workers]]\ndevice = "gpu 0"\n', "workers.0.device"),
        ("arena.bytes = 'many'\n", "arena.bytes"),
        ("nonsense", "not TOML"),
    ],
)
def test_a_configuration_that_cannot_be_used(
    tmp_path: Path, capsys: Capture, text: str, said: str
) -> None:
    file = written(tmp_path, text)
    found = doctor(capsys, file, absent(tmp_path), 2)["configuration"]
    assert found["level"] == "error"
    assert said in found["found"]
    assert f"appliance check-config {file}" in found["advice"]


def test_a_gpu_that_is_configured_and_not_there(
    models: Path, tmp_path: Path, capsys: Capture
) -> None:
    text = f'models.directory = "{models}"\n[[workers]]\nname = "gpu"\ndevice = "cuda:0"\n'
    found = doctor(capsys, written(tmp_path, text), absent(tmp_path), 2)
    assert found["configuration"]["level"] == "ok"
    assert found["gpu"]["level"] == "error"
    assert "gpu" in found["gpu"]["found"]


@needs_stand_ins
def test_a_gpu_that_is_throttled_while_no_appliance_runs(
    models: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver(make_libraries(tmp_path), tmp_path / "says")
    driver.says(reasons=SW_THERMAL, sm=1170)
    for name, value in driver.environment.items():
        monkeypatch.setenv(name, value)
    file = written(
        tmp_path, f'models.directory = "{models}"\n[[workers]]\nname = "gpu"\ndevice = "cuda:0"\n'
    )
    found = doctor(capsys, file, absent(tmp_path), 2)["gpu health"]
    assert found["level"] == "warning"
    assert found["found"] == "cuda:0 Fake GPU 0: throttled by heat, at 1170 MHz of 1980"
    assert "fans" in found["advice"]


def test_certificates_that_clients_would_not_take(
    models: Path, tmp_path: Path, capsys: Capture
) -> None:
    make_ca(tmp_path, "ca")
    make_certificate(tmp_path, "server", "ca")
    text = (
        f'models.directory = "{models}"\n[ingest.grpc]\nbind = "127.0.0.1:0"\n'
        f'tls.certificate = "{tmp_path}/server.pem"\ntls.key = "{tmp_path}/server.key"\n'
    )
    file = written(tmp_path, text)
    assert doctor(capsys, file, absent(tmp_path), 1)["certificate"]["level"] == "ok"

    make_certificate(tmp_path, "old", "ca", days=-1)
    (tmp_path / "old.pem").rename(tmp_path / "server.pem")
    found = doctor(capsys, file, absent(tmp_path), 2)["certificate"]
    assert "MISMATCH" in found["found"]  # the key is the former one's
    (tmp_path / "old.key").rename(tmp_path / "server.key")
    found = doctor(capsys, file, absent(tmp_path), 2)["certificate"]
    assert "has expired" in found["found"]

    (tmp_path / "server.key").unlink()
    found = doctor(capsys, file, absent(tmp_path), 2)
    assert (found["certificate"]["level"], found["files"]["level"]) == ("skipped", "error")


def test_an_appliance_that_hangs_is_not_waited_for(models: Path, capsys: Capture) -> None:
    with box(models, config=f'models.directory = "{models}"') as running:
        running.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        file = running.directory / "config.toml"
        found = doctor(capsys, file, running.socket, 2)["appliance"]
        assert time.monotonic() - began < 2 * (gather.PATIENCE_S + asking.ANSWER_S)
    assert "does not answer" in found["found"]
    assert "no answer within 1 s" in found["found"]


def test_a_socket_that_nobody_listens_at(models: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    path.chmod(0o666)
    found = doctor(capsys, written(tmp_path, f'models.directory = "{models}"'), str(path), 2)
    assert "nobody listens" in found["appliance"]["found"]
    assert "anybody may open it (mode 0666)" in found["socket"]["found"]


def test_engines_of_another_builder_and_damaged_ones(
    models: Path, tmp_path: Path, cache: Path, capsys: Capture
) -> None:
    stale, damaged = cache / ("a" * 32), cache / ("b" * 32)
    for each in (stale, damaged):
        each.mkdir(parents=True)
        (each / "engine.plan").write_bytes(b"x")
    about = {"model": "arm", "version": "1", "recipe": {"builder": "tensorrt 8.0"}}
    (stale / "about.json").write_text(json.dumps(about))
    config = written(tmp_path, f'models.directory = "{models}"')
    found = doctor(capsys, config, absent(tmp_path), 1)["engines"]
    assert "arm 1 was built by tensorrt 8.0, which is not installed" in found["found"]
    assert f"{'b' * 32} is damaged" in found["found"]


def test_what_hangs_elsewhere_is_left_behind(
    models: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "DRIVER", "import time; time.sleep(600)")
    monkeypatch.setattr(gather, "PATIENCE_S", 0.5)
    config = written(tmp_path, f'models.directory = "{models}"')
    found = doctor(capsys, config, absent(tmp_path), 1)["gpu"]
    assert found["found"] == "the driver did not answer in time"


def test_problems_come_last_with_what_to_do(tmp_path: Path) -> None:
    file = written(tmp_path, 'models.directory = "nowhere"\n')
    done = subprocess.run(
        [
            *(sys.executable, "-m", "appliance", "doctor"),
            *("--config", str(file), "--socket", absent(tmp_path)),
        ],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 2
    assert "\x1b" not in done.stdout  # no colours: nobody looks at a terminal
    marks = [line[0] for line in done.stdout.splitlines() if line[:1] in ("+", "-", "!", "x")]
    assert marks.index("x") > max(i for i, mark in enumerate(marks) if mark in "+-")
    lines = done.stdout.splitlines()
    (at,) = (i for i, line in enumerate(lines) if "models.directory" in line and line[0] == "x")
    assert lines[at + 1].strip() == "→ create it, or correct models.directory"
