"""The load tests: each scenario starts a service of its own, puts load on it, and holds what it did against the plan.

Exit codes: 0 all that was held holds, 1 something does not or there is no verdict, 130 interrupted.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from loadtests.plays import abuser, herd, nginx, overshoot, rotation, stall, steady
from loadtests.processes import LoadTestError
from loadtests.stage import Options
from loadtests.verdicts.counts import LONGEST_S
from loadtests.verdicts.verdict import Verdict

PLAYS: dict[str, Callable[[Options], Verdict]] = {
    "steady": steady.play,
    "herd": herd.play,
    "abuser": abuser.play,
    "rotation": rotation.play,
    "stall": stall.play,
    "nginx": nginx.play,
    "overshoot": overshoot.play,
}
ALL = [name for name in PLAYS if name != "overshoot"]
"""What `all` plays, one after the other: the scenarios for locust."""

ANY_LENGTH = frozenset({"steady", "rotation", "nginx"})
"""Scenarios that can be as long as one likes; in the others everything has its time."""

INTERRUPTED = 130


def main() -> int:
    """Play what was asked for, print the reports and give the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # It unwinds like Ctrl-C, and stops what was started.
    documents = {}
    try:
        for name in ALL if options.scenario == "all" else [options.scenario]:
            documents[name] = _play(name, options)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: no verdict\n")
        return INTERRUPTED
    passed = all(document["passed"] for document in documents.values())
    if options.json is not None:
        whole = documents.get(options.scenario) or {"passed": passed, "scenarios": documents}
        options.json.write_text(json.dumps(whole, indent=2) + "\n", "utf-8")
    return 0 if passed else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "scenario", nargs="?", default="steady", choices=[*PLAYS, "all"], metavar="SCENARIO",
        help=f"{', '.join(PLAYS)} or all, which is every one but overshoot; steady",
    )  # fmt: skip
    parser.add_argument(
        "--duration", type=_seconds, metavar="SECONDS", help=f"length of the load, of {', '.join(sorted(ANY_LENGTH))}"
    )
    parser.add_argument("--workers", type=_positive, metavar="N", help="workers of the service; the scenario's own")
    parser.add_argument("--takes", type=_positive, metavar="N", help="takes of overshoot; 1000000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdict into this file, too")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep there what the programs wrote")
    parser.add_argument("--web-port", type=_positive, metavar="PORT", help="locust's web UI on this port, until Ctrl-C")
    options = parser.parse_args()
    if options.duration is not None and options.scenario not in ANY_LENGTH:
        parser.error(f"{options.scenario} has a length of its own: --duration is for {', '.join(sorted(ANY_LENGTH))}")
    if options.takes is not None and options.scenario != "overshoot":
        parser.error("--takes is for overshoot")
    if options.web_port is not None and options.scenario in {"all", "overshoot"}:
        parser.error(f"--web-port is for one of {', '.join(ALL)}")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _seconds(text: str) -> int:
    seconds = int(text)
    if not 1 <= seconds <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"must be between 1 and {LONGEST_S} seconds")
    return seconds


def _play(name: str, options: argparse.Namespace) -> dict[str, object]:
    """Play one scenario and print its report; the report for machines."""
    asked = Options(
        seconds=options.duration,
        workers=options.workers,
        takes=options.takes,
        web_port=options.web_port,
        logs=options.logs,
    )
    print(f"{name}:", flush=True)
    try:
        verdict = PLAYS[name](asked)
    except LoadTestError as error:
        sys.stderr.write(f"no verdict: {error}\n")
        return {"scenario": name, "passed": False, "faults": [f"no verdict: {error}"]}
    print("\n".join(["", *verdict.lines, ""]))
    print("\n".join([f"FAIL {fault}" for fault in verdict.faults] or [f"pass {verdict.summary}"]), flush=True)
    print()
    return {"scenario": name, "passed": not verdict.faults, "faults": list(verdict.faults), **verdict.figures}


if __name__ == "__main__":
    sys.exit(main())
