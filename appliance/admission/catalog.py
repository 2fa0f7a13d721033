"""What is served right now: the doors' view of the models."""

from __future__ import annotations

from typing import Literal

from attrs import define, field

from appliance.errors import Outcome, Rejected
from appliance.wire.spec import ModelSpec

LOADING_RETRY_NS = 1_000_000_000
LISTED = 20
"""Model names in an UNKNOWN_MODEL message."""


@define(eq=False)
class Served:
    """One model as its workers report it.

    Attributes:
        spec: None until a worker has loaded it.
        error: Why it failed to load, if it did.
        workers: Those that host it now, by slot and generation.
    """

    name: str
    version: str
    spec: ModelSpec | None = None
    error: str = ""
    workers: set[tuple[str, int]] = field(factory=set["tuple[str, int]"])

    @property
    def state(self) -> Literal["ready", "loading", "failed"]:
        """Whether it can answer."""
        if self.workers:
            return "ready"
        return "failed" if self.error else "loading"


@define(eq=False)
class Catalog:
    """Every model of the repository by name."""

    models: dict[str, Served] = field(factory=dict[str, Served])

    def find(self, name: str, version: str) -> ModelSpec:
        """Return the spec of a model that can answer.

        A model that was up before and whose workers are being restarted is found: robots' requests
        wait for the worker as long as their deadlines let them. See `check_ready` for others'.

        Raises:
            Rejected: UNKNOWN_MODEL, LOADING or ENGINE_FAILED.
        """
        served = self.models.get(name)
        if served is None or (version and version != served.version):
            wanted = f"{name!r}" + (f" version {version!r}" if version else "")
            there = [f"{s.name} (version {s.version})" for s in self.models.values()]
            more = f" and {len(there) - LISTED} more" if len(there) > LISTED else ""
            listing = ", ".join(there[:LISTED]) + more if there else "none"
            raise Rejected(
                Outcome.UNKNOWN_MODEL, f"model {wanted} is not served; served are: {listing}"
            )
        if not served.workers and served.error:
            raise Rejected(Outcome.ENGINE_FAILED, f"model {name!r} failed to load: {served.error}")
        if served.spec is None:
            raise Rejected(
                Outcome.LOADING, f"model {name!r} is loading", retry_after_ns=LOADING_RETRY_NS
            )
        return served.spec

    def check_ready(self, name: str) -> None:
        """Check that a model that is found has a worker now.

        Raises:
            Rejected: LOADING.
        """
        if not self.models[name].workers:
            raise Rejected(
                Outcome.LOADING,
                f"model {name!r} has no worker at the moment; it is being started again",
                retry_after_ns=LOADING_RETRY_NS,
            )
