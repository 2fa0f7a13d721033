"""Shared memory of clients on this machine: named regions, read and written by the system's calls.

What a client can shrink is never mapped: reading what is not there any more is an error here, and
would be the end of the process there. It is a copy of memory, and waits for nothing.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from attrs import define, field
from grpc import StatusCode

from appliance.config import GrpcIngest
from appliance.ingest.status import RefusedWith
from appliance.wire.checks import MAX_NAME_BYTES
from appliance.wire.inference import SharedPart
from appliance.wire.pb import inference_pb2

DIRECTORY = Path("/dev/shm")  # noqa: S108  where POSIX shared memory lies on Linux
MOST, MOST_EACH = 1024, 256
"""Regions: of all clients, of one."""

_Status = inference_pb2.SystemSharedMemoryStatusResponse


@define(eq=False)
class _Region:
    key: str
    offset: int
    size: int
    file: int


@define(eq=False)
class Regions:
    """See the module's docstring. Each client has names of its own.

    Attributes:
        count: Of all regions that are registered.
    """

    settings: GrpcIngest
    count: int = field(default=0, init=False)
    _by_client: dict[str, ClientRegions] = field(factory=dict[str, "ClientRegions"], init=False)

    def of(self, client: str) -> ClientRegions:
        """Return those of a client; of one that has none, what takes its first."""
        return self._by_client.get(client) or ClientRegions(self, client)

    def counted(self, regions: ClientRegions, more: int) -> None:
        """Take in that a client has more regions, or fewer; whoever has none is forgotten."""
        self.count += more
        if regions.names:
            self._by_client[regions.client] = regions
        else:
            self._by_client.pop(regions.client, None)

    def close(self) -> None:
        """Forget all."""
        for regions in list(self._by_client.values()):
            regions.unregister(inference_pb2.SystemSharedMemoryUnregisterRequest())


@define(eq=False)
class ClientRegions:
    """The regions of one client, by name."""

    regions: Regions
    client: str
    names: dict[str, _Region] = field(factory=dict[str, _Region], init=False)

    @property
    def settings(self) -> GrpcIngest:
        """See `GrpcIngest`."""
        return self.regions.settings

    def register(
        self, asked: inference_pb2.SystemSharedMemoryRegisterRequest
    ) -> inference_pb2.SystemSharedMemoryRegisterResponse:
        """Take a region of a client.

        Raises:
            RefusedWith: It is off, the name is taken, or the region is not there or not allowed.
        """
        if not self.settings.shared_memory:
            raise RefusedWith(
                StatusCode.FAILED_PRECONDITION,
                "shared memory is off; ingest.grpc.shared_memory = true turns it on",
            )
        if asked.name in self.names:
            raise RefusedWith(
                StatusCode.ALREADY_EXISTS, f"region {asked.name!r} is registered already"
            )
        if len(self.names) >= MOST_EACH or self.regions.count >= MOST:
            raise RefusedWith(
                StatusCode.RESOURCE_EXHAUSTED,
                f"at most {MOST_EACH} regions of a client and {MOST} in all",
            )
        if not 0 < len(asked.name) <= MAX_NAME_BYTES or asked.byte_size == 0:
            raise _invalid("a region has a name, and at least one byte")
        file = self._open(asked.key)
        there = os.fstat(file).st_size
        if asked.offset + asked.byte_size > there:
            os.close(file)
            raise _invalid(
                f"region {asked.name!r}: {asked.key} has {there} bytes, up to "
                f"{asked.offset + asked.byte_size} are asked for"
            )
        self.names[asked.name] = _Region(asked.key, asked.offset, asked.byte_size, file)
        self.regions.counted(self, 1)
        return inference_pb2.SystemSharedMemoryRegisterResponse()

    def _open(self, key: str) -> int:
        """Open the file of a region, if it may be one."""
        prefix = self.settings.shared_memory_prefix
        if not key.startswith(prefix) or "/" in key[1:] or key[1:] in {"", ".", ".."}:
            raise _invalid(f"key {key!r}: expected {prefix}NAME")
        try:
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            file = os.open(DIRECTORY / key[1:], flags)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise _invalid(f"key {key!r} cannot be opened: {reason}") from error
        found = os.fstat(file)
        owners = (os.geteuid(), *self.settings.shared_memory_owners)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in owners:
            os.close(file)
            raise RefusedWith(
                StatusCode.PERMISSION_DENIED,
                f"key {key!r} is user {found.st_uid}'s; allowed: {', '.join(map(str, owners))}",
            )
        return file

    def unregister(
        self, asked: inference_pb2.SystemSharedMemoryUnregisterRequest
    ) -> inference_pb2.SystemSharedMemoryUnregisterResponse:
        """Forget a region, or all if none is named; one that is not there is no mistake."""
        for name in [asked.name] if asked.name else list(self.names):
            region = self.names.pop(name, None)
            if region is not None:
                os.close(region.file)
                self.regions.counted(self, -1)
        return inference_pb2.SystemSharedMemoryUnregisterResponse()

    def status(self, asked: inference_pb2.SystemSharedMemoryStatusRequest) -> _Status:
        """Return one region, or all if none is named.

        Raises:
            RefusedWith: There is no such region.
        """
        if asked.name and asked.name not in self.names:
            raise _unknown(asked.name)
        return _Status(
            regions={
                name: _Status.RegionStatus(
                    name=name, key=region.key, offset=region.offset, byte_size=region.size
                )
                for name, region in self.names.items()
                if asked.name in ("", name)
            }
        )

    def read(self, part: SharedPart) -> bytes:
        """Return bytes of a region.

        Raises:
            RefusedWith: There is no such region, it is shorter, or it has shrunk.
        """
        region = self._find(part)
        buffer = bytearray(part.size)
        if os.preadv(region.file, [buffer], region.offset + part.offset) != part.size:
            raise _shrunk(part)
        return bytes(buffer)

    def write(self, part: SharedPart, data: bytes) -> None:
        """Write to a region.

        Raises:
            RefusedWith: As `read`.
        """
        region = self._find(part)
        begin = region.offset + part.offset
        if os.fstat(region.file).st_size < begin + len(data):
            raise _shrunk(part)
        try:
            written = os.pwrite(region.file, data, begin)
        except OSError as error:  # no room in /dev/shm for a region with holes, say
            raise _invalid(f"region {part.region!r} cannot be written: {error}") from error
        if written != len(data):
            raise _invalid(f"region {part.region!r} took {written} of {len(data)} bytes")

    def _find(self, part: SharedPart) -> _Region:
        region = self.names.get(part.region)
        if region is None:
            raise _unknown(part.region)
        if part.offset + part.size > region.size:
            raise _invalid(
                f"region {part.region!r} has {region.size} bytes, up to "
                f"{part.offset + part.size} are asked for"
            )
        return region


def _invalid(message: str) -> RefusedWith:
    return RefusedWith(StatusCode.INVALID_ARGUMENT, message)


def _unknown(name: str) -> RefusedWith:
    return RefusedWith(StatusCode.NOT_FOUND, f"region {name!r} is not registered")


def _shrunk(part: SharedPart) -> RefusedWith:
    return _invalid(f"region {part.region!r} has shrunk")
