"""From `scheduling.strategy` and its parameters to a strategy, or to what is wrong with them.

A name is one that is registered, an entry point of the group `appliance.schedulers`, or
`module:attribute`. The two latter import a user's code into this process, which may take a while:
called at the start, by `check-config`, and in a thread before a changed configuration is applied.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, cast

import attrs

from appliance.errors import ConfigError
from appliance.scheduling.choice import Strategy
from appliance.scheduling.events import Request
from appliance.scheduling.guard import StrategyMaker
from appliance.scheduling.strategies.registry import DEFAULT, POLICIES, SCHEDULERS, names
from appliance.scheduling.strategies.scored import Policy, Said, Scored
from appliance.structure import structure

GROUP = "appliance.schedulers"
PARAMETERS = "scheduling.parameters"


def _says_nothing(_: Request) -> Said:
    return Said()


def load_strategy(
    name: str,
    parameters: Mapping[str, Any],
    said: Callable[[Request], Said] = _says_nothing,
) -> StrategyMaker | None:
    """Return a strategy; None: the default.

    Args:
        name: See the module's docstring.
        parameters: The attributes of an attrs class, or the keyword arguments of another class or
            of a policy.
        said: For policies: what the client of a request says.

    Raises:
        ConfigError: There is none of that name, it cannot be imported or made, or a parameter is
            unknown, of the wrong type or out of range.
    """
    if name == DEFAULT:
        if parameters:
            raise ConfigError(
                f"{PARAMETERS}: found {', '.join(parameters)}; {DEFAULT} takes no parameters"
            )
        return None
    found = _find(name)
    if inspect.isclass(found):
        strategy = _made(name, found, parameters)
        return StrategyMaker(name, lambda _: strategy)
    if not callable(found):
        raise ConfigError(
            f"scheduling.strategy: found {name!r}, a {type(found).__name__}; allowed: a class with "
            "a method choose(contenders, start_ns), or a function that scores a request"
        )
    _check_arguments(found, (None,), parameters)
    policy = cast("Policy", partial(found, **parameters) if parameters else found)
    return StrategyMaker(name, lambda streams: Scored(policy, streams, said))


def _find(name: str) -> Any:
    """Return the class or function that a name means."""
    found = _registered(name)
    if found is not None:
        return found
    module, colon, attribute = name.partition(":")
    if colon:
        found = _user_code(name, partial(import_module, module), f"importing {module!r}")
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise ConfigError(
                    f"scheduling.strategy: found {name!r}; {module} has no attribute {attribute!r}"
                )
            found = getattr(found, part)
        return found
    installed = entry_points(group=GROUP)
    for point in installed:
        if point.name == name:
            found = _user_code(name, point.load, f"loading its entry point {point.value!r}")
            # A module has registered it by now.
            found = _registered(name) if isinstance(found, ModuleType) else found
            if found is None:
                raise ConfigError(
                    f"scheduling.strategy: found {name!r}; its entry point {point.value!r} is a "
                    "module that registers nothing under this name"
                )
            return found
    allowed = ", ".join(dict.fromkeys([*names(), *(point.name for point in installed)]))
    raise ConfigError(
        f"scheduling.strategy: found {name!r}; allowed: {allowed}, or module:attribute"
    )


def _registered(name: str) -> Any:
    return SCHEDULERS.get(name) or POLICIES.get(name)


def _made(name: str, cls: type[Any], parameters: Mapping[str, Any]) -> Strategy:
    """Make a strategy of a class."""
    if not callable(getattr(cls, "choose", None)):
        raise ConfigError(
            f"scheduling.strategy: found {name!r}; the class {cls.__name__} has no method "
            "choose(contenders, start_ns)"
        )
    if attrs.has(cls):
        make: Callable[[], Any] = partial(structure, parameters, cls, PARAMETERS)
    else:
        _check_arguments(cls, (), parameters)
        make = partial(cls, **parameters)
    return cast("Strategy", _user_code(name, make, "making it"))


def _check_arguments(
    found: Callable[..., Any], own: tuple[Any, ...], parameters: Mapping[str, Any]
) -> None:
    """Refuse parameters that a callable does not take beside its own arguments."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # written in C, and it does not say
        return
    try:
        signature.bind(*own, **parameters)
    except TypeError as error:
        raise ConfigError(
            f"{PARAMETERS}: found {', '.join(parameters) or 'none'}; {error}; "
            f"allowed: those of {signature}"
        ) from error


def _user_code(name: str, call: Callable[[], Any], doing: str) -> Any:
    """Call what may run a user's code.

    Raises:
        ConfigError: It raised.
    """
    try:
        return call()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"scheduling.strategy: found {name!r}; {doing} raised {type(error).__name__}: {error}"
        ) from error
