"""A strategy is found by its name, or the error says what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.simulation import MS, Ask, Model, Trace
from support.strategies import BUILT_IN, simulation_with

from appliance.errors import ConfigError, Outcome
from appliance.scheduling.strategies import load_strategy, register_policy, register_scheduler
from appliance.scheduling.strategies.registry import POLICIES, SCHEDULERS

SIX = Model(name="policy", max_batch=6, base_ns=4 * MS, row_ns=MS)
CODE = """
from appliance.scheduling.choice import Choice
from appliance.scheduling.strategies import register_policy, register_scheduler
from attrs import define, field
from attrs.validators import ge

class Plain:
    def __init__(self, *, size, name="x"):
        self.size = size
    def choose(self, contenders, start_ns):
        return Choice(contenders[0].lane, list(contenders[0].line)[:self.size])

@define
class Typed:
    size: int = field(default=2, validator=ge(1))
    _asked: int = field(default=0, init=False)
    def choose(self, contenders, start_ns):
        self._asked += 1
        return Choice(contenders[0].lane, list(contenders[0].line)[:self.size])

@define
class Odd:
    size: "frozenset[int]" = frozenset()
    def choose(self, contenders, start_ns): ...

class Deep:
    Inner = Typed

class NoStrategy:
    pass

class Raises:
    def __init__(self):
        raise OSError("no disk")
    def choose(self, contenders, start_ns): ...

NUMBER = 3

@register_policy("registered_policy")
def policy(request, weight=1.0):
    return weight * request.age_ms

@register_scheduler("registered_class")
class Registered(Plain):
    def __init__(self):
        super().__init__(size=1)
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of a user's own, as if it were installed with entry points."""
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("import no_such_module")
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[appliance.schedulers]\n"
        "installed = mine:Typed\n"
        "registered_policy = mine\n"
        "forgotten = mine\n"
        "gone = mine:Gone\n"
        "round_robin = mine:Plain\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(SCHEDULERS), dict(POLICIES)
    yield
    sys.modules.pop("mine", None)
    for table, kept in zip((SCHEDULERS, POLICIES), before, strict=True):
        table.clear()
        table.update(kept)


def served(name: str, **parameters: object) -> list[int]:
    """Return the sizes of the batches in which a strategy serves five at once, after one."""
    asks = tuple(Ask(at_ns=n > 0, session=f"robot {n}", budget_ns=1 << 40) for n in range(6))
    world = simulation_with(Trace(models=(SIX,), asks=asks), load_strategy(name, parameters))
    record = world.run()
    assert world.scheduler.fault is None
    assert set(record.outcomes().values()) == {Outcome.OK}
    return [len(start.batch.requests) for start in record.starts][1:]


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_here_is_found(name: str) -> None:
    served(name)


@pytest.mark.parametrize(
    ("name", "parameters", "sizes"),
    [
        ("mine:Plain", {"size": 3}, [3, 2]),
        ("mine:Typed", {}, [2, 2, 1]),
        ("mine:Typed", {"size": 4}, [4, 1]),
        ("mine:Deep.Inner", {"size": 4}, [4, 1]),
        ("mine:policy", {}, [5]),
        ("mine:policy", {"weight": -1.0}, [5]),
        ("installed", {"size": 1}, [1] * 5),
        ("registered_policy", {"weight": 2}, [5]),
        ("mine:Registered", {}, [1] * 5),
    ],
)
def test_what_a_user_wrote_is_found(
    name: str, parameters: dict[str, object], sizes: list[int]
) -> None:
    assert served(name, **parameters) == sizes


def test_what_a_module_registered_is_found_by_that_name() -> None:
    assert served("mine:Registered") == served("registered_class")


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("robin", {}, "scheduling.strategy: found 'robin'; allowed: deadline_aware, "),
        ("robin", {}, "installed, .*or module:attribute"),
        ("", {}, "found ''; allowed: "),
        (":", {}, "scheduling.strategy: found ':'"),
        ("mine:", {}, "scheduling.strategy: found 'mine:'; mine has no attribute ''"),
        ("mine:Gone", {}, "found 'mine:Gone'; mine has no attribute 'Gone'"),
        ("gone", {}, "found 'gone'; loading its entry point 'mine:Gone' raised AttributeError"),
        ("forgotten", {}, "'mine' is a module that registers nothing under this name"),
        ("no_such:Thing", {}, "importing 'no_such' raised ModuleNotFoundError: .*'no_such'"),
        ("broken:Thing", {}, "importing 'broken' raised ModuleNotFoundError: .*'no_such_module'"),
        (".mine:Typed", {}, "importing '.mine' raised TypeError"),
        ("mine:NUMBER", {}, "found 'mine:NUMBER', a int; allowed: a class with"),
        ("mine:NoStrategy", {}, "the class NoStrategy has no method choose"),
        ("mine:Raises", {}, "making it raised OSError: no disk"),
        ("mine:Odd", {"size": [1]}, "making it raised TypeError"),
        ("mine:Plain", {}, "scheduling.parameters: found none; missing a required argument"),
        ("mine:Plain", {"size": 1, "x": 2}, "found size, x; got an unexpected keyword .*allowed"),
        ("mine:policy", {"wait": 2}, "found wait; got an unexpected keyword argument 'wait'"),
        ("mine:policy", {"request": 2}, "multiple values for argument 'request'"),
        ("mine:Typed", {"size": "2"}, 'scheduling.parameters: size: found "2"; .*an integer'),
        ("mine:Typed", {"size": 0}, "scheduling.parameters: size: must be >= 1: 0"),
        ("mine:Typed", {"asked": 1}, "asked: unknown key; allowed: size$"),
        ("mine:Typed", {"_asked": 1}, "_asked: unknown key; allowed: size$"),
        ("deadline_aware", {"x": 1}, "scheduling.parameters: found x; deadline_aware takes no"),
        ("round_robin", {"size": 1}, "size: unknown key; allowed: none"),
        ("batch_optimized", {"max_batch_size": 0}, "max_batch_size: must be >= 1: 0"),
        ("batch_optimized", {"max_batch_size": True}, "found true; allowed: an integer"),
        ("batch_optimized", {"batch_wait_ms": -1}, "batch_wait_ms: must be >= 0"),
        ("batch_optimized", {"batch_wait_ms": float("nan")}, "batch_wait_ms: must be >= 0: nan"),
        ("batch_optimized", {"wait": 1}, "wait: unknown key; allowed: max_batch_size, batch_wait"),
        ("priority_tiered", {"num_tiers": 1.5}, "num_tiers: found 1.5; allowed: an integer"),
    ],
)
def test_what_is_wrong_is_said(name: str, parameters: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_strategy(name, parameters)


def test_a_name_is_given_once() -> None:
    def one(_: object) -> float:
        return 0.0

    def other(_: object) -> float:
        return 0.0

    register_policy("mine")(one)
    register_policy("mine")(one)
    for name in ("mine", *BUILT_IN):
        with pytest.raises(ValueError, match=f"'{name}' is taken"):
            register_policy(name)(other)
    with pytest.raises(ValueError, match="'mine' is taken"):

        @register_scheduler("mine")
        class Mine:
            def choose(self, contenders: object, start_ns: int) -> None: ...
