"""What cannot be replayed is one line, before anything is sent."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from recording.recordings import observation, write
from support.keys import KeyMaker

from appliance.cli import main
from appliance.recording.buffers import Record

DAY_NS = 86_400 * 10**9


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["replay", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.mark.parametrize(
    ("records", "words", "why"),
    [
        ([observation(1), observation(2, at_ns=50 * DAY_NS)], (), "takes 50 days"),
        ([observation(1), observation(2, at_ns=2**63)], (), "more than 7 are not replayed"),
        ([observation(1), observation(2, at_ns=1)], ("--speed", "1e-320"), "takes inf days"),
        ([observation(1, session=b"", protocol_version=0)], (), "id has 0 bytes; it has 1 to 255"),
        ([observation(1, session=b"x" * 300)], (), "id has 300 bytes"),
        ([observation(n, session=b"%d" % n) for n in range(1000)], (), "may make 96; it may open"),
    ],
)
def test_a_recording_that_nobody_could_have_made(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    records: list[Record],
    words: tuple[str, ...],
    why: str,
) -> None:
    limits = [(100, 256)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.append(wanted))
    path = tmp_path / "a.mcap"
    write(path, records)
    assert why in refusal(capsys, str(path), *words)


@pytest.mark.parametrize("server", ["nonsense", "tcp://x", "tcp://127.0.0.1:x", "inproc://x", ""])
def test_an_address_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], server: str
) -> None:
    said = refusal(capsys, str(tmp_path / "a.mcap"), "--server", server)
    assert f"--server: found {server!r}; allowed: tcp://HOST:PORT or ipc://PATH" in said


def test_keys_that_are_not_those_of_who_was_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mcap"
    write(path, [observation(1)])
    keys = KeyMaker(tmp_path / "keys")
    keys.client("base").write(tmp_path / "base.key")
    said = refusal(capsys, str(path), "--keys", str(tmp_path / "base.key"))
    assert "is the key of 'base', and 'arm-3' was recorded, too; name a directory" in said
    assert "arm-3.key: cannot be read: No such file" in refusal(
        capsys, str(path), "--keys", str(tmp_path)
    )
    assert "cannot be read: No such file" in refusal(capsys, str(path), "--keys", "nowhere")
