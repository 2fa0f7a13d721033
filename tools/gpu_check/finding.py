"""What a section found: figures with their limits, to be judged by who was not there. PURE."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import numpy as np
from attrs import define, field, frozen

GOOD, BAD, INFORMATION, NOT_JUDGED = "good", "bad", "for information", "not judged on the CPU"
NOT_DONE = "not done: nothing was there to be judged"


@frozen
class Limit:
    """What a figure has to keep to.

    Attributes:
        relation: `<=` or `>=`.
        of_gpu: It says nothing of a CPU, where this program itself is tried.
    """

    relation: Literal["<=", ">="]
    value: float
    of_gpu: bool = False

    def holds(self, figure: float) -> bool:
        """Return whether a figure keeps to it; what is not finite never does."""
        if not math.isfinite(figure):
            return False
        return figure <= self.value if self.relation == "<=" else figure >= self.value

    def __str__(self) -> str:
        """Say it."""
        return f"{self.relation} {self.value:g}"


@frozen
class Figure:
    """One figure.

    Attributes:
        what: It is, in words.
        value: As it was measured.
        limit: None: only to be known.
        verdict: `good`, `bad`, or why it is neither.
    """

    what: str
    value: float
    unit: str
    limit: Limit | None
    verdict: str

    @property
    def shown(self) -> float:
        """The value in four digits; in more, if four would be on the other side of the limit."""
        rounded = float(f"{self.value:.4g}")
        if self.limit is None or self.limit.holds(rounded) == self.limit.holds(self.value):
            return rounded
        return float(f"{self.value:.9g}")


@define(kw_only=True)
class Finding:
    """All that a section found.

    Attributes:
        on_gpu: Limits of a GPU hold.
        on_figure: Called after each figure: a section may not come to its end.
        problems: What is wrong besides figures.
        checks: How often anything was judged: without that, nothing is good.
        details: Whatever else is worth knowing; JSON.
    """

    on_gpu: bool
    on_figure: Callable[[Finding], None]
    figures: list[Figure] = field(factory=list[Figure], init=False)
    problems: list[str] = field(factory=list[str], init=False)
    checks: int = field(default=0, init=False)
    details: dict[str, Any] = field(factory=dict[str, Any], init=False)

    def add(self, what: str, value: float, unit: str, limit: Limit | None = None) -> None:
        """Take in a figure, and judge it."""
        self.checks += limit is not None
        if limit is None:
            verdict = INFORMATION
        elif limit.of_gpu and not self.on_gpu:
            verdict = NOT_JUDGED
        else:
            verdict = GOOD if limit.holds(value) else BAD
        self.figures.append(Figure(what, value, unit, limit, verdict))
        self.on_figure(self)

    def expect(self, expected: bool, what: str) -> None:  # noqa: FBT001  reads as a sentence
        """Take in a problem, unless all is as expected."""
        self.checks += 1
        if not expected:
            self.problems.append(what)

    def expect_graphs(self, model: str, without_graphs: str) -> None:
        """Take in a problem, if batches of a model are not run as CUDA graphs.

        Args:
            without_graphs: Why; empty: they are, or there is no GPU.
        """
        self.expect(not without_graphs, f"{model} ran without graphs: {without_graphs}")

    def expect_quick_way(self, model: str, images_on_cpu: str, *, unpinned: bool) -> None:
        """Take in problems, if rows or images of a model take a detour to the GPU.

        Args:
            images_on_cpu: Why the GPU does not preprocess them; empty: it does, or there is none.
            unpinned: It cannot read the arena.
        """
        self.expect(
            not images_on_cpu, f"images of {model} were preprocessed on the CPU: {images_on_cpu}"
        )
        self.expect(not unpinned, f"{model} ran of an arena that is not pinned")

    @property
    def state(self) -> str:
        """`good`, or what is not; `NOT_DONE` before anything was judged."""
        beyond = [
            f"{each.what}: {each.shown:.9g} {each.unit}, limit {each.limit}"
            for each in self.figures
            if each.verdict == BAD
        ]
        said = "; ".join([*self.problems, *beyond])
        if said:
            return f"{BAD}: {said}"
        return GOOD if self.checks else NOT_DONE

    def document(self) -> dict[str, Any]:
        """Return it for the results."""
        document = {
            "state": self.state,
            "figures": [
                {
                    "what": each.what,
                    "value": each.shown,
                    "unit": each.unit,
                    "limit": str(each.limit) if each.limit else None,
                    "verdict": each.verdict,
                }
                for each in self.figures
            ],
            "details": self.details,
        }
        return _json(document)


def _json(value: Any) -> Any:
    """Return the same with nothing in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _json(each) for key, each in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_json(each) for each in cast("list[Any] | tuple[Any, ...]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary_us(times_ns: Sequence[int]) -> dict[str, float]:
    """Return the median and the 99th percentile, microseconds."""
    at = np.percentile(np.array(times_ns) / 1000, [50, 99])
    return {"p50": round(float(at[0]), 2), "p99": round(float(at[1]), 2)}
