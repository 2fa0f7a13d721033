"""Findings, and the remarks that make one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from attrs import frozen

Level = Literal["ok", "skipped", "warning", "error"]
SEVERITY: tuple[Level, ...] = ("ok", "skipped", "warning", "error")


@frozen(kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `skipped`: it could not be looked at, or there is nothing of that kind here.
        found: What was seen.
        advice: What to do; empty where nothing is wrong.
    """

    name: str
    level: Level
    found: str
    advice: str = ""


@frozen
class Remark:
    """A part of a finding."""

    level: Level
    found: str
    advice: str = ""


def worst_level(findings: Iterable[Finding | Remark]) -> Level:
    """Return the worst level there is; `ok` for nothing."""
    found: set[Level] = {each.level for each in findings}
    for level in reversed(SEVERITY):
        if level in found:
            return level
    return "ok"


def finding_of(name: str, remarks: Sequence[Remark]) -> Finding:
    """Make one finding of remarks: those of the worst level, all of them."""
    level = worst_level(remarks)
    chosen = [each for each in remarks if each.level == level]
    advice = dict.fromkeys(each.advice for each in chosen if each.advice)
    return Finding(
        name=name,
        level=level,
        found="; ".join(each.found for each in chosen),
        advice="; ".join(advice),
    )
