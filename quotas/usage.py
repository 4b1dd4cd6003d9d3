"""Usage histories as the store keeps them: what `lua/take.lua`, `lua/refund.lua` and `lua/tally.lua` have counted.

    q1:{<client id>}:used:<day>      hash    quarter of an hour of that day of UTC -> units
    q1:{<client id>}:refused:<day>   hash    quarter:outcome -> refused checks
    q1:{<client id>}:state           string  at its end, the units of the open quarter (`lua/usage.lua`)

Both days are counted from the epoch. A quarter can be in the hash of the day next to its own (`lua/usage.lua`), so the
days around those asked for are read too. Of a client that used nothing at all, two commands tell.

The units of the open quarter go to a hash with the first take of another. If that happens while hashes are read, one
after the other, they are found twice or not at all; so the state is read before and after, and where its quarter is
another by then, all is read again.
"""

import asyncio
from collections.abc import Iterator, Sequence

from quotas.scripts import OpenQuarter, decode_state, refused_key, state_key, used_key
from quotas.store import Store
from quotas.tallies import DAY_QUARTERS, DAY_US, QUARTER_US, Quarters, Tally

_AT_ONCE = 100
"""Hashes that are asked for at a time: the store serves checks between two times."""

_TRIES = 3
"""Times that all is read, of which each but the first needs that a quarter of an hour has begun since."""

_OUTCOMES = {b"rate_limited": "rate_limited", b"quota_exceeded": "quota_exceeded", b"never": "never"}


class Usage:
    """Reads histories. Every method can raise StoreUnavailableError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def between(self, client_id: str, begin_us: int, end_us: int) -> Quarters:
        """What a client has used in `[begin_us, end_us)`, by quarters since the epoch; empty quarters are left out."""
        days = range(begin_us // DAY_US - 1, (end_us - 1) // DAY_US + 2)
        keys = [key(client_id, day) for day in days for key in (used_key, refused_key)]
        found: dict[int, Tally] = {}
        last = await self._open_quarter(client_id)
        if await self._store.call("EXISTS", *keys):
            for _ in range(_TRIES):
                found = await self._closed(days, keys)
                before, last = last, await self._open_quarter(client_id)
                if (before and before.quarter) == (last and last.quarter):
                    break
        if last is not None:
            found[last.quarter] = found.get(last.quarter, Tally()) + Tally(units=last.units)
        return {quarter: tally for quarter, tally in found.items() if begin_us <= quarter * QUARTER_US < end_us}

    async def _closed(self, days: range, keys: Sequence[str]) -> dict[int, Tally]:
        """What the hashes have, whose keys are two for each of these days."""
        found: dict[int, Tally] = {}
        for start in range(0, len(keys), _AT_ONCE):
            replies = await asyncio.gather(
                *(self._store.call("HGETALL", key) for key in keys[start : start + _AT_ONCE])
            )
            for index, words in enumerate(replies, start):
                for quarter, tally in _read(days[index // 2] * DAY_QUARTERS, words):
                    found[quarter] = found.get(quarter, Tally()) + tally
        return found

    async def _open_quarter(self, client_id: str) -> OpenQuarter | None:
        state = await self._store.call("GET", state_key(client_id))
        return None if state is None else decode_state(state).open_quarter


def _read(first: int, words: list[bytes]) -> Iterator[tuple[int, Tally]]:
    """The fields of one hash as (quarter since the epoch, tally); `first` is the first quarter of its day."""
    for field, value in zip(words[::2], words[1::2], strict=True):
        quarter, _, outcome = field.partition(b":")
        number = int(value)
        if not outcome:
            yield first + int(quarter), Tally(units=number)
        else:
            yield first + int(quarter), Tally(**{_OUTCOMES[outcome]: number})
