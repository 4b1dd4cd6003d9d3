"""`quotas doctor`: prints what an examination found, for people or for machines."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from quotas import assembly, findings, terminal
from quotas.findings import Finding, Verdict
from quotas.terminal import AsJson, ConfigFile, out

_WIDTH = max(len(verdict.value) for verdict in Verdict)


def examine(
    config: ConfigFile = None,
    host: Annotated[str, typer.Option(help="As `quotas serve` is told.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="As `quotas serve` is told.")] = 8080,
    workers: Annotated[int, typer.Option(min=1, max=64, help="As `quotas serve` is told.")] = 1,
    connections: Annotated[
        int, typer.Option(min=1, help="How many connections gateways keep open to one worker, at most.")
    ] = 500,
    as_json: AsJson = False,
) -> None:
    """Look at everything that serving needs, and say what is wrong and what to do; changes nothing.

    Give it the environment and the options of `quotas serve`. Exit code 1 when there is a problem.
    """
    # It asks as a worker does, so it brings all of one in: no other command waits for that.
    from quotas import doctor  # noqa: PLC0415 # See above.

    asked = doctor.Asked(host, port, workers, connections)
    with _quiet():
        found = doctor.examine(terminal.environment(config), asked, clock=assembly.clock, timer=time.perf_counter)
    verdict = findings.worst(found)
    if as_json:
        told = [{**asdict(each), "verdict": each.verdict.value} for each in found]
        terminal.print_json({"verdict": verdict.value, "findings": told})
    else:
        _print(found)
    raise typer.Exit(1 if verdict is Verdict.PROBLEM else 0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is logged: what goes wrong is a finding."""
    silence, log = logging.NullHandler(), logging.getLogger("quotas")
    log.addHandler(silence)
    try:
        yield
    finally:
        log.removeHandler(silence)


def _print(found: list[Finding]) -> None:
    subjects = max(len(each.subject) for each in found)
    for each in found:
        subject = each.subject.ljust(min(subjects, 20))
        out.print(f"{each.verdict.value:{_WIDTH}}  {subject}  {each.message}")
        if each.advice:
            out.print(f"{'':{_WIDTH}}  → {each.advice}")
    counts = [
        (sum(each.verdict is verdict for each in found), verdict) for verdict in (Verdict.PROBLEM, Verdict.WARNING)
    ]
    parts = [f"{count} {verdict.value}{'' if count == 1 else 's'}" for count, verdict in counts if count]
    out.print("\n" + (" and ".join(parts) if parts else "nothing is wrong"))
