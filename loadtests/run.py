"""The load test that `make load` runs: every client gets what its plan gives while one never pauses.

It starts a service of its own with 50 clients, has locust ask for them, and judges what they got. Exit codes: 0
every client passes, 1 one does not or there is no verdict, 130 interrupted.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from loadtests.processes import Load, LoadTestError, service, steady
from loadtests.verdict import LONGEST_S, Counted, Seen, Verdict, judge
from quotas import app, configuration, settings
from quotas.plans import Config
from quotas.settings import Settings

PLAN = "free"
GROUPS = {"hot": 1, "polite": 49}
"""Groups of clients, as the scenario has them, and how many clients are in each."""

INTERRUPTED = 130
_ALLOWED = frozenset({"allowed"})
_REFUSED = frozenset({"rate_limited", "quota_exceeded"})

Keys = Mapping[str, Mapping[str, str]]


def main() -> int:
    """Run the test, print the report and give the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # It unwinds like Ctrl-C, and stops what was started.
    try:
        verdict = measure(options.duration, options.workers, options.web_port)
    except LoadTestError as error:
        sys.stderr.write(f"no verdict: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: no verdict\n")
        return INTERRUPTED
    print(table(verdict, options))
    if options.json is not None:
        options.json.write_text(json.dumps(document(verdict, options), indent=2) + "\n", "utf-8")
    return 1 if verdict.faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--duration", type=_seconds, default=20, metavar="SECONDS", help="length of the load; 20")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="workers of the service; 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdict into this file, too")
    parser.add_argument("--web-port", type=int, metavar="PORT", help="locust's web UI on this port, until Ctrl-C")
    return parser.parse_args()


def _seconds(text: str) -> int:
    seconds = int(text)
    if not 1 <= seconds <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"must be between 1 and {LONGEST_S} seconds")
    return seconds


def measure(seconds: int, workers: int, web_port: int | None = None) -> Verdict:
    """Put the load on a service in a new data directory; nothing of it is left. Raises LoadTestError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quotas-load-")))
        environment = _environment(folder)
        config = configuration.ConfigFile(None).read()
        plan = config.plans[PLAN]
        assert not plan.asks_for_paths, "a check of the scenario has no path, and costs one unit"
        serving = stack.enter_context(service(folder, environment, workers))
        keys = create_clients(settings.load(environment), config)
        tallies = steady(folder, environment, serving.url, Load(keys=keys, seconds=seconds, web_port=web_port))
        exposition = serving.metrics()
    seen = [_seen(tally, hot=tally["client"] in keys["hot"]) for tally in tallies]
    return judge(seen, counted(exposition), plan.limits)


def _environment(folder: Path) -> dict[str, str]:
    """This environment without what it says to a service: the starter plans and a private Valkey in `folder`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("QUOTAS_", "LOCUST_"))}
    return {**inherited, "QUOTAS_DATA_DIR": str(folder / "data")}


def create_clients(own: Settings, config: Config) -> Keys:
    """Clients with a key each, as group -> client -> key, in the running service of these settings.

    This is what `quotas clients create` and `quotas keys create` call; a hundred commands would start for a minute.
    """

    async def create(url: str) -> Keys:
        async with app.open_operations(own, url, config, actor="load") as operations:
            clients = operations.clients
            keys: dict[str, dict[str, str]] = {}
            for group, size in GROUPS.items():
                names = [f"{group}-{number:02}" for number in range(1, size + 1)]
                for name in names:
                    await clients.create(name, PLAN)
                keys[group] = {name: (await clients.issue_key(name)).secret for name in names}
            return keys

    with app.store_for_command(own) as url:
        return asyncio.run(create(url))


def _seen(tally: Mapping[str, Any], *, hot: bool) -> Seen:
    """A `steady.Tally` that came through JSON."""
    elapsed_ns = (tally["last_received_ns"] or 0) - (tally["first_sent_ns"] or 0)
    return Seen(
        client=tally["client"],
        hot=hot,
        allowed=tally["allowed"],
        refused=tally["refused"],
        errors=tally["errors"],
        elapsed_us=-(-elapsed_ns // 1000),
    )


def counted(exposition: str) -> dict[str, Counted]:
    """What the service counted, by client, from its metrics."""
    totals: dict[str, Counted] = {}
    for client, outcome, value in _checks(exposition):
        so_far = totals.get(client, Counted())
        if outcome in _ALLOWED:
            totals[client] = replace(so_far, allowed=so_far.allowed + value)
        elif outcome in _REFUSED:
            totals[client] = replace(so_far, refused=so_far.refused + value)
        else:
            totals[client] = replace(so_far, other=so_far.other + value)
    return totals


def _checks(exposition: str) -> Iterable[tuple[str, str, int]]:
    """Client, outcome and value of each sample that is not 0; counts are whole, and exact as floats up to 2^53."""
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name == "quotas_checks_total" and sample.value:
                yield sample.labels["client"], sample.labels["outcome"], int(sample.value)


def table(verdict: Verdict, options: argparse.Namespace) -> str:
    """The report for people."""
    lines = [f"{'client':<12}{'allowed':>9}{'refused':>9}{'errors':>9}{'most':>9}  verdict"]
    for row in verdict.rows:
        errors = sum(row.seen.errors.values())
        said = "FAIL" if row.faults else "pass"
        lines.append(f"{row.seen.client:<12}{row.seen.allowed:>9}{row.seen.refused:>9}{errors:>9}{row.most:>9}  {said}")
    lines += ["", *(f"FAIL {fault}" for fault in verdict.faults)]
    checks = sum(row.seen.allowed + row.seen.refused for row in verdict.rows)
    result = f"{len(verdict.faults)} faults" if verdict.faults else "every client got what its plan gives"
    workers = f"{options.workers} worker{'' if options.workers == 1 else 's'}"
    return "\n".join([*lines, f"{checks} checks in {options.duration} s on {workers}: {result}"])


def document(verdict: Verdict, options: argparse.Namespace) -> dict[str, object]:
    """The report for machines."""
    return {
        "passed": not verdict.faults,
        "plan": PLAN,
        "duration_s": options.duration,
        "workers": options.workers,
        "faults": verdict.faults,
        "clients": [
            {**asdict(row.seen), "most": row.most, "service": asdict(row.counted), "faults": row.faults}
            for row in verdict.rows
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
