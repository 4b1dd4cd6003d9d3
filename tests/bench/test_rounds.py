import random
from pathlib import Path

import pytest
from redis import Redis

from loadtests.bench import rounds, servers
from loadtests.bench.generators import Asked
from loadtests.bench.rounds import Load
from loadtests.bench.servers import Serving
from loadtests.bench.walks import Walk
from quotas import embedded


class Walker:
    """A generator that gets so far with each call, and notes where it began."""

    name = "walker"

    def __init__(self, each: int) -> None:
        self.each = each
        self.starts: list[int] = []

    def ask(self, port: int, walk: Walk, seconds: int, start: int, connections: int) -> Asked:  # noqa: ARG002 # As any.
        self.starts.append(start)
        return Asked(self.each, seconds * 1_000_000)


@pytest.mark.parametrize(("each", "starts"), [(4, [0, 4, 8]), (5, [0, 5]), (25, [0])])
def test_load_that_does_not_count_lasts_until_all_have_asked(each: int, starts: list[int], tmp_path: Path) -> None:
    walker = Walker(each)
    rounds.warm(Serving(1, 1), Walk(tmp_path, 40, 10), Load(walker, 5, 3), 32)
    assert walker.starts == starts


def test_before_the_rounds_the_log_of_a_store_is_written_anew(tmp_path: Path) -> None:
    with embedded.hold(tmp_path / "data") as url, Redis.from_url(url) as store:
        for _ in range(100):
            store.set("one", random.randbytes(1000))
        before = store.info("persistence")
        servers.rewrite_log(url)
        after = store.info("persistence")
    assert before["aof_current_size"] > 100_000
    assert after["aof_current_size"] == after["aof_base_size"] < 10_000
