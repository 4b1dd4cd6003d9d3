"""`quotas usage`: what clients have used, as a table, as bars, as CSV or as JSON."""

import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated

import typer
from pydantic import ValidationError

from quotas import instants, plots, sheets, tables, terminal
from quotas.bodies import HistoryBody
from quotas.forms import HistoryQuery
from quotas.operations import Operations
from quotas.reports import Asked, By, History
from quotas.tallies import Span, Tally
from quotas.terminal import AsJson, ConfigFile, out

_NUMBERS = ("units", "rate_limited", "quota_exceeded", "never")


def show_usage(
    client: Annotated[str | None, typer.Argument(help="Whose; all clients if unset.")] = None,
    month: Annotated[str | None, typer.Option(help="The month, as 2026-11; the current one if unset.")] = None,
    by: Annotated[By | None, typer.Option(help="Rows of one client: hour, day (default), or month.")] = None,
    timezone: Annotated[
        str | None, typer.Option(help="IANA name; that of the first quota of the client's plan, or UTC, if unset.")
    ] = None,
    anchor_day: Annotated[int, typer.Option(help="The day on which months begin.")] = 1,
    top: Annotated[int | None, typer.Option(min=1, help="Only the clients that have used most, so many.")] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw bars.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a client has used in a month, row by row, or all clients, most first.

    Units are those of allowed checks, less refunds. By month and without --month, all months that are kept are told.
    Of hours, the table leaves out those in which nothing happened.
    """
    if plot + as_csv + as_json > 1:
        raise typer.BadParameter("choose one of --plot, --csv and --json")
    if client is not None and top is not None:
        raise typer.BadParameter("--top is about all clients; leave the client out")
    if client is None and by not in {None, By.MONTH}:
        raise typer.BadParameter("--by hour and --by day are about one client; name it")
    asked = _asked(month=month, by=by, timezone=timezone, anchor_day=anchor_day, is_of_all=client is None)
    histories, total = terminal.with_operations(
        _reader(client, asked, top), config, timeout_s=terminal.LONG_COMMAND_TIMEOUT_S
    )
    if as_json:
        told = [HistoryBody.of(history).model_dump(mode="json") for history in histories]
        terminal.print_json(told[0] if client is not None else told)
    elif as_csv:
        sys.stdout.write(sheets.written(map(HistoryBody.of, histories), line_end="\n"))
    elif client is not None:
        _print_client(histories[0], plot=plot)
    else:
        _print_clients(histories, total, asked, plot=plot)


def _asked(*, month: str | None, by: By | None, timezone: str | None, anchor_day: int, is_of_all: bool) -> Asked:
    try:
        asked = HistoryQuery(month=month, by=by, timezone=timezone, anchor_day=anchor_day).to_domain()
    except ValidationError as error:
        told = (f"--{fault['loc'][0]}: {fault['msg'].removeprefix('Value error, ')}" for fault in error.errors())
        raise typer.BadParameter("; ".join(told).replace("--anchor_day", "--anchor-day")) from error
    return asked.of_all() if is_of_all else asked


def _reader(
    client: str | None, asked: Asked, top: int | None
) -> Callable[[Operations], Awaitable[tuple[list[History], Tally]]]:
    async def read(services: Operations) -> tuple[list[History], Tally]:
        if client is None:
            return await services.reports.most(top, asked)
        history = await services.reports.of(await services.clients.get(client), asked)
        return [history], history.total

    return read


def _print_client(history: History, *, plot: bool) -> None:
    first, last = (instants.show_in(at_us, history.timezone)[:10] for at_us in (history.begin_us, history.end_us - 1))
    out.print(f"{history.client}, {first} to {last}, {history.timezone}")
    rows = [(_label(span, history), span.tally) for span in history.spans]
    if plot:
        plots.print_bars(out, rows)
        return
    told = [(label, tally) for label, tally in rows if history.by is not By.HOUR or tally != Tally()]
    _print_table((history.by.value,), [((label,), tally) for label, tally in (*told, ("total", history.total))])


def _print_clients(histories: list[History], total: Tally, asked: Asked, *, plot: bool) -> None:
    if not histories:
        out.print("There are no clients.")
        return
    where = "each client in the time zone of its plan" if asked.timezone is None else asked.timezone
    first = instants.show_in(histories[0].begin_us, histories[0].timezone)[:10]
    out.print(f"the month from {first} on, {where}")
    if plot:
        plots.print_bars(out, [(history.client, history.total) for history in histories])
        return
    rows = [((history.client, history.timezone), history.total) for history in histories]
    _print_table(("client", "time zone"), [*rows, (("total", ""), total)])


def _print_table(titles: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], Tally]]) -> None:
    cells = [(*labels, *map(str, _numbers(tally))) for labels, tally in rows]
    titled = (*titles, *(name.replace("_", " ") for name in _NUMBERS))
    tables.print_table(out, titled, cells, numbers=len(_NUMBERS))


def _numbers(tally: Tally) -> tuple[int, int, int, int]:
    return tally.units, tally.rate_limited, tally.quota_exceeded, tally.never


def _label(span: Span, history: History) -> str:
    """An hour with its offset, since one can come twice; the day on which a day or a month begins."""
    start = instants.show_in(span.start_us, history.timezone)
    return f"{start[:10]} {start[11:16]} {start[19:]}" if history.by is By.HOUR else start[:10]
