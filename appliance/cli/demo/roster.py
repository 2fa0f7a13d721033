"""Who takes part: kinds of robots, what each asks for and how often, and the server's config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from attrs import frozen

Role = Literal["arm", "camera", "microphone", "noisy"]

ORDER: tuple[Role, ...] = ("arm", "camera", "microphone", "noisy", "arm", "camera", "microphone")
"""The first robots; one of each kind is among the first four. Those after them: `MORE`."""

MORE: tuple[Role, ...] = ("arm", "camera", "microphone")
NOISY_HZ = 150.0
"""What the noisy neighbour may ask; it asks for more than twice that."""


@frozen(kw_only=True)
class Kind:
    """What robots of one role have in common.

    Attributes:
        model: What they ask.
        budget_ms: An answer should be there so long after the capture.
        periods_ms: Between observations; robots of one kind take turns.
        keep: As the SDK's `keep`.
        window: As the SDK's `window`: who is further behind drops what it would ask.
    """

    model: str
    budget_ms: float
    periods_ms: tuple[float, ...]
    keep: str | None = None
    window: int = 256


KINDS: dict[Role, Kind] = {
    "arm": Kind(model="policy", budget_ms=50, periods_ms=(60, 80, 100)),
    "camera": Kind(model="text_direction", budget_ms=60, periods_ms=(1000 / 15, 100)),
    "microphone": Kind(model="voice", budget_ms=64, periods_ms=(32,), keep="all", window=8),
    "noisy": Kind(model="policy", budget_ms=100, periods_ms=(100,), keep="all"),
}
MODELS = tuple(sorted({kind.model for kind in KINDS.values()}))


@frozen(kw_only=True)
class RobotPlan:
    """One robot. `period_ms` is between its observations (of the noisy one: its bursts)."""

    name: str
    role: Role
    period_ms: float
    seed: int

    @property
    def kind(self) -> Kind:
        """What it shares with its kind."""
        return KINDS[self.role]


def roster(count: int) -> list[RobotPlan]:
    """Return `count` robots of mixed kinds and rates; exactly one is noisy."""
    roles: list[Role] = [_role(number) for number in range(count)]
    plans: list[RobotPlan] = []
    for seed, role in enumerate(roles):
        number = roles[:seed].count(role)
        periods = KINDS[role].periods_ms
        plans.append(
            RobotPlan(
                name=f"{role}-{number + 1}" if role != "noisy" else role,
                role=role,
                period_ms=periods[number % len(periods)],
                seed=seed,
            )
        )
    return plans


def _role(number: int) -> Role:
    return ORDER[number] if number < len(ORDER) else MORE[(number - len(ORDER)) % len(MORE)]


def configuration(*, models: Path, bind: str, socket: Path, robots: Sequence[RobotPlan]) -> str:
    """Return the server's configuration as TOML: arms first, the noisy neighbour last."""
    lines = [
        'appliance_id = "demo"',
        "[transport]",
        f"bind = [{_quoted(bind)}]",
        "[models]",
        f"directory = {_quoted(str(models))}",
        "[admin]",
        f"socket = {_quoted(str(socket))}",
        "[log]",
        'level = "warning"',
        "[[workers]]",
        'name = "control"',
        'models = ["policy"]',
        "[[workers]]",
        'name = "senses"',
        'models = ["text_direction", "voice"]',
    ]
    for robot in robots:
        if robot.role == "arm":
            lines += ["[[clients.known]]", f"id = {_quoted(robot.name)}", "tier = 0"]
        elif robot.role == "noisy":
            lines += [
                "[[clients.known]]",
                f"id = {_quoted(robot.name)}",
                "tier = 3",
                f"max_rate_hz = {NOISY_HZ}",
                "max_queue = 8",
            ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a TOML basic string, too
