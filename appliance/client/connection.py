"""The synchronous face. One thread uses it; nothing but an explicit timeout ever waits."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import zmq

from appliance.client.cadence import Cadence
from appliance.client.codec import Value
from appliance.client.core import Core
from appliance.client.curve import check_pair
from appliance.client.handle import ModelHandle, answer_of
from appliance.client.images import Images
from appliance.client.link import Link
from appliance.client.result import Result
from appliance.client.statistics import Statistics
from appliance.client.ticks import Tick, Ticker
from appliance.keys.files import ClientKeys

if TYPE_CHECKING:
    from typing_extensions import Self

    from appliance.wire.spec import ModelSpec

WINDOW = 256
GIVE_UP_S = 30.0


def new_core(client_id: str | int, client_type: str, give_up_s: float, heartbeat_ms: float) -> Core:
    """Return the memory of a new connection; a client without a name gets one."""
    name = str(client_id) or f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"
    return Core(
        client_id=name,
        client_type=client_type,
        nonce=int.from_bytes(os.urandom(8), "little"),
        give_up_ns=int(give_up_s * 1e9),
        started_ns=time.monotonic_ns(),
        heartbeat_ns=max(1, round(heartbeat_ms * 1e6)),
    )


def read_keys(
    keys: ClientKeys | str | os.PathLike[str] | None, client_id: str | int
) -> ClientKeys | None:
    """Return the keys of a connection.

    Raises:
        ValueError: They are another client's.
        KeyFileError: Their file cannot be used, or they are not of one pair.
    """
    if keys is None:
        return None
    own = keys if isinstance(keys, ClientKeys) else ClientKeys.read(keys)
    check_pair(own)
    # An integer is a name, and 0 is one.
    if own.client and str(client_id) not in ("", own.client):
        raise ValueError(f"client_id {str(client_id)!r}: the keys are those of {own.client!r}")
    return own


def named(client_id: str | int, keys: ClientKeys | None) -> str | int:
    """Return who a client is: as it says or, if it does not, as its keys do."""
    return keys.client if client_id == "" and keys is not None else client_id


AnyLink = TypeVar("AnyLink", bound=Link)


class ConnectionHandle(Generic[AnyLink]):
    """What the faces of a connection share: all that never waits."""

    _link: AnyLink

    def statistics(self) -> Statistics:
        """Return what became of everything asked so far."""
        return self._link.core.statistics()

    @property
    def client_id(self) -> str:
        """Who this is, to the appliance."""
        return self._link.core.client_id

    @property
    def last_heard_ns(self) -> int | None:
        """When the appliance was last heard (`time.monotonic_ns`), heartbeats included."""
        return self._link.core.last_heard_ns

    @property
    def last_error(self) -> str:
        """Why the appliance cannot be reached or does not serve this client; empty if it does."""
        return self._link.error

    def close(self) -> None:
        """Close at once: what is unsent is dropped, what is outstanding counts as unanswered."""
        self._link.close()


class Connection(ConnectionHandle[Link]):
    """A connection to an appliance, which need not be there yet.

    Not thread-safe: one thread at a time.

    Args:
        server: `host:port`, or an address with its transport (`tcp://...`, `ipc://...`).
            Several, best first: the first that answers is used.
        client_id: Who this is, to the appliance; made up if empty.
        client_type: What kind of client this is.
        reconnect_ivl_ms: First pause before connecting again.
        reconnect_max_ms: The pauses double up to this.
        give_up_s: After so long an observation without an answer counts as unanswered.
        heartbeat_ms: How often a sign of life is given at least. One of several appliances that
            gives none for two of these is left for another.
        keys: The key file that `appliance keys new` wrote for this client, or what it holds. Only
            its owner may be able to read the file. Without a `client_id`, this is who it names.
        context: To share one ZeroMQ context between many connections, each of which takes three of
            its MAX_SOCKETS; made here if None.

    Raises:
        ValueError: `server` is no address, or the keys are another client's.
        KeyFileError: The key file cannot be read, others can read it, or it holds no keys.
    """

    def __init__(
        self,
        server: str | Sequence[str] = "localhost:5555",
        client_id: str | int = "",
        client_type: str = "",
        reconnect_ivl_ms: int = 100,
        reconnect_max_ms: int = 5000,
        *,
        give_up_s: float = GIVE_UP_S,
        heartbeat_ms: float = 1000,
        keys: ClientKeys | str | os.PathLike[str] | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        own = read_keys(keys, client_id)
        self._link = Link(
            server,
            new_core(named(client_id, own), client_type, give_up_s, heartbeat_ms),
            reconnect_ivl_ms=reconnect_ivl_ms,
            reconnect_max_ms=reconnect_max_ms,
            keys=own,
            context=context,
        )

    def model(
        self,
        model_id: str,
        latency_budget_ms: float = 50.0,
        priority: int = 1,
        *,
        lateness: str | None = None,
        keep: str | None = None,
        window: int = WINDOW,
        observation_period_ms: float | None = None,
        step_period_ms: float | None = None,
        model_version: str = "",
        images: Images | None = None,
    ) -> Model:
        """Return a handle of a model; handles of one model share its observations and answers.

        Args:
            model_id: The model's name.
            latency_budget_ms: An answer should be here that long after an observation.
            priority: Rank among this client's tier; lower is more important.
            lateness: "firm" is refused rather than late, "soft" late rather than refused;
                None leaves it to the appliance.
            keep: "latest": a newer observation replaces one that waits. "all": each is answered,
                and every answer kept until collected. None: latest here, the appliance's choice
                there.
            window: How many observations may be outstanding or uncollected; the first handle of
                a model decides.
            observation_period_ms: How often this client will observe; None: as its episode or its
                `pace` says.
            step_period_ms: How long one action lasts.
            model_version: Only this version may answer.
            images: Compress the images that are observed, in a thread of the connection: a
                `JpegImages` for all of them, or by key for some. None: they are sent as they are.

        Raises:
            ValueError: An option is out of range, or the model is open with another `keep`.
            TypeError: `images` is something else.
        """
        return Model(
            self._link,
            model_id,
            latency_budget_ms=latency_budget_ms,
            priority=priority,
            lateness=lateness,
            keep=keep,
            window=window,
            observation_period_ms=observation_period_ms,
            step_period_ms=step_period_ms,
            model_version=model_version,
            images=images,
        )

    def wait_reachable(self, timeout_ms: float = 1000) -> bool:
        """Wait for a sign of life of the appliance; return whether one came."""
        core = self._link.core
        heard_ns = core.last_heard_ns
        core.greet()
        self._link.wait(lambda: core.last_heard_ns != heard_ns, timeout_ms)
        return core.last_heard_ns != heard_ns

    def wait_settled(self, timeout_ms: float = 1000) -> bool:
        """Wait until no observation is outstanding; return whether none is."""
        core = self._link.core
        self._link.wait(lambda: not core.outstanding, timeout_ms)
        return not core.outstanding

    def fileno(self) -> int:
        """Return a descriptor that turns readable when `pump` may have something to do.

        For a program with an event loop of its own, which also calls `pump` once a second.
        """
        return self._link.fileno()

    def pump(self) -> None:
        """Send and receive what can be, without waiting; every other call does so, too."""
        self._link.pump(prompt=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Pace:
    """The instants to observe at, one after the other; see `Model.pace`."""

    def __init__(self, link: Link, cadence: Cadence) -> None:
        self._link = link
        self._cadence = cadence

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tick:
        self._link.wait_until(self._due_ns)
        while (now_ns := time.monotonic_ns()) < self._cadence.due_ns(now_ns):
            self._link.wait_until(self._due_ns)  # advice has come at the last moment
        return self._cadence.begin(now_ns)

    def _due_ns(self) -> int:
        return self._cadence.due_ns(time.monotonic_ns())


class Model(ModelHandle):
    """A model, from a thread's point of view."""

    def observe(
        self,
        urgency: float = 0.0,
        steps_remaining: int | None = None,
        priority: int | None = None,
        **tensors_and_strings: Value,
    ) -> int:
        """Ask for an action; see `observe_at`. Returns at once, with the observation's number."""
        return self.observe_at(
            tensors_and_strings,
            urgency=urgency,
            steps_remaining=steps_remaining,
            priority=priority,
        )

    def get_result(self, timeout_ms: float = 100) -> Result | None:
        """Return the answer to the latest observation, once, or None; 0 only looks.

        None comes at once when the observation is refused, and `last_status` says why; when
        nothing is to come any more, it comes after `timeout_ms`, so that loops keep their pace.
        """
        return answer_of(self.wait(timeout_ms))

    def wait(self, timeout_ms: float = 100) -> Result | None:
        """Return the answer or the refusal of the latest observation, once; None: no word yet."""
        self._link.wait(self._has_latest, timeout_ms)
        return self._core.take_latest(self._channel)

    def wait_for(self, sequence: int, timeout_ms: float = 100) -> Result | None:
        """Return the answer or the refusal of one observation, once.

        None comes at once when there will be no word: under `keep="latest"` for all but the
        latest, and for what was given up, cancelled or collected.
        """
        self._link.wait(lambda: self._is_settled(sequence), timeout_ms)
        return self._channel.take(sequence)

    def results(self, timeout_ms: float = 100) -> Iterator[Result]:
        """Yield answers and refusals as they come, until none is outstanding or time is up."""
        deadline_ns = time.monotonic_ns() + int(timeout_ms * 1e6)
        while True:
            self._link.wait(self._has_any, (deadline_ns - time.monotonic_ns()) / 1e6)
            result = self._channel.take_first()
            if result is None:
                return
            yield result

    def ticks(self, hz: float) -> Iterator[Tick]:
        """Yield the turns of a control loop, at absolute instants; messages move meanwhile.

        A loop that takes too long misses ticks: they are skipped, and the next one says so.

        Raises:
            ValueError: `hz` is not above 0.
        """
        ticker = Ticker(time.monotonic_ns(), hz)
        while True:
            self._link.wait_until(lambda: ticker.next_ns)
            yield ticker.tick(time.monotonic_ns())

    def pace(self, hz: float) -> Pace:
        """Return the instants to observe at, for a loop that only observes, `hz` times a second.

        To iterate over: `for tick in model.pace(hz=10)`. Each turn waits for its instant, and
        messages move meanwhile. The appliance is told the period, and its advice moves the
        instants to come (see `cadence`). A loop that takes too long misses instants: they are
        skipped, and the next one says so. The newest `pace` of a model holds.

        Raises:
            ValueError: `hz` is no rate.
            LocalProtocolError: The model has an episode, whose `due` says when to observe.
        """
        return Pace(self._link, self._begin_pace(hz))

    def describe(self, timeout_ms: float = 1000) -> ModelSpec | None:
        """Ask what the model takes and gives; None: no word, or refused as `last_status` says."""
        self._core.specs.describe(self._channel, self._options.model_version)
        self._link.wait(self._is_described, timeout_ms)
        return self._channel.spec
