"""The OpenMetrics text format, as far as it is needed: families in, text out.

Written by hand because it is written on the event loop: a general client library takes ten times
as long over the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from attrs import define, field

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@define
class Family:
    """One metric with all its label sets.

    Attributes:
        name: With its unit as suffix where it has one, and without `_total`.
        unit: Base unit (`seconds`, `bytes`), or empty.
    """

    name: str
    kind: Literal["counter", "gauge", "summary", "info", "stateset"]
    help: str
    unit: str = ""
    _lines: list[str] = field(factory=list[str], init=False)

    def add(
        self, value: float, labels: Mapping[str, str] | None = None, *, suffix: str = ""
    ) -> None:
        """Add a sample; `suffix` is `_total` of a counter, `_count` and `_sum` of a summary."""
        inner = ",".join(f'{key}="{escape(text)}"' for key, text in (labels or {}).items())
        self._lines.append(f"{self.name}{suffix}{{{inner}}} {value}")

    def lines(self) -> Iterable[str]:
        """Yield the family's lines; none if it has no samples."""
        if not self._lines:
            return
        yield f"# TYPE {self.name} {self.kind}"
        if self.unit:
            yield f"# UNIT {self.name} {self.unit}"
        yield f"# HELP {self.name} {escape(self.help)}"
        yield from self._lines


def render(families: Iterable[Family]) -> str:
    """Return the exposition of `families`, each with a name of its own."""
    lines = [line for family in families for line in family.lines()]
    return "\n".join([*lines, "# EOF", ""])


def escape(text: str) -> str:
    """Escape a label value or a help text."""
    return text.translate(_ESCAPES)
