"""Through a gateway: what clients get is what the plan gives, and what the upstream gets is what was allowed. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from loadtests.verdicts.counts import Counted, Seen, judge_counts
from loadtests.verdicts.steady import figures, table
from loadtests.verdicts.verdict import Verdict
from quotas.limits import Limit


def judge(seen: Sequence[Seen], counted: Mapping[str, Counted], limits: Iterable[Limit], *, upstream: int) -> Verdict:
    """The verdict on clients that are all on a plan with these limits; the upstream got so many requests."""
    counts = judge_counts(seen, counted, limits)
    allowed = sum(row.seen.allowed for row in counts.rows)
    refused = sum(row.seen.refused for row in counts.rows)
    faults = list(counts.faults)
    if upstream != allowed:
        faults.append(f"the upstream got {upstream} requests, and the clients {allowed} of its answers")
    return Verdict(
        summary=f"{allowed + refused} requests through nginx: every client got its due, the upstream nothing else",
        faults=tuple(faults),
        lines=(*table(counts), f"the upstream got {upstream} requests"),
        figures={"clients": figures(counts), "upstream": upstream},
    )
