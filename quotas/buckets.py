"""The bucket, exact in integers and without a clock of its own.

Theory of operation. A bucket's *level* is how much it holds, in grains (see `limits.Bucket`). It is kept
with the instant it was last true; the level now is

    min(capacity, level + refill * max(0, now - last))

so nothing is ever added "per tick", nothing is rounded on the way, and a clock that steps back earns
nothing. One token is `grains` grains, and a check of cost c needs `c * grains` of them.

Worked example. 5 per second, burst 10, is refill 1 and 200,000 grains to the token: capacity 2,000,000. A
full bucket that gives 10 tokens at t = 0 holds 0. At t = 0.2 s it holds 200,000, one token; at
t = 0.199999 s it holds 199,999, none, and `retry_after_us` for one token is 1.

Rounding errs against over-granting: what is left rounds down, every wait rounds up. `lua/take.lua` computes
the same numbers; the two are compared to the integer in the tests.
"""

from quotas.limits import Bucket


def refilled(bucket: Bucket, level: int, elapsed_us: int) -> int:
    """Level in grains after `elapsed_us` microseconds; a negative elapsed time earns nothing.

    A level above the capacity (the burst was lowered) is cut to it.
    """
    return min(bucket.capacity, level + bucket.refill * max(0, elapsed_us))


def remaining(bucket: Bucket, level: int) -> int:
    """Whole tokens that could be taken now, rounded down."""
    return level // bucket.grains


def retry_after_us(bucket: Bucket, level: int, cost: int) -> int | None:
    """Microseconds until `cost` tokens could be taken: 0 is now, None is never."""
    missing = cost * bucket.grains - level
    if missing <= 0:
        return 0
    if cost > bucket.burst or bucket.refill == 0:
        return None
    return -(-missing // bucket.refill)


def reset_after_us(bucket: Bucket, level: int) -> int | None:
    """Microseconds until the bucket is full again, rounded up; None when it never will be."""
    missing = bucket.capacity - level
    if missing == 0:
        return 0
    return None if bucket.refill == 0 else -(-missing // bucket.refill)


def next_unit_after_us(bucket: Bucket, level: int) -> int | None:
    """Microseconds until one more whole token can be taken; 0 when it is full, None when it never refills."""
    if level == bucket.capacity:
        return 0
    missing = bucket.grains - level % bucket.grains
    return None if bucket.refill == 0 else -(-missing // bucket.refill)


def converted(level: int, *, from_grains: int, to_grains: int) -> int:
    """The same tokens in another unit of account, rounded down: what a bucket holds survives a new rate."""
    return level * to_grains // from_grains
