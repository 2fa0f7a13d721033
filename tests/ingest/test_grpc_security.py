"""Who may call, over TLS, with certificates and tokens that change while it runs."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.box import Box, box
from support.certificates import make_ca, make_certificate
from support.fleet_models import add_sleeper
from support.grpc import OVERRIDE, grpc_address, method, refusal, request, stream

from appliance.cli import main
from appliance.config import GrpcTls
from appliance.ingest.certificates import Certificates
from appliance.wire.pb import inference_pb2 as pb

SAID = "log.access_sample=1"
"""Each request is in the log, with its client."""
X = np.zeros((1, 4), np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    add_sleeper(directory, ms=1)
    return directory


@pytest.fixture
def files(tmp_path: Path) -> Path:
    make_ca(tmp_path, "ca")
    make_certificate(tmp_path, "server", "ca")
    return tmp_path


def tls(files: Path, **more: str) -> tuple[str, ...]:
    names = {"certificate": "server.pem", "key": "server.key", **more}
    return tuple(f'ingest.grpc.tls.{key}="{files / name}"' for key, name in names.items())


def secure(running: Box, files: Path, *, ca: str = "ca.pem", client: str = "") -> grpc.Channel:
    own = [(files / f"{client}.{kind}").read_bytes() for kind in ("key", "pem")] if client else []
    credentials = grpc.ssl_channel_credentials((files / ca).read_bytes(), *own)
    # Each channel a connection of its own.
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(grpc_address(running), credentials, options)


def infer(channel: grpc.Channel, **more: object) -> pb.ModelInferResponse:
    return method(channel, "ModelInfer")(request("sleeper", X), timeout=10, **more)


# ---------------------------------------------------------------------------------- TLS


def test_calls_go_over_tls_and_only_so(models: Path, files: Path) -> None:
    with box(models, overrides=(OVERRIDE, *tls(files))) as running:
        running.wait_settled()
        with secure(running, files) as channel:
            assert infer(channel).model_name == "sleeper"
        with grpc.insecure_channel(grpc_address(running)) as plain:
            assert refusal(lambda: infer(plain)).code() is grpc.StatusCode.UNAVAILABLE
        make_ca(files, "other")
        with secure(running, files, ca="other.pem") as distrusting:
            assert refusal(lambda: infer(distrusting)).code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_that_was_renewed_holds_for_who_comes_then(models: Path, files: Path) -> None:
    with box(models, overrides=(OVERRIDE, *tls(files))) as running:
        running.wait_settled()
        before = secure(running, files)
        infer(before)
        make_ca(files, "next")
        for name in (make_certificate(files, "renewed", "next"), files / "renewed.key"):
            name.replace(files / name.name.replace("renewed", "server"))
        with secure(running, files, ca="next.pem") as channel:
            infer(channel)
        infer(before)  # its connection stays
        before.close()
        with secure(running, files) as old:
            assert refusal(lambda: infer(old)).code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_that_cannot_be_used_changes_nothing(models: Path, files: Path) -> None:
    with box(models, overrides=(OVERRIDE, *tls(files))) as running:
        running.wait_settled()
        (files / "server.pem").write_text("no certificate")
        with secure(running, files) as channel:
            infer(channel)
        assert "certificate not renewed" in running.log()


def test_one_that_has_expired_does_not_take_its_place(models: Path, files: Path) -> None:
    with box(models, overrides=(OVERRIDE, *tls(files))) as running:
        running.wait_settled()
        for name in (make_certificate(files, "old", "ca", days=-1), files / "old.key"):
            name.replace(files / name.name.replace("old", "server"))
        with secure(running, files) as channel:
            infer(channel)
        assert f"{files}/server.pem has expired, by the clock of this machine" in running.log()


def test_an_appliance_that_has_only_an_expired_one_serves_robots(models: Path, files: Path) -> None:
    make_certificate(files, "server", "ca", days=-1)
    with box(models, overrides=(OVERRIDE, *tls(files))) as running:
        running.wait_settled()
        assert "has expired" in running.log()
        with secure(running, files) as channel:
            assert refusal(lambda: infer(channel)).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("days", "key", "code", "said"),
    [
        (2, "server.key", 0, "server.pem: good"),
        (-1, "server.key", 2, "server.pem has expired, by the clock of this machine"),
        (2, "ca.key", 2, "key values mismatch"),
    ],
)
def test_a_certificate_is_checked_before_it_is_used(
    files: Path, capsys: pytest.CaptureFixture[str], days: int, key: str, code: int, said: str
) -> None:
    certificate = make_certificate(files, "server", "ca", days=days)
    words = ["keys", "check-certificate", str(certificate), str(files / key)]
    assert main([*words, "--client-ca", str(files / "ca.pem")]) == code
    heard = capsys.readouterr()
    assert said in heard.out + heard.err
    config = files / "appliance.toml"
    names = f'certificate = "{certificate}"\nkey = "{files / key}"\n'
    config.write_text(f'[ingest.grpc]\nbind = "127.0.0.1:8001"\n[ingest.grpc.tls]\n{names}')
    assert main(["check-config", str(config)]) == (1 if code else 0)
    heard = capsys.readouterr()
    assert (said in heard.err) == bool(code)


def test_a_renewal_while_the_files_are_read_is_not_missed(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when they have been read, and before anything else happens."""
    make_certificate(files, "renewed", "ca")
    asked: list[Callable[[], object]] = []
    configuration = grpc.ssl_server_certificate_configuration

    def renew(*read: object) -> object:
        for kind in ("pem", "key"):
            (files / f"renewed.{kind}").replace(files / f"server.{kind}")
        monkeypatch.setattr(grpc, "ssl_server_certificate_configuration", configuration)
        return configuration(*read)

    def credentials(_: object, again: Callable[[], object], *__: object) -> None:
        asked.append(again)

    monkeypatch.setattr(grpc, "ssl_server_certificate_configuration", renew)
    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", credentials)
    Certificates(
        GrpcTls(certificate=str(files / "server.pem"), key=str(files / "server.key"))
    ).credentials()
    (again,) = asked
    assert again() is not None
    assert again() is None


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_can_read_is_refused_at_the_start(
    models: Path, files: Path, mode: int
) -> None:
    (files / "server.key").chmod(mode)
    overrides = (OVERRIDE, *tls(files))
    with pytest.raises(AssertionError) as failed, box(models, overrides=overrides):
        pass
    assert f"ingest.grpc.tls.key: {files}/server.key: holds a secret key" in str(failed.value)
    assert "chmod 600" in str(failed.value)


def test_a_renewed_key_that_others_can_read_changes_nothing_until_they_cannot(
    models: Path, files: Path
) -> None:
    with box(models, overrides=(OVERRIDE, *tls(files))) as running:
        running.wait_settled()
        make_ca(files, "next")
        make_certificate(files, "renewed", "next")
        (files / "renewed.key").chmod(0o644)
        for kind in ("pem", "key"):
            (files / f"renewed.{kind}").replace(files / f"server.{kind}")
        for _ in range(3):
            with secure(running, files) as channel:
                infer(channel)
        assert running.log().count("certificate not renewed") == 1
        assert "chmod 600" in running.log()
        (files / "server.key").chmod(0o600)
        with secure(running, files, ca="next.pem") as channel:
            infer(channel)
        assert "certificate renewed" in running.log()


def test_a_certificate_that_is_gone_is_told_once(models: Path, files: Path) -> None:
    with box(models, overrides=(OVERRIDE, *tls(files))) as running:
        running.wait_settled()
        (files / "server.pem").unlink()
        for _ in range(3):
            with secure(running, files) as channel:
                infer(channel)
        assert running.log().count("certificate not renewed") == 1


def test_clients_need_a_certificate_where_one_is_asked_for(models: Path, files: Path) -> None:
    make_certificate(files, "site", "ca", subject="site-2")
    with box(models, overrides=(OVERRIDE, SAID, *tls(files, client_ca="ca.pem"))) as running:
        running.wait_settled()
        with secure(running, files, client="site") as channel:
            infer(channel, metadata=(("client-id", "somebody-else"),))
        assert '"client": "site-2"' in running.log()
        assert "somebody-else" not in running.log()
        with secure(running, files) as nobody:
            assert refusal(lambda: infer(nobody)).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (('ingest.grpc.tls.certificate="server.pem"',), "certificate and key are needed together"),
        (('ingest.grpc.tls.client_ca="ca.pem"',), "both for client_ca"),
        (
            (
                'ingest.grpc.tls.certificate="/nowhere.pem"',
                'ingest.grpc.tls.key="/nowhere.key"',
            ),
            "ingest.grpc.tls: /nowhere.pem",
        ),
        (('ingest.grpc.bind="0.0.0.0:0"',), "there is no TLS"),
    ],
)
def test_what_cannot_be_secured_is_said_at_the_start(
    models: Path, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(AssertionError) as failed, box(models, overrides=(OVERRIDE, *overrides)):
        pass
    assert said in str(failed.value)


# ------------------------------------------------------------------------------- tokens


@pytest.fixture
def guarded(models: Path, tmp_path: Path) -> Iterator[Box]:
    overrides = (OVERRIDE, SAID, "ingest.grpc.tokens=true", f'keys.directory="{tmp_path}/keys"')
    with box(models, overrides=overrides) as running:
        running.wait_settled()
        yield running


def test_each_call_needs_a_token_and_is_its_holders(
    guarded: Box, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ("--directory", str(tmp_path / "keys"))
    assert main(["keys", "new-token", "site-2", *keys]) == 0
    token = capsys.readouterr().out.strip()
    assert token not in "".join(
        path.read_text() for path in (tmp_path / "keys").rglob("*") if path.is_file()
    )
    held = (("authorization", f"Bearer {token}"), ("client-id", "somebody-else"))
    with grpc.insecure_channel(grpc_address(guarded)) as channel:
        assert infer(channel, metadata=held).model_name == "sleeper"
        assert '"client": "site-2"' in guarded.log()
        assert "somebody-else" not in guarded.log()
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", token),)):
            refused = refusal(lambda metadata=metadata: infer(channel, metadata=metadata))
            assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
        silent = stream(channel)(iter(lambda: None, None), metadata=())
        assert refusal(lambda: next(silent)).code() is grpc.StatusCode.UNAUTHENTICATED
        ready = method(channel, "ServerReady")
        assert (
            refusal(lambda: ready(pb.ServerReadyRequest())).code()
            is grpc.StatusCode.UNAUTHENTICATED
        )
        health = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest()
        assert health.Check(asked).status == health_pb2.HealthCheckResponse.SERVING
        watching = health.Watch(asked)  # a stream takes one of `max_calls` for as long as it likes
        assert refusal(lambda: next(watching)).code() is grpc.StatusCode.UNAUTHENTICATED

        assert main(["keys", "tokens", *keys]) == 0
        assert capsys.readouterr().out == "site-2\n"
        sent: queue.Queue[pb.ModelInferRequest | None] = queue.Queue()
        answers = stream(channel)(iter(sent.get, None), metadata=held)
        sent.put(request("sleeper", X))
        assert not next(answers).error_message
        assert main(["keys", "revoke-token", "site-2", *keys]) == 0
        guarded.wait_until(lambda _: _is_refused(channel, held))
        sent.put(request("sleeper", X))
        assert "UNAUTHENTICATED" in next(answers).error_message
        sent.put(None)


def test_the_trace_that_a_call_belongs_to_is_in_the_log(models: Path) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with box(models, overrides=(OVERRIDE, SAID)) as running:
        running.wait_settled()
        with grpc.insecure_channel(grpc_address(running)) as channel:
            infer(channel, metadata=(("traceparent", f"00-{trace}-00f067aa0ba902b7-01"),))
            infer(channel, metadata=(("traceparent", "00-nonsense"),))
            infer(channel, metadata=(("traceparent", f"00-{'0' * 32}-00f067aa0ba902b7-01"),))
        assert "0" * 32 not in running.log()
        assert running.log().count(f'"trace_id": "{trace}"') == 1
        assert "nonsense" not in running.log()


def _is_refused(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> bool:
    try:
        infer(channel, metadata=metadata)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


def test_the_command_for_people_takes_certificates_and_a_token(
    models: Path,
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = str(files / "keys")
    assert main(["keys", "new-token", "me", "--directory", directory]) == 0
    token = capsys.readouterr().out.strip()
    np.save(files / "x.npy", X)
    overrides = (
        *(OVERRIDE, "ingest.grpc.tokens=true", f'keys.directory="{directory}"'),
        *tls(files),
    )
    with box(models, overrides=overrides) as running:
        running.wait_settled()
        asked = ["infer", "sleeper", "--tensor", str(files / "x.npy"), "--ca", f"{files}/ca.pem"]
        asked += ["--grpc", grpc_address(running)]
        assert main(asked) == 2
        assert "UNAUTHENTICATED" in capsys.readouterr().err
        monkeypatch.setenv("APPLIANCE_TOKEN", token)
        assert main(asked) == 0
        assert "action" in capsys.readouterr().out
