"""Shared memory of clients: what is taken, and what happens when it changes behind one's back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from grpc import StatusCode

from appliance.config import GrpcIngest
from appliance.ingest.regions import ClientRegions, Regions
from appliance.ingest.status import RefusedWith
from appliance.wire.inference import SharedPart
from appliance.wire.pb import inference_pb2 as pb

NAME = f"appliance-test-{os.getpid()}"
FILE = Path("/dev/shm") / NAME


@pytest.fixture(autouse=True)
def region() -> Iterator[Path]:
    FILE.write_bytes(bytes(range(100)))
    yield FILE
    FILE.unlink(missing_ok=True)


@pytest.fixture
def everybody() -> Iterator[Regions]:
    made = Regions(GrpcIngest(shared_memory=True))
    yield made
    made.close()
    assert made.count == 0


@pytest.fixture
def regions(everybody: Regions) -> ClientRegions:
    return everybody.of("one")


def asks(
    key: str = f"/{NAME}", name: str = "r", offset: int = 10, size: int = 50
) -> pb.SystemSharedMemoryRegisterRequest:
    return pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=size)


def why(call: Callable[[], object]) -> tuple[StatusCode, str]:
    with pytest.raises(RefusedWith) as caught:
        call()
    return caught.value.status, caught.value.message


def test_what_lies_there_is_read_and_written(regions: ClientRegions, region: Path) -> None:
    regions.register(asks())
    assert regions.read(SharedPart("r", 5, 4)) == bytes([15, 16, 17, 18])
    regions.write(SharedPart("r", 0, 3), b"abc")
    assert region.read_bytes()[9:14] == b"\x09abc\x0d"
    status = regions.status(pb.SystemSharedMemoryStatusRequest()).regions["r"]
    assert (status.key, status.offset, status.byte_size) == (f"/{NAME}", 10, 50)


def test_names_are_taken_once_and_given_back(regions: ClientRegions) -> None:
    regions.register(asks())
    assert why(lambda: regions.register(asks()))[0] is StatusCode.ALREADY_EXISTS
    regions.unregister(pb.SystemSharedMemoryUnregisterRequest(name="r"))
    regions.unregister(pb.SystemSharedMemoryUnregisterRequest(name="r"))
    regions.register(asks())
    regions.register(asks(name="other"))
    regions.unregister(pb.SystemSharedMemoryUnregisterRequest())
    assert not regions.status(pb.SystemSharedMemoryStatusRequest()).regions
    unknown = pb.SystemSharedMemoryStatusRequest(name="r")
    assert why(lambda: regions.status(unknown))[0] is StatusCode.NOT_FOUND
    assert why(lambda: regions.read(SharedPart("r", 0, 1)))[0] is StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "bad",
    [
        asks(key=NAME),
        asks(key="/"),
        asks(key="/.."),
        asks(key=f"/../shm/{NAME}"),
        asks(key="//etc/passwd"),
        asks(key="/a\0b"),
        asks(key="/nonesuch-region"),
        asks(name=""),
        asks(name="n" * 256),
        asks(size=0),
        asks(size=91),
        asks(offset=1 << 62, size=1 << 62),
    ],
)
def test_what_is_no_region(
    regions: ClientRegions, bad: pb.SystemSharedMemoryRegisterRequest
) -> None:
    assert why(lambda: regions.register(bad))[0] is StatusCode.INVALID_ARGUMENT


def test_beyond_its_end(regions: ClientRegions) -> None:
    regions.register(asks())
    for part in (SharedPart("r", 0, 51), SharedPart("r", 50, 1), SharedPart("r", 1 << 62, 1)):
        assert why(lambda part=part: regions.read(part))[0] is StatusCode.INVALID_ARGUMENT


def test_one_that_shrinks(regions: ClientRegions, region: Path) -> None:
    regions.register(asks())
    os.truncate(region, 20)
    assert regions.read(SharedPart("r", 0, 10)) == bytes(range(10, 20))
    found = [
        why(lambda: regions.read(SharedPart("r", 0, 11))),
        why(lambda: regions.write(SharedPart("r", 0, 11), bytes(11))),
    ]
    assert found == [(StatusCode.INVALID_ARGUMENT, "region 'r' has shrunk")] * 2
    assert region.stat().st_size == 20


def test_one_that_is_unlinked_stays(regions: ClientRegions, region: Path) -> None:
    regions.register(asks())
    region.unlink()
    assert regions.read(SharedPart("r", 0, 2)) == bytes([10, 11])


def test_links_are_not_followed(regions: ClientRegions, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(100))
    link = Path(f"/dev/shm/{NAME}-link")
    link.symlink_to(secret)
    try:
        found = why(lambda: regions.register(asks(key=f"/{NAME}-link")))
        assert found[0] is StatusCode.INVALID_ARGUMENT
    finally:
        link.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_those_of_another_user(region: Path) -> None:
    os.chown(region, 12345, -1)
    stranger = Regions(GrpcIngest(shared_memory=True)).of("one")
    assert why(lambda: stranger.register(asks()))[0] is StatusCode.PERMISSION_DENIED
    friend = Regions(GrpcIngest(shared_memory=True, shared_memory_owners=(12345,))).of("one")
    friend.register(asks())
    friend.regions.close()


def test_it_is_off_unless_it_is_asked_for() -> None:
    status, message = why(lambda: Regions(GrpcIngest()).of("one").register(asks()))
    assert status is StatusCode.FAILED_PRECONDITION
    assert "ingest.grpc.shared_memory = true" in message


def test_a_prefix_is_kept_to() -> None:
    regions = Regions(GrpcIngest(shared_memory=True, shared_memory_prefix="/robot-")).of("one")
    assert "expected /robot-NAME" in why(lambda: regions.register(asks()))[1]


def test_each_client_has_names_of_its_own(everybody: Regions) -> None:
    one, other = everybody.of("one"), everybody.of("other")
    one.register(asks(offset=10))
    other.register(asks(offset=20))
    part = SharedPart("r", 0, 1)
    assert (one.read(part), other.read(part)) == (bytes([10]), bytes([20]))
    other.unregister(pb.SystemSharedMemoryUnregisterRequest())
    assert everybody.of("one").read(part) == bytes([10])
    assert everybody.count == 1
