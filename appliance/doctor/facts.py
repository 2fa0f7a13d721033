"""What was seen on a box. Values only; None: it could not be seen."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen

from appliance.health.reading import DeviceHealth

Kind = Literal["file", "directory", "socket", "other", "missing", "hidden"]
"""`hidden`: whoever looked may not see it."""


@frozen(kw_only=True)
class Person:
    """A user, with all groups."""

    name: str
    uid: int
    gids: frozenset[int]


@frozen(kw_only=True)
class Node:
    """One file or directory. Without meaning where it is missing or hidden: all but the path."""

    path: str
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0


@frozen(kw_only=True)
class ConfiguredFile:
    """A path that the configuration names.

    Attributes:
        key: In the configuration.
        nodes: From the root of the file system to it, or to the first that is not there.
        secret: Nobody but its owner may read it.
        writable: The appliance writes there.
    """

    key: str
    nodes: tuple[Node, ...]
    secret: bool = False
    writable: bool = False

    @property
    def node(self) -> Node:
        """The last one that was looked at."""
        return self.nodes[-1]


@frozen(kw_only=True)
class Port:
    """An address to listen at.

    Attributes:
        address: As the configuration writes it.
        state: Whether somebody listens there; or it is no address of this box, or not ours to ask.
        holder: Name of the process that has it; empty: not known.
        holder_pid: Its number; 0: not known.
        error: Why it cannot be had.
    """

    key: str
    address: str
    state: Literal["free", "busy", "impossible"]
    holder: str = ""
    holder_pid: int = 0
    error: str = ""


@frozen(kw_only=True)
class Disk:
    """Room where the appliance writes.

    Attributes:
        wanted_bytes: What it may come to take.
    """

    purpose: str
    path: str
    free_bytes: int
    wanted_bytes: int


@frozen(kw_only=True)
class Unit:
    """What systemd says of the service. Empty `fragment`: there is none."""

    fragment: str = ""
    active: str = ""
    enabled: str = ""
    result: str = ""
    user: str = ""
    exposure: float | None = None


@frozen(kw_only=True)
class Deployment:
    """What deploys have left.

    Attributes:
        name: Of what `current` leads to.
        is_whole: It is there, with its release.
        is_switching: A switch is under way just now.
        is_on_trial: It has not proven itself.
        next_runs: The unit runs that a deployment is tried under.
    """

    name: str
    is_whole: bool = True
    is_switching: bool = False
    is_on_trial: bool = False
    next_runs: bool = False


@frozen(kw_only=True)
class Model:
    """One of the repository."""

    name: str
    version: str
    error: str = ""


@frozen(kw_only=True)
class Engine:
    """One in the cache.

    Attributes:
        builder: Package and version; empty: the entry is damaged.
    """

    key: str
    model: str = ""
    version: str = ""
    builder: str = ""


@frozen(kw_only=True)
class Running:
    """What came of asking the appliance.

    Attributes:
        answer: `absent`: there is no socket; `silent`: there is one, and nobody answers.
        state: As its status says.
        reasons: Why it is no other.
        pid: Of its core.
        binds: Where it listens.
        devices: GPUs that its workers compute on, as it reads them.
        error: Why there is no answer.
    """

    answer: Literal["answered", "absent", "forbidden", "silent"]
    state: str = ""
    reasons: tuple[str, ...] = ()
    pid: int = 0
    binds: tuple[str, ...] = ()
    devices: tuple[DeviceHealth, ...] = ()
    error: str = ""


@frozen(kw_only=True)
class Facts:
    """All that was seen.

    Attributes:
        config: The file; empty: there is none, defaults hold.
        config_error: Why it cannot be used; empty if it can.
        config_nodes: From the root to the file.
        runs_as: Whom the service runs as.
        caller: Who asks.
        group: Of that name, `appliance`, or what the socket belongs to; -1: there is none.
        socket: From the root to the admin socket.
        has_certificate: The gRPC door has one.
        certificate_error: Why its clients could not take it; None: that cannot be seen.
        wants_gpu: Groups of workers that compute on one.
        driver_error: Why no GPU can be used; empty if one can.
        devices: The GPUs that workers are to compute on; None: they took too long to read.
        tensorrt: Package and version of each that is installed.
        onnxruntime_error: Why a worker could not import it; empty if it can.
        synchronised: Whether the kernel's clock is.
        arena_bytes: Of shared memory.
        memlock_bytes: What may be locked in memory; -1: no limit.
        repository_error: Why the models cannot be read, or do not fit the configuration.
        unit: None: there is no systemd here.
        deployment: None: nothing was deployed here.
    """

    config: str
    config_error: str
    config_nodes: tuple[Node, ...]
    runs_as: Person
    caller: Person
    group: int
    socket: tuple[Node, ...]
    files: tuple[ConfiguredFile, ...] = ()
    has_certificate: bool = False
    certificate_error: str | None = ""
    wants_gpu: tuple[str, ...] = ()
    driver_error: str | None = None
    devices: tuple[DeviceHealth, ...] | None = ()
    tensorrt: tuple[str, ...] = ()
    onnxruntime_error: str | None = None
    synchronised: bool | None = None
    ports: tuple[Port, ...] = ()
    disks: tuple[Disk, ...] = ()
    arena_bytes: int = 0
    memlock_bytes: int | None = None
    models: tuple[Model, ...] = ()
    repository: str = ""
    repository_error: str = ""
    engines: tuple[Engine, ...] = ()
    unit: Unit | None = None
    deployment: Deployment | None = None
    running: Running = field(default=Running(answer="absent"))
