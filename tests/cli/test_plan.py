"""`appliance plan FLEET.toml`: what a description may say, the search, and the whole command."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cli import main
from appliance.cli.plan.description import (
    MOST_ROBOTS,
    Chunk,
    Description,
    Model,
    NetworkTimes,
    Robots,
    Target,
    Workers,
    load,
)
from appliance.cli.plan.search import FINENESS, Largest, find_largest, sizes_around
from appliance.errors import ConfigError

Capture = pytest.CaptureFixture[str]
EXAMPLE = Path(__file__).parent.parent.parent / "docs" / "examples" / "fleet.toml"
MS = 1_000_000

# One row takes 9.5 ms, alone, so a worker carries 105 a second: ten robots of 10 Hz.
MODEL = """
[models.policy]
base_ms = 9.5
row_ms = 0
max_batch = 1
noise_percent = 0
spike_percent = 0
"""
ROBOTS = """
[[robots]]
name = "arm"
model = "policy"
hz = 10
latency_budget_ms = 150
count = 6
jitter_ms = 0
"""
BY_HAND = "seconds = 20\nseeds = [1]\n" + MODEL + ROBOTS
SMALL = BY_HAND.replace("seconds = 20", "seconds = 3").replace("count = 6", "count = 2")


def plan(tmp_path: Path, text: str, *words: str) -> int:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    return main(["plan", str(path), "--processes", "1", *words])


def planned(tmp_path: Path, capsys: Capture, text: str, *words: str) -> tuple[int, dict[str, Any]]:
    code = plan(tmp_path, text, "--json", *words)
    return code, json.loads(capsys.readouterr().out)


# ------------------------------------------------------------------------------ the description


def test_the_example_is_what_it_says() -> None:
    fleet = load(EXAMPLE).fleet()
    assert {kind.name: kind.count for kind in fleet.robots} == {
        "arm": 20,
        "base": 14,
        "camera": 12,
        "gripper": 4,
    }
    policy, detector = fleet.engines
    assert (policy.mean_ns(4), policy.max_batch) == (9 * MS, 16)
    assert (detector.mean_ns(3), detector.max_batch) == (2.55 * MS, 16)
    arm, base, _, gripper = fleet.robots
    assert arm.chunks is not None
    assert (arm.chunks.steps, arm.chunks.step_period_ns, arm.budget_ns) == (16, 20 * MS, None)
    assert (base.network.least_ns, base.network.straggler_share) == (2 * MS, 0.02)
    assert (gripper.tier, gripper.firm, arm.firm) == (0, True, False)
    assert [(slot.slot, slot.models) for slot in fleet.workers] == [
        ("gpu-0", ("policy", "detector"))
    ]


def test_every_key_is_documented_and_the_example_is_the_file() -> None:
    page = (EXAMPLE.parent.parent / "planning.md").read_text()
    assert EXAMPLE.read_text() in page
    rows = "\n".join(line.split("|")[1] for line in page.splitlines() if line.startswith("|"))
    tables = {"models", "robots", "workers", "target"}  # they are headings
    for cls in (Description, Target, Model, Robots, NetworkTimes, Chunk, Workers):
        for name in {field.name for field in attrs.fields(cls)} - tables:
            assert f"`{name}`" in rows


def test_shares_are_of_a_fleet_of_a_size(tmp_path: Path) -> None:
    other = ROBOTS.replace("arm", "base").replace("count = 6", "share = 0.3")
    path = tmp_path / "fleet.toml"
    path.write_text("fleet_size = 9\n" + MODEL + ROBOTS.replace("count = 6", "share = 0.7") + other)
    assert load(path).counts == [6, 3]


@pytest.mark.parametrize(
    ("found", "instead", "said"),
    [
        ("hz = 10", "hz = 0", "robots.0.hz: must be >= 0.001: 0"),
        ("hz = 10", "hz = nan", "robots.0.hz: must be >= 0.001: nan"),
        ("hz = 10", "hz = inf", "robots.0.hz: must be <= 1000: inf"),
        ("hz = 10", "", "robots.0.hz: is missing"),
        ("hz = 10", "hz = 10\nHz = 3", "robots.0.Hz: unknown key; allowed: name, model, hz"),
        ("count = 6", "count = 0", "robots.0.count: must be >= 1: 0"),
        ("count = 6", "", "robots.0.count: is missing; without fleet_size every class has one"),
        ("count = 6", "share = 1.0", "robots.0.share: found without fleet_size; give count"),
        ("latency_budget_ms = 150", "", "robots.0.latency_budget_ms: is missing; only robots with"),
        ("latency_budget_ms = 150", "latency_budget_ms = -5", "latency_budget_ms: must be >= 0.00"),
        ("jitter_ms = 0", "jitter_ms = -1", "robots.0.jitter_ms: must be >= 0.0: -1"),
        ("jitter_ms = 0", "network = {least_ms = nan}", "robots.0.network.least_ms: must be >= 0"),
        ("jitter_ms = 0", "tier = 10", "robots.0.tier: must be <= 9: 10"),
        ("jitter_ms = 0", 'lateness = "never"', 'found "never"; allowed: "firm", "soft"'),
        ('model = "policy"', 'model = "x"', "robots 'arm' ask the model 'x', which no worker host"),
        ("base_ms = 9.5", "base_ms = -1", "models.policy.base_ms: must be >= 0.0: -1"),
        ("base_ms = 9.5", "base_ms = nan", "models.policy.base_ms: must be >= 0.0: nan"),
        ("base_ms = 9.5", "base_ms = 0", "models.policy.base_ms: found 0, as row_ms; one row"),
        ("base_ms = 9.5", "", "models.policy.times_ms: is missing; give it, as {1 = 7.0, ...}"),
        ("base_ms = 9.5", "times_ms = {1 = 2}", "times_ms: found beside base_ms, row_ms or max"),
        ("base_ms = 9.5\nrow_ms = 0\nmax_batch = 1", "times_ms = {}", "times_ms: found none"),
        ("base_ms = 9.5\nrow_ms = 0\nmax_batch = 1", "times_ms = {one = 2}", "found the key 'one'"),
        ("base_ms = 9.5\nrow_ms = 0\nmax_batch = 1", "times_ms = {0 = 2}", "found the key '0'; al"),
        ("base_ms = 9.5\nrow_ms = 0\nmax_batch = 1", "times_ms = {257 = 2}", "allowed: 1 to 256"),
        ("base_ms = 9.5\nrow_ms = 0\nmax_batch = 1", "times_ms = {1 = nan}", "times_ms.1: found n"),
        (MODEL, "", "models: found none; describe at least one, as [models.NAME]"),
        (ROBOTS, "", "robots: found none; describe at least one class, as [[robots]]"),
        (ROBOTS, ROBOTS + ROBOTS, "robots: 'arm' is there 2 times"),
        (ROBOTS, "workers = []\n" + ROBOTS, "unknown key; allowed: base_ms"),
        (ROBOTS, ROBOTS + "[[workers]]\ncount = 0\n", "workers.0.count: must be >= 1: 0"),
        (ROBOTS, ROBOTS + '[[workers]]\nmodels = ["y"]\n', "worker 'gpu-0' hosts the model 'y', "),
        (ROBOTS, ROBOTS + "[[workers]]\n[[workers]]\n", "workers: 'gpu' is there 2 times"),
        (ROBOTS, ROBOTS + "[target]\nmiss_percent = 101\n", "target.miss_percent: must be <= 100"),
        ("seeds = [1]", "seeds = []", "seeds: found 0; allowed: 1 to 20"),
        ("seeds = [1]", "seeds = [1, 1]", "seeds: 1 is there 2 times"),
        ("seeds = [1]", "workers = []", "workers: found none; at least one is needed"),
        ("seconds = 20", "seconds = 1", "seconds: must be >= 2: 1"),
        ("count = 6", "count = 6000", "2 times 6000 robots that is more than 1000000 observations"),
        ("seconds = 20", "seconds = 20\nfleet_size = 0", "fleet_size: must be >= 1: 0"),
        ("seconds = 20", "seconds =", "not TOML"),
    ],
)
def test_nonsense_is_said_by_its_key(
    tmp_path: Path, capsys: Capture, found: str, instead: str, said: str
) -> None:
    assert found in BY_HAND
    assert plan(tmp_path, BY_HAND.replace(found, instead)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("appliance: error: ")
    assert str(tmp_path / "fleet.toml") in err
    assert said in err


@pytest.mark.parametrize("shares", [(0.7, 0.4), (0.7, 0.2)])
def test_shares_have_to_sum_to_one(tmp_path: Path, shares: tuple[float, float]) -> None:
    path = tmp_path / "fleet.toml"
    classes = (
        ROBOTS.replace("arm", f"k{n}").replace("count = 6", f"share = {share}")
        for n, share in enumerate(shares)
    )
    path.write_text("fleet_size = 9\n" + MODEL + "".join(classes))
    with pytest.raises(ConfigError, match=rf"sum to {sum(shares):g}; they have to sum to 1"):
        load(path)


# ------------------------------------------------------------------------------------ the search


@given(st.integers(0, 3000), st.integers(1, 1500), st.integers(1, 4000))
def test_the_largest_fleet_is_found_by_few_looks(capacity: int, size: int, limit: int) -> None:
    limit = max(limit, 2 * size)
    looked: list[int] = []

    def is_enough(robots: int) -> bool:
        looked.append(robots)
        return robots <= capacity

    known = {robots: robots <= capacity for robots in sizes_around(size)}
    found = find_largest(known, is_enough, limit)
    assert found.is_bound == (capacity >= limit)
    assert found.robots == 0 or found.robots in {*known, *looked}
    assert found.robots <= min(capacity, limit)
    assert min(capacity, limit) - found.robots < max(1, found.robots // FINENESS) + 1
    assert len(looked) == len(set(looked)) <= 24
    assert not set(looked) & set(known)
    assert max(looked, default=0) <= limit


def test_a_lucky_larger_fleet_does_not_count() -> None:
    known = {5: True, 8: False, 10: True, 20: False}
    assert find_largest(known, lambda robots: robots != 7, 40) == Largest(6)


def test_sizes_lie_around_the_described_one() -> None:
    assert sizes_around(40) == [20, 30, 40, 50, 60, 80]
    assert sizes_around(1) == [1, 2]


# -------------------------------------------------------------------------------- the whole thing


@pytest.mark.parametrize(("workers", "capacity"), [(1, 10), (2, 21)])
def test_a_capacity_that_is_known(
    tmp_path: Path, capsys: Capture, workers: int, capacity: int
) -> None:
    text = BY_HAND + f"[[workers]]\ncount = {workers}\n"
    code, found = planned(tmp_path, capsys, text)
    assert (code, found["within"]) == (0, True)
    assert (found["largest"], found["is_bound"]) == (capacity, False)
    by_robots = {each["robots"]: each for each in found["sizes"]}
    too_many = by_robots[capacity + 1]
    share = 1 - workers * 1000 / 9.5 / (10 * (capacity + 1))
    assert too_many["miss_percent"] == pytest.approx(100 * share, abs=1)
    assert by_robots[capacity]["miss_percent"] == 0
    assert by_robots[6]["busy_percent"] == pytest.approx(57 / workers, abs=1)
    assert found["sizes"] == sorted(found["sizes"], key=lambda each: each["robots"])


def test_a_fleet_beyond_its_target_is_1_and_each_size_is_said(
    tmp_path: Path, capsys: Capture
) -> None:
    assert plan(tmp_path, SMALL.replace("latency_budget_ms = 150", "latency_budget_ms = 9")) == 1
    out, err = capsys.readouterr()
    assert "The described fleet, 2 robots, is not within the target: at most 1 % missed." in out
    assert "No fleet of this mix is." in out
    assert re.search(r"^  arm +100\.00( +100\.00)+ *$", out, re.MULTILINE)
    assert err.count("\n") == len(sizes_around(2))
    assert "     2 robots: 100.00 % missed, beyond the target" in err


def test_tier_0_has_a_target_of_its_own_and_too_few_are_doubted(
    tmp_path: Path, capsys: Capture
) -> None:
    hopeless = ROBOTS.replace("arm", "critical").replace("150", "9\ntier = 0")
    text = SMALL + hopeless.replace("count = 6", "count = 1")
    code, found = planned(tmp_path, capsys, text + "[target]\nmiss_percent = 100\n")
    (described,) = (each for each in found["sizes"] if each["robots"] == 3)
    assert code == 1
    assert described["tier_0_miss_percent"] == 100
    assert described["miss_percent_of"] == {"arm": 0, "critical": 100}
    assert found["largest"] == 1  # one arm
    assert found["sizes"][0]["tier_0_miss_percent"] is None
    plan(tmp_path, text)
    said = capsys.readouterr().out
    assert re.search(r"Only \d+ observations of tier 0 were looked at, so one miss is beyond", said)


def test_without_advice_nobody_obeys(tmp_path: Path, capsys: Capture) -> None:
    # In phase by chance, some robots are late for good, unless they are told to shift.
    text = BY_HAND.replace("latency_budget_ms = 150", "latency_budget_ms = 25")
    _, with_advice = planned(tmp_path, capsys, text)
    _, without = planned(tmp_path, capsys, text, "--without-advice")
    assert (with_advice["advice"], without["advice"]) == (True, False)
    assert with_advice["sizes"] != without["sizes"]
    _, deaf = planned(
        tmp_path, capsys, text.replace("[[robots]]", "[[robots]]\nobeys_advice = false")
    )
    assert deaf["sizes"] == without["sizes"]


def test_two_processes_find_the_same(tmp_path: Path, capsys: Capture) -> None:
    text = SMALL.replace("seeds = [1]", "seeds = [1, 2]")
    assert planned(tmp_path, capsys, text) == planned(tmp_path, capsys, text, "--processes", "2")


def test_nobody_observes(tmp_path: Path, capsys: Capture) -> None:
    assert plan(tmp_path, SMALL.replace("hz = 10", "hz = 0.001")) == 2
    assert "1 robots make no observation" in capsys.readouterr().err


def test_the_plot(tmp_path: Path, capsys: Capture) -> None:
    picture = tmp_path / "plan.png"
    critical = ROBOTS.replace("arm", "critical").replace("jitter_ms = 0", "tier = 0")
    assert plan(tmp_path, SMALL + critical, "--plot", str(picture)) in {0, 1}
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"plot: {picture}" in capsys.readouterr().err
    for where, said in (("absent/plan.png", "there is no directory"), (".", "cannot be written")):
        assert plan(tmp_path, SMALL, "--plot", str(tmp_path / where)) == 2
        assert said in capsys.readouterr().err


def test_without_matplotlib_the_table_still_comes(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [
        name for name in sys.modules if name.startswith(("matplotlib", "appliance.cli.pl"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plan(tmp_path, SMALL, "--plot", str(tmp_path / "plan.png")) == 0
    out, err = capsys.readouterr()
    assert "The largest fleet that is: " in out
    assert "pip install 'appliance[demo]'" in err
    assert not (tmp_path / "plan.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a FLEET.toml, or a recording with --replay"),
        (["x.toml", "--config", "y.toml"], "--config goes with --replay"),
        (["--replay", "x.mcap", "--plot", "y.png"], "--plot and --without-advice are of a fleet"),
        (["absent.toml"], "absent.toml: cannot be read"),
        (["--replay", "absent.mcap"], "absent.mcap: cannot be read"),
    ],
)
def test_words_that_do_not_go_together(capsys: Capture, words: list[str], said: str) -> None:
    assert main(["plan", *words]) == 2
    assert said in capsys.readouterr().err


def test_robots_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(SMALL.replace("hz = 10", "hz = 0.01"))
    assert load(path).largest_size == MOST_ROBOTS
