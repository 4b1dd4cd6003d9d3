"""The pace of answers from memory, on timers that a test fires."""

import asyncio
from functools import partial

import pytest
from timers import Timers

from quotas.pace import Pace


@pytest.fixture
def timers() -> Timers:
    return Timers()


@pytest.fixture
def pace(timers: Timers) -> Pace:
    return Pace(timers.later)


def test_the_first_goes_at_once_and_the_next_together_after_the_pause(pace: Pace, timers: Timers) -> None:
    gone: list[int] = []
    for number in range(4):
        pace.then(partial(gone.append, number))
    assert gone == [0]
    timers.fire()
    assert gone == [0, 1, 2, 3]


def test_who_asks_again_as_soon_as_it_was_answered_goes_once_in_a_pause(pace: Pace, timers: Timers) -> None:
    gone: list[str] = []

    def again() -> None:
        gone.append("again")
        pace.then(again)

    pace.then(again)
    for pauses in range(1, 5):
        assert len(gone) == pauses
        timers.fire()
    pace.then(lambda: gone.append("another"))
    timers.fire()
    assert gone == ["again"] * 6 + ["another"], "nobody overtakes, and nobody is left out"


def test_after_a_pause_in_which_nobody_came_there_is_none(pace: Pace, timers: Timers) -> None:
    gone: list[int] = []
    pace.then(lambda: gone.append(1))
    timers.fire()
    assert not timers.set, "a worker without refusals sets no timers"
    pace.then(lambda: gone.append(2))
    assert gone == [1, 2]


def test_a_task_waits_its_turn_and_one_that_is_cancelled_harms_nobody(pace: Pace, timers: Timers) -> None:
    async def work() -> None:
        await pace.turn()
        tasks = [asyncio.create_task(pace.turn()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        tasks[1].cancel()
        timers.fire()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in done] == [type(None), asyncio.CancelledError, type(None)]

    asyncio.run(work())


def test_without_timers_of_its_own_it_takes_those_of_the_running_loop() -> None:
    async def work() -> None:
        pace = Pace()
        for _ in range(3):
            await pace.turn()

    asyncio.run(work())
