"""Which models leave the memory for others: never too many, never one in use, the same for both."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.residency import Residency

MODELS = ("a", "b", "c", "d")


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, int]:
    return {model: draw(st.integers(1, 10)) for model in MODELS}


def residency_of(memory_bytes: dict[str, int], budget_bytes: int) -> Residency[str]:
    return Residency(budget_bytes, dict(memory_bytes))


def load_as_a_worker(residency: Residency[str], model: str, kept: set[str]) -> bool:
    """Do as `engines.residents` does; return whether it could be loaded."""
    needed = residency.memory_bytes[model]
    for other in residency.must_leave(needed, kept):
        residency.evicted(other)
    if not residency.fits(needed):
        return False
    residency.loaded(model, needed)
    return True


@given(sizes(), st.integers(10, 25), st.lists(st.sampled_from(MODELS)))
def test_the_scheduler_foresees_what_the_worker_does(
    memory_bytes: dict[str, int], budget_bytes: int, asked: list[str]
) -> None:
    worker, scheduler = (residency_of(memory_bytes, budget_bytes) for _ in range(2))
    for model in asked:
        if model in worker:
            worker.used(model)
        else:
            assert load_as_a_worker(worker, model, set())
        scheduler.foresee(model)
        assert scheduler.resident == worker.resident
        assert model in worker
        assert worker.resident_bytes == sum(memory_bytes[each] for each in worker.resident)
        assert worker.resident_bytes <= budget_bytes


@given(
    sizes(),
    st.integers(10, 25),
    st.lists(st.tuples(st.sampled_from(MODELS), st.sets(st.sampled_from(MODELS), max_size=2))),
)
def test_what_is_in_use_stays_and_the_budget_holds(
    memory_bytes: dict[str, int], budget_bytes: int, asked: list[tuple[str, set[str]]]
) -> None:
    residency = residency_of(memory_bytes, budget_bytes)
    for model, others in asked:
        if model in residency:
            residency.used(model)
            continue
        kept = others & {*residency.resident}
        could = load_as_a_worker(residency, model, kept)
        assert kept <= {*residency.resident}
        assert could == (model in residency)
        assert could == (
            sum(memory_bytes[each] for each in kept) + memory_bytes[model] <= budget_bytes
        )
        assert residency.resident_bytes <= budget_bytes


def test_the_one_used_least_lately_leaves_first_and_no_more_than_have_to() -> None:
    residency = residency_of({"a": 4, "b": 4, "c": 4, "d": 5}, 12)
    for model in ("a", "b", "c"):
        residency.foresee(model)
    residency.foresee("a")
    assert residency.must_leave(5) == ["b", "c"]
    assert residency.must_leave(4) == ["b"]
    assert residency.must_leave(4, kept={"b"}) == ["c"]
    assert residency.must_leave(0) == []
    residency.foresee("d")
    assert residency.resident == ("a", "d")
    residency.correct(["d", "unheard of"])
    assert residency.resident == ("d",)
