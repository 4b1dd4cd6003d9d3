"""The pace of answers that a worker gives by itself: one at once, and what comes in the next moment together, after it.

Who asks again as soon as it was refused has its refusal from memory in a few microseconds, so that a few connections
are answered tens of thousands of times a second while all other clients wait behind them. With a pause between such
answers each connection has one in `PAUSE_S`, however fast it sends, and the worker is woken once for all of them.
"""

import asyncio
from collections.abc import Callable

PAUSE_S = 0.001
"""The least that the timers of event loops keep; they may be as late again. More would help nobody: at one millisecond
the others no longer notice (`make load SCENARIO=abuser`)."""

Later = Callable[[float, Callable[[], object]], object]


class Pace:
    """The pace of one worker. `later` calls something after so many seconds; None is the running event loop's."""

    def __init__(self, later: Later | None = None) -> None:
        self._later = later
        self._held: list[Callable[[], object]] | None = None

    def then(self, go_on: Callable[[], object]) -> None:
        """Call this now, or in its turn when the pause is over that there is. It must not raise."""
        if self._held is not None:
            self._held.append(go_on)
            return
        self._pause()
        go_on()

    async def turn(self) -> None:
        """Wait until `then` would call."""
        come: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def go_on() -> None:
            if not come.done():
                come.set_result(None)

        self.then(go_on)
        await come

    def _pause(self) -> None:
        self._held = []
        later = self._later or asyncio.get_running_loop().call_later
        later(PAUSE_S, self._over)

    def _over(self) -> None:
        """Let go who waits; who comes meanwhile waits for the next pause to be over."""
        held, self._held = self._held, None
        if held:
            self._pause()
            for go_on in held:
                go_on()
