import errno
import os
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.repository import add_echo

from appliance.cli import main
from appliance.cli import socket_path as rule
from appliance.config import Config, Log

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def logs() -> list[Log]:
    """What logging was set up with."""
    return []


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, logs: list[Log]) -> list[Config]:
    """The configurations `serve` was called with, instead of running an appliance."""
    configs: list[Config] = []

    def serve(config: Config, *_: object, **__: object) -> int:
        configs.append(config)
        return 7

    app = ModuleType("appliance.app")
    app.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "appliance.app", app)
    monkeypatch.setattr("appliance.cli.logs.configure", logs.append)
    return configs


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user's runtime directory, on a box without `/run/appliance`."""
    directory = tmp_path / "user"
    directory.mkdir()
    monkeypatch.setattr(rule, "SYSTEM", str(tmp_path / "system"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    return directory


def test_serve_sets_up_logging_first(served: list[Config], own: Path, logs: list[Log]) -> None:
    assert main(["serve", "--set", "log.level=warning"]) == 7
    assert [log.level for log in logs] == ["warning"]


def test_serve_without_arguments_uses_the_defaults(served: list[Config], own: Path) -> None:
    assert main(["serve"]) == 7
    [config] = served
    assert config.transport == Config().transport
    assert config.admin.socket == str(own / "appliance.sock")


def test_flags_override_the_file_and_set(served: list[Config], tmp_path: Path) -> None:
    file = tmp_path / "appliance.toml"
    file.write_text(
        '[transport]\nbind = ["tcp://127.0.0.1:1"]\n[models]\ndirectory = "from-file"\n'
        "[scheduling]\nmax_queue_size = 5\nmax_retries = 1\n"
    )
    code = main(
        [
            "serve",
            f"--config={file}",
            "--set=scheduling.max_queue_size=9",
            "--set=models.directory=from-set",
            "--models=2024",
            "--bind=tcp://127.0.0.1:2",
            '--bind=ipc:///tmp/with "quotes" and ω',
            "--socket=/tmp/a.sock",
        ]
    )
    assert code == 7
    [config] = served
    assert config.models.directory == "2024"
    assert config.transport.bind == (
        "tcp://127.0.0.1:2",
        'ipc:///tmp/with "quotes" and ω',
    )
    assert config.admin.socket == "/tmp/a.sock"
    assert (config.scheduling.max_queue_size, config.scheduling.max_retries) == (9, 1)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--config", "/nowhere/appliance.toml"], "/nowhere/appliance.toml"),
        (["--set", "scheduling.max_queue_size=many"], "max_queue_size"),
        (["--set", "sheduling.max_queue_size=1"], "sheduling"),
        (["--set", "nonsense"], "KEY=VALUE"),
        (["--bind", "http://here"], "transport.bind"),
    ],
)
def test_serve_refuses_a_configuration_in_one_line(
    served: list[Config], capsys: Capture, words: list[str], named: str
) -> None:
    assert main(["serve", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, served) == ("", [])
    assert err.startswith("appliance: error: ")
    assert named in err
    assert "Traceback" not in err


def test_check_config_says_ok_and_what_it_comes_to(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "appliance.toml"
    file.write_text(
        '[[workers]]\nname = "vision"\ncount = 2\n[[clients.known]]\nid = "arm-1"\n'
        '[models]\ndirectory = "/srv/models"\n[admin]\nsocket = "/tmp/a.sock"\n'
    )
    assert main(["check-config", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("ok\n")
    for expected in ("vision: 2 on cpu", "1 known", "/srv/models", "/tmp/a.sock", "5555"):
        assert expected in out


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[scheduling]\nmax_queue_size = "many"\n', "scheduling.max_queue_size"),
        ("[scheduling]\nmax_queue = 1\n", "max_queue"),
        ("[scheduling]\nmax_queue_size = 0\n", "scheduling.max_queue_size"),
        ("not toml", "not TOML"),
        ("workers = []\n", "workers"),
    ],
)
def test_check_config_names_what_is_wrong(
    tmp_path: Path, capsys: Capture, text: str, named: str
) -> None:
    file = tmp_path / "appliance.toml"
    file.write_text(text)
    assert main(["check-config", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"appliance: error: {file}")
    assert named in err


def test_check_config_looks_at_the_repository_if_it_is_there(
    tmp_path: Path, capsys: Capture
) -> None:
    file, models = tmp_path / "appliance.toml", tmp_path / "models"
    text = f'[models]\ndirectory = "{models}"\n[rate_limits.per_model_hz]\narm = 5\n'
    file.write_text(text)
    assert main(["check-config", str(file)]) == 0
    assert f"{models}: not there, so its models are not checked" in capsys.readouterr().out
    models.mkdir()
    assert main(["check-config", str(file)]) == 1
    assert capsys.readouterr().err == (
        f"appliance: error: {file}: rate_limits.per_model_hz: found 'arm'; {models} has no models\n"
    )
    add_echo(models, "arm")
    add_echo(models, "gripper")
    assert main(["check-config", str(file)]) == 0
    assert f"{models}: arm, gripper\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("named", "expected"),
    [("arm", "workers: no table names 'gripper'"), ("amr", "workers.cpu.models: found 'amr'")],
)
def test_check_config_knows_which_models_workers_can_serve(
    tmp_path: Path, capsys: Capture, named: str, expected: str
) -> None:
    file, models = tmp_path / "appliance.toml", tmp_path / "models"
    add_echo(models, "arm")
    add_echo(models, "gripper")
    file.write_text(f'[models]\ndirectory = "{models}"\n[[workers]]\nmodels = ["{named}"]\n')
    assert main(["check-config", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"appliance: error: {file}: {expected}")


def test_check_config_of_a_missing_file(capsys: Capture) -> None:
    assert main(["check-config", "/nowhere/appliance.toml"]) == 1
    assert "/nowhere/appliance.toml" in capsys.readouterr().err


def test_the_system_directory_comes_first(own: Path) -> None:
    assert rule.default_socket_path() == str(own / "appliance.sock")
    system = Path(rule.SYSTEM)
    system.mkdir()
    assert rule.default_socket_path() == str(system / "appliance.sock")


def test_without_a_runtime_directory_it_is_the_temporary_one(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", "/somewhere")
    assert rule.default_socket_path() == "/somewhere/appliance.sock"


def test_whoever_asks_goes_where_a_socket_is(own: Path) -> None:
    system = Path(rule.SYSTEM)
    system.mkdir()
    (system / "appliance.sock").write_text("not a socket")
    assert rule.default_socket_path(existing=True) == str(system / "appliance.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(own / "appliance.sock"))
    assert rule.default_socket_path(existing=True) == str(own / "appliance.sock")
    assert rule.default_socket_path() == str(system / "appliance.sock")


def test_whoever_may_not_look_asks_there_and_hears_so(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(rule.os, "stat", refuse)
    assert rule.default_socket_path(existing=True) == str(Path(rule.SYSTEM) / "appliance.sock")


def test_demo_gets_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = ModuleType("appliance.cli.demo")
    demo.add_arguments = lambda parser: parser.add_argument("--robots", type=int)  # type: ignore[attr-defined]
    demo.run = lambda arguments: arguments.robots  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "appliance.cli.demo", demo)
    monkeypatch.setattr("appliance.cli.demo", demo, raising=False)
    assert main(["demo", "--robots", "5"]) == 5
