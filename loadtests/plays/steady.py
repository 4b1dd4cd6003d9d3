"""`steady`: a client that never pauses beside 199 at paces by Zipf's law, all on the starter plan `free`."""

from loadtests.stage import STARTER, Options, seen, stage
from loadtests.verdicts import steady
from loadtests.verdicts.counts import Seen, counted
from loadtests.verdicts.verdict import Verdict

PLAN = "free"
SECONDS = 20
ZIPF = 199
FIRST_PAUSE_S = 0.3
"""How long the busiest but `hot` pauses on average: with what it may be shorter, still longer than a token takes."""


def play(options: Options) -> Verdict:
    """Play it."""
    names = [f"zipf-{rank:03}" for rank in range(1, ZIPF + 1)]
    with stage(STARTER.read_text("utf-8"), options) as on:
        assert not on.config.plans[PLAN].asks_for_paths, "a check of the scenario has no path, and costs one unit"
        keys = {name: issued.secret for name, issued in on.enrol(dict.fromkeys(["hot", *names], PLAN)).items()}
        told = {
            "keys": {"hot": {"hot": keys["hot"]}, "zipf": {name: keys[name] for name in names}},
            "pauses": {name: rank * FIRST_PAUSE_S for rank, name in enumerate(names, 1)},
        }
        left = on.load("steady", told=told, users=len(keys), seconds=options.seconds or SECONDS, options=options)
        found: list[Seen] = [seen(tally, hot=tally["client"] == "hot") for tally in left]
        return steady.judge(found, counted(on.service.metrics()), on.config.plans[PLAN].limits)
