"""Judges whether an observation ended as it did when it was recorded. Pure.

Some outcomes say how busy the box was, or in what state, and not what the models make of an
observation: where either ending is one of those and they differ, that is counted apart and is no
difference. Of two OK, the outputs are compared, tensor by tensor, by key: dtype and shape have to
be the same; floating-point values a (recorded) and b agree if |a - b| <= T (1 + |a|), NaN agrees
with NaN, an infinity with itself; everything else has to be equal.
"""

from __future__ import annotations

import enum
from collections import Counter
from typing import Any

import numpy as np
from attrs import define, field, frozen
from numpy.typing import NDArray

from appliance.errors import Outcome, Rejected
from appliance.wire.arrays import to_array
from appliance.wire.types import Encoding, Tensor

MOST_EXAMPLES = 10
LEAST_SHARE = 0.5
"""Of what was sent and had been OK. If less of it can be compared, nothing is said to agree: the
answers could nearly all be wrong."""

OF_THE_MOMENT = frozenset(
    {
        Outcome.SUPERSEDED,
        Outcome.INFEASIBLE,
        Outcome.EXPIRED,
        Outcome.SHED,
        Outcome.RATE_LIMITED,
        Outcome.QUEUE_FULL,
        Outcome.DRAINING,
        Outcome.LOADING,
        Outcome.WORKER_LOST,
        Outcome.CANCELLED,
        Outcome.CLIENT_GONE,
    }
)
"""Outcomes that depend on load, on timing or on the state of the box."""


class Verdict(enum.Enum):
    """What became of one observation of the recording."""

    SAME = "same"
    OUTPUTS = "outputs differ"
    OUTCOME = "outcome differs"
    UNANSWERED = "no answer"
    MOMENT = "of the moment"
    UNKNOWN = "not comparable"
    LEFT_OUT = "left out"


DIFFERENCES = (Verdict.OUTPUTS, Verdict.OUTCOME, Verdict.UNANSWERED)


@frozen
class Ending:
    """How an observation ended.

    Attributes:
        payload: None if its outputs were not recorded.
        ended_ns: When, by the recording's clock.
    """

    outcome: Outcome
    version: str = ""
    tensors: tuple[Tensor, ...] = ()
    payload: bytes | None = b""
    ended_ns: int = 0


@define(eq=False)
class Comparison:
    """The verdicts so far, by model.

    Attributes:
        tolerance: T, see above.
        deviation: By model: the largest |a - b| / (1 + |a|) of those that agree and those that
            do not.
        moments: How often which pair of endings was counted apart.
        examples: The first differences, in words.
        were_ok, compared: How many that were sent had been OK, and how many of those do not end in
            something else that is of the moment.
        versions: By model: the versions that answered when recorded, and now.
    """

    tolerance: float
    verdicts: dict[str, Counter[Verdict]] = field(factory=dict[str, "Counter[Verdict]"], init=False)
    deviation: dict[str, float] = field(factory=dict[str, float], init=False)
    moments: Counter[tuple[str, str]] = field(factory=Counter["tuple[str, str]"], init=False)
    examples: list[str] = field(factory=list[str], init=False)
    were_ok: int = field(default=0, init=False)
    compared: int = field(default=0, init=False)
    versions: dict[str, tuple[set[str], set[str]]] = field(
        factory=dict[str, "tuple[set[str], set[str]]"], init=False
    )

    def judge(
        self, model: str, about: str, recorded: Ending | None, replayed: Ending | None
    ) -> Verdict:
        """Count one observation.

        Args:
            about: Which one, for people.
            recorded: None: the recording does not say.
            replayed: None: no answer came.
        """
        verdict, why = self._verdict(model, recorded, replayed)
        self.count(model, verdict)
        if recorded is not None and recorded.outcome is Outcome.OK:
            self.were_ok += 1
            self.compared += verdict is not Verdict.MOMENT
        if verdict in DIFFERENCES and len(self.examples) < MOST_EXAMPLES:
            self.examples.append(f"{about}: {why}")
        return verdict

    def give_up(self, model: str, recorded: Ending | None) -> None:
        """Count one observation whose answer cannot be told from others."""
        self.count(model, Verdict.UNKNOWN)
        self.were_ok += recorded is not None and recorded.outcome is Outcome.OK

    def count(self, model: str, verdict: Verdict) -> None:
        """Count a verdict that needs no comparison."""
        self.verdicts.setdefault(model, Counter())[verdict] += 1

    def total(self, *verdicts: Verdict) -> int:
        """Return how many of these there are over all models."""
        return sum(counted[each] for counted in self.verdicts.values() for each in verdicts)

    @property
    def agrees(self) -> bool:
        """Whether enough could be compared, and nothing differs."""
        return self.total(*DIFFERENCES) == 0 < self.total(Verdict.SAME) and self.is_enough

    @property
    def is_enough(self) -> bool:
        """Whether what could be compared says something about the whole."""
        return self.compared >= LEAST_SHARE * self.were_ok

    def _verdict(
        self, model: str, recorded: Ending | None, replayed: Ending | None
    ) -> tuple[Verdict, str]:
        if recorded is None:
            return Verdict.UNKNOWN, ""
        was = recorded.outcome
        now = None if replayed is None else replayed.outcome
        if was is not now and (was in OF_THE_MOMENT or now in OF_THE_MOMENT):
            self.moments[was.name, "no answer" if now is None else now.name] += 1
            return Verdict.MOMENT, ""
        if replayed is None or now is None:
            return Verdict.UNANSWERED, f"was {was.name}, no answer came"
        if was is not now:
            return Verdict.OUTCOME, f"was {was.name}, is {now.name}"
        if was is not Outcome.OK:
            return Verdict.SAME, ""
        before, after = self.versions.setdefault(model, (set(), set()))
        before.add(recorded.version)
        after.add(replayed.version)
        why = self._outputs(model, recorded, replayed)
        return (Verdict.OUTPUTS, why) if why else (Verdict.SAME, "")

    def _outputs(self, model: str, recorded: Ending, replayed: Ending) -> str:
        """Return how outputs differ; empty: they do not, or the recording does not know."""
        if recorded.payload is None or replayed.payload is None:
            return ""
        before = {tensor.key: tensor for tensor in recorded.tensors}
        after = {tensor.key: tensor for tensor in replayed.tensors}
        if before.keys() != after.keys():
            return f"outputs were {', '.join(before)}, are {', '.join(after)}"
        for key, tensor in before.items():
            why, deviation = _difference(
                tensor, recorded.payload, after[key], replayed.payload, self.tolerance
            )
            self.deviation[model] = max(self.deviation.get(model, 0.0), deviation)
            if why:
                return f"output {key!r}: {why}"
        return ""


def _difference(
    before: Tensor, recorded: bytes, after: Tensor, replayed: bytes, tolerance: float
) -> tuple[str, float]:
    """Return how two tensors differ, or nothing; and how far apart their numbers are."""
    was = (before.dtype.name, before.shape, before.encoding.name)
    now = (after.dtype.name, after.shape, after.encoding.name)
    if was != now:
        return f"was {was}, is {now}", 0.0
    if before.encoding is not Encoding.RAW:
        same = _bytes(before, recorded) == _bytes(after, replayed)
        return "" if same else "other bytes", 0.0
    try:
        a, b = to_array(before, recorded), to_array(after, replayed)
    except Rejected as error:
        return str(error), 0.0
    if a.dtype.kind != "f":
        differing = int(np.count_nonzero(a != b))
        return (f"{differing} of {a.size} values differ" if differing else ""), 0.0
    deviation = deviation_of(a, b)
    worst = float(deviation.max(initial=0.0))
    if worst <= tolerance:
        return "", worst
    differing = int(np.count_nonzero(deviation > tolerance))
    finite = worst if np.isfinite(worst) else 0.0
    return f"{differing} of {a.size} values differ, by up to {worst:.3g}", finite


def deviation_of(recorded: NDArray[Any], replayed: NDArray[Any]) -> NDArray[np.float64]:
    """Return |a - b| / (1 + |a|) of each pair; 0 for the same, infinite for NaN and a number."""
    a, b = recorded.astype(np.float64), replayed.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(a - b) / (1 + np.abs(a))
    apart[np.isnan(apart)] = np.inf
    apart[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    return apart


def _bytes(tensor: Tensor, payload: bytes) -> bytes:
    return payload[tensor.offset : tensor.offset + tensor.length]
