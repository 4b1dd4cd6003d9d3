"""`quotas replay`: a log file in, decisions or a summary out, on a private Valkey that goes with the command."""

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import orjson
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quotas import embedded, instants, tables
from quotas.logged_requests import (
    LogError,
    LoggedRequest,
    Parser,
    Skip,
)
from quotas.plans import Config
from quotas.replay import ClientSummary, Replay, Replayed, Summary
from quotas.store import Store

MOST_ROWS = 50
"""Rows of a summary for people; machines get all."""


@dataclass(slots=True)
class LogFile:
    """The requests of a log, read line by line.

    `read` counts bytes, `requests` what was found in them, and `skipped` lines that stand for none, by reason.
    `checks` look at each request and may raise LogError; it gets the line's number like those of the parser.
    """

    source: BinaryIO
    parse: Parser
    read: int = 0
    requests: int = 0
    skipped: Counter[Skip] = field(default_factory=Counter)
    checks: list[Callable[[LoggedRequest], object]] = field(default_factory=list)

    def __iter__(self) -> Iterator[LoggedRequest]:
        for number, line in enumerate(self.source, start=1):
            self.read += len(line)
            try:
                request = self.parse(line)
                if isinstance(request, LoggedRequest):
                    for check in self.checks:
                        check(request)
            except LogError as error:
                error.line = number
                raise
            if isinstance(request, Skip):
                self.skipped[request] += 1
            else:
                self.requests += 1
                yield request


def replay_file(
    path: Path | None, parse: Parser, configs: Sequence[Config], *, plan: str | None, decisions: BinaryIO | None
) -> tuple[list[Summary], LogFile]:
    """Replay a log (None is standard input) under each configuration; returns the summaries and the log as read.

    When `decisions` is given, it gets a line for each request under the first configuration, and there is no summary
    of that one. Raises LogError, ConfigError, StoreUnavailableError,
    EmbeddedStoreError, OSError.
    """
    with ExitStack() as stack:
        source = sys.stdin.buffer if path is None else stack.enter_context(path.open("rb"))
        log = LogFile(source, parse)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quotas-replay-")))
        urls = [stack.enter_context(embedded.hold(folder / str(number))) for number in range(len(configs))]
        total = None if path is None else path.stat().st_size
        advance = stack.enter_context(_progress(total))
        work = _replay(log, list(zip(configs, urls, strict=True)), plan, decisions, advance)
        summaries = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop)).run(work)
        return summaries, log


async def _replay(
    log: LogFile,
    places: Sequence[tuple[Config, str]],
    plan: str | None,
    decisions: BinaryIO | None,
    advance: Callable[[int], None],
) -> list[Summary]:
    summaries = [Summary() for _ in places]
    async with AsyncExitStack() as stack:
        replays = []
        for config, url in places:
            store = await stack.enter_async_context(Store(url))
            await store.call("CONFIG", "SET", "appendonly", "no")  # Nobody asks again for what a replay has spent.
            replays.append(Replay(store, config, plan))
            log.checks.append(replays[-1].plan_of)
        first, *others = replays
        async for batch in first.run(log):
            if decisions is None:
                _add(summaries[0], batch)
            else:
                decisions.write(b"".join([orjson.dumps(each.as_line()) + b"\n" for each in batch]))
            for replay, summary in zip(others, summaries[1:], strict=True):
                async for again in replay.run([each.request for each in batch]):
                    _add(summary, again)
            advance(log.read)
    return summaries


def _add(summary: Summary, batch: list[Replayed]) -> None:
    for each in batch:
        summary.add(each)


class _progress:  # noqa: N801 # A context manager that is used like a function.
    """A bar on standard error when that is a terminal; calls say how many bytes have been read."""

    def __init__(self, total: int | None) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("replaying"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("bytes"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("replay", total=total)

    def __enter__(self) -> Callable[[int], None]:
        self._bar.start()
        return lambda read: self._bar.update(self._task, completed=read)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def summary_fields(summary: Summary) -> list[dict[str, object]]:
    """A summary for machines: an object for each client, the most refused first."""
    return [
        {
            "client": name,
            "requests": client.requests,
            "allowed": client.allowed,
            "refused": client.requests - client.allowed,
            "busiest_second": {"at_us": client.busiest[1] * 1_000_000, "requests": client.busiest[0]},
            "limits": {
                limit: {"refused": part.refused, "first_at_us": part.first_at_us}
                for limit, part in client.limits.items()
            },
        }
        for name, client in summary.worst_first().items()
    ]


def print_summary(out: Console, configs: Sequence[Config], summaries: Sequence[Summary]) -> None:
    """Tables for people: for each client what would have been refused; side by side when plans are compared."""
    for config, summary in zip(configs, summaries, strict=True):
        requests = sum(client.requests for client in summary.clients.values())
        allowed = sum(client.allowed for client in summary.clients.values())
        hurt = sum(client.allowed < client.requests for client in summary.clients.values())
        out.print(
            f"{config.source}: {requests} requests of {len(summary.clients)} clients, "
            f"{requests - allowed} refused, {hurt} clients hurt"
        )
    if len(summaries) == 1:
        titles: tuple[str, ...] = ("client", "requests", "refused", "limit", "would refuse", "first", "busiest second")
        rows = [row for pair in list(summaries[0].worst_first().items())[:MOST_ROWS] for row in _client_rows(*pair)]
    else:
        titles = ("client", "requests", *(f"refused by {config.source}" for config in configs), "difference")
        rows = _compared(summaries)[:MOST_ROWS]
    tables.print_table(out, titles, rows)
    if len(summaries[0].clients) > MOST_ROWS:
        out.print(f"… and {len(summaries[0].clients) - MOST_ROWS} clients more; --json has all")


def _client_rows(name: str, client: ClientSummary) -> Iterator[tuple[str, ...]]:
    busiest = f"{client.busiest[0]} at {instants.show(client.busiest[1] * 1_000_000)}"
    head = (name, str(client.requests), str(client.requests - client.allowed))
    if not client.limits:
        yield (*head, "", "", "", busiest)
    for limit, part in client.limits.items():
        first = "" if part.first_at_us is None else instants.show(part.first_at_us)
        yield (*head, limit, str(part.refused), first, busiest)
        head, busiest = ("", "", ""), ""


def _compared(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    rows: list[tuple[int, tuple[str, ...]]] = []
    for name, client in summaries[0].clients.items():
        refused = [
            each.clients[name].requests - each.clients[name].allowed if name in each.clients else 0
            for each in summaries
        ]
        difference = refused[-1] - refused[0]
        rows.append((difference, (name, str(client.requests), *map(str, refused), f"{difference:+d}")))
    return [row for _, row in sorted(rows, key=lambda pair: (-abs(pair[0]), pair[1][0]))]
