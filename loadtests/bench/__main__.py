"""`make bench`: what a check costs, as ratios against baselines of the same run on the same machine.

Exit codes: 0 measured, also where the budget is missed; 1 not, with what is missing; 130 interrupted.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from loadtests.bench import accounts, cases, chart, gateway, generators, node, report, rounds, stages, takes
from loadtests.bench.results import Results
from loadtests.bench.rounds import Load
from loadtests.processes import LoadTestError

ROUNDS, SECONDS = 5, 3
QUICK_ROUNDS, QUICK_SECONDS = 3, 1
INTERRUPTED = 130
Say = Callable[[str], None]


def main() -> int:
    """Measure, print the table, write what was asked for, and give the exit code."""
    options = _options()
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - begun:4.0f} s  {what}", file=sys.stderr, flush=True)

    try:
        _run(options, say)
    except LoadTestError as error:
        print(f"no figures: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer clients and shorter rounds: three minutes")
    parser.add_argument("--million", action="store_true", help="with a million clients too: some minutes more")
    parser.add_argument("--group", action="append", choices=cases.names(), help="only this one, or these; no nginx")
    parser.add_argument("--generator", choices=("wrk", "bundled"), help="who makes the load; wrk where it is installed")
    parser.add_argument("--node", action="store_true", help="install npm packages into a cache folder, for Fastify")
    parser.add_argument("--rounds", type=_count, metavar="N", help=f"rounds of each; {ROUNDS}, the median counts")
    parser.add_argument("--seconds", type=_count, metavar="N", help=f"length of a round; {SECONDS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round there, too")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw a PNG")
    parser.add_argument("--profile", action="store_true", help="only say where a check's CPU goes, by stage")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, 1 or more")
    return int(text)


def _run(options: argparse.Namespace, say: Say) -> None:
    if options.node:
        node.install()
    load = Load(
        generators.find(options.generator),
        options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS),
        options.seconds or (QUICK_SECONDS if options.quick else SECONDS),
    )
    say(f"the load comes from: {load.generator.name}")
    if options.profile:
        print("\n".join(stages.measure(load).lines()))
        return
    lacking = node.missing()
    if lacking is not None:
        say(f"FASTIFY IS NOT MEASURED: {lacking}")
    only = options.group or cases.names()
    found = cases.groups(quick=options.quick, million=options.million or bool(options.group), node=lacking is None)
    groups = tuple(group for group in found if group.name in only)
    results = _measured(groups, load, say, nginx=not options.group)
    print("\n".join(report.text(groups, results, load)))
    if options.json is not None:
        options.json.write_text(json.dumps(report.document(results, load), indent=1) + "\n", "utf-8")
    if options.chart is not None:
        chart.draw(results, report.about(load), options.chart)


def _measured(groups: tuple[cases.Group, ...], load: Load, say: Say, *, nginx: bool) -> Results:
    measured, others = {}, []
    for group in groups:
        others.append(accounts.busy())
        measured[group.name] = rounds.measure(group, load, say)
    others.append(accounts.busy())
    added = gateway.measure(load, say) if nginx else None
    say("Redis alone")
    known = [share for share in others if share is not None]
    return Results(measured, takes.measure(load.rounds), added, max(known, default=None))


if __name__ == "__main__":
    sys.exit(main())
