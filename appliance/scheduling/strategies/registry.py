"""Strategies and policies by name: those that are here, and those that a user's code registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from appliance.scheduling.choice import Strategy

DEFAULT = "deadline_aware"

S = TypeVar("S", bound="type[Strategy]")
P = TypeVar("P", bound=Callable[..., float])

SCHEDULERS: dict[str, type[Strategy]] = {}
POLICIES: dict[str, Callable[..., float]] = {}


def register_scheduler(name: str) -> Callable[[S], S]:
    """Give a `Strategy` class a name, under which `scheduling.strategy` finds it.

    Raises:
        ValueError: Another one has it.
    """

    def register(strategy: S) -> S:
        _check_free(name, strategy)
        SCHEDULERS[name] = strategy
        return strategy

    return register


def register_policy(name: str) -> Callable[[P], P]:
    """Give a function from a `PolicyRequest` to its score a name; a higher score runs first.

    Raises:
        ValueError: Another one has it.
    """

    def register(policy: P) -> P:
        _check_free(name, policy)
        POLICIES[name] = policy
        return policy

    return register


def names() -> list[str]:
    """Return all that are registered, the default first."""
    return [DEFAULT, *SCHEDULERS, *POLICIES]


def _check_free(name: str, newcomer: Any) -> None:
    """Refuse a name that is taken, but for the same thing from a module that is imported anew."""
    holder: Any = SCHEDULERS.get(name) or POLICIES.get(name)
    if name == DEFAULT or (holder is not None and _origin(holder) != _origin(newcomer)):
        raise ValueError(f"{name!r} is taken; registered are: {', '.join(names())}")


def _origin(thing: Any) -> tuple[str, str]:
    return thing.__module__, getattr(thing, "__qualname__", type(thing).__qualname__)
