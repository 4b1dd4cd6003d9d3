import pytest
from cases import Case, answer, load_cases
from takes import Taker, with_store

from quotas.decisions import take
from quotas.scripts import PackedPlan
from quotas.store import Store

CASES = load_cases()


def test_there_are_cases() -> None:
    assert len(CASES) == 28


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_model_agrees_with_the_vectors(case: Case) -> None:
    memory = None
    for number, step in enumerate(case.steps):
        memory, decision = take(case.limits, memory, now_us=step["at_us"], cost=step["cost"])
        expected = {name: value for name, value in step.items() if name not in {"at_us", "cost"}}
        assert answer(decision) == expected, f"step {number}: {step}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_script_agrees_with_the_vectors(case: Case, redis_url: str) -> None:
    async def steps(store: Store) -> None:
        taker = Taker(store)
        await taker.register()
        plan = PackedPlan(case.limits)
        for number, step in enumerate(case.steps):
            decision = await taker.take(plan, now_us=step["at_us"], cost=step["cost"])
            expected = {name: value for name, value in step.items() if name not in {"at_us", "cost"}}
            assert answer(decision) == expected, f"step {number}: {step}"

    with_store(redis_url, steps)
