"""open_unix_listener on a real file system."""

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest
import trio

from appliance.errors import ConfigError
from appliance.io.unix_listener import Credentials, open_unix_listener, peer_credentials


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "appliance.sock"


async def test_listens_with_the_mode_asked_for_and_removes_its_file(path: Path) -> None:
    before = os.umask(0o022)
    try:
        async with await open_unix_listener(path) as listener:
            assert stat.S_IMODE(path.lstat().st_mode) == 0o660
            client = await trio.open_unix_socket(path)
            async with client, await listener.accept() as server:
                await client.send_all(b"hello")
                assert await server.receive_some() == b"hello"
                own = Credentials(os.getpid(), os.getuid(), os.getgid())
                assert peer_credentials(server) == own
        assert not path.exists()
        await listener.aclose()
    finally:
        assert os.umask(before) == 0o022  # put back after the bind


async def test_a_socket_nobody_listens_on_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    async with await open_unix_listener(path, 0o600):
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600


async def test_a_live_instance_is_left_alone(path: Path) -> None:
    async with await open_unix_listener(path) as listener:
        with pytest.raises(ConfigError, match=f"{path}: another instance is listening"):
            await open_unix_listener(path)
        async with await trio.open_unix_socket(path):
            await (await listener.accept()).aclose()  # the probe above
            await (await listener.accept()).aclose()


async def test_a_live_instance_too_busy_to_accept_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ConfigError, match="another instance is listening"):
            await open_unix_listener(path)


async def test_another_file_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ConfigError, match="something else than a socket"):
        await open_unix_listener(path)
    assert path.read_text() == "precious"


async def test_the_file_of_a_successor_is_not_removed(path: Path) -> None:
    listener = await open_unix_listener(path)
    path.unlink()
    async with await open_unix_listener(path):
        await listener.aclose()
        assert path.exists()


async def test_a_missing_directory(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "appliance.sock"
    with pytest.raises(ConfigError, match=f"no directory {path.parent}; create it"):
        await open_unix_listener(path)


async def test_a_file_for_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot listen there: Not a directory"):
        await open_unix_listener(tmp_path / "file" / "appliance.sock")


async def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 107 bytes"):
        await open_unix_listener(tmp_path / ("x" * 100))


async def test_an_unwritable_directory() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o555)
        is_root = os.geteuid() == 0
        if is_root:  # whom modes do not stop
            os.seteuid(65534)
        try:
            with pytest.raises(ConfigError, match=rf"may not write in {directory}; let it \(chown"):
                await open_unix_listener(Path(directory) / "appliance.sock")
        finally:
            if is_root:
                os.seteuid(0)
            Path(directory).chmod(0o755)
