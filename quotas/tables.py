"""What the command line shows: tables for people, and the fields of the same things for machines."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from quotas import instants, scopes
from quotas.answers import Reason
from quotas.explaining import Explanation, LimitStory, RawState
from quotas.limits import Bucket, Limit, Mode, Per
from quotas.scripts import OpenQuarter
from quotas.tallies import QUARTER_US

_SECOND_US = 1_000_000
_WIDTH = 1_000
"""Columns are as wide as they need to be: an id that was cut is of no use."""


def duration(microseconds: int | None) -> str:
    """A wait in words: 12 ms, 3.5 s, 4 h 20 min; never for None."""
    if microseconds is None:
        return "never"
    if microseconds < _SECOND_US:
        return f"{-(-microseconds // 1000)} ms"
    if microseconds < 60 * _SECOND_US:
        return f"{microseconds / _SECOND_US:.1f} s"
    minutes = -(-microseconds // (60 * _SECOND_US))
    days, minutes = divmod(minutes, 24 * 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def print_table(out: Console, titles: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> None:
    """Print rows under titles; a cell may hold anything, it is not markup. The last columns, so many, are `numbers`."""
    left = len(titles) - numbers
    columns = [
        Column(title, no_wrap=True, justify="left" if index < left else "right") for index, title in enumerate(titles)
    ]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    wide = Console(file=out.file, markup=False, highlight=False, emoji=False, width=_WIDTH)
    wide.print(table, no_wrap=True, crop=False)


def rule_in_words(limit: Limit) -> str:
    """A limit as people say it: 5 per second, burst 10; 10000 per month in America/New_York from day 15."""
    rule = limit.rule
    if isinstance(rule, Bucket):
        words = f"{rule.count} per {_period(rule.period_us)}, burst {rule.burst}"
    else:
        words = f"{rule.units} per {rule.window.value} in {rule.timezone}"
        if rule.anchor_day != 1:
            words += f" from day {rule.anchor_day}"
    if limit.per is Per.KEY:
        words += ", each key"
    return words if limit.mode is Mode.ENFORCE else f"{words} ({limit.mode.value})"


def print_explanation(out: Console, explanation: Explanation) -> None:
    """Tell an explanation: who, which plan, how each limit stands, what would happen and why."""
    identity = explanation.identity
    if identity is not None and not identity.client.name:
        out.print("client   none, counted by address")
        out.print(f"plan     {identity.client.plan}")
    elif identity is not None:
        out.print(f"client   {identity.client.name} ({identity.client.id}), {identity.client.status.value}")
        key = explanation.key
        shown = f"{'token   ' if identity.key is None else 'key     '} {identity.subject}"
        if key is not None:
            shown += f" {key.shown}… {key.name}"
        out.print(shown.rstrip())
        in_force = explanation.plan
        of = "" if in_force is None or in_force.test_of is None else f", for test keys of clients on {in_force.test_of}"
        out.print(f"plan     {identity.client.plan}{of}")
        if identity.scopes:
            out.print(f"scopes   {scopes.joined(identity.scopes)}")
    if explanation.plan is not None:
        out.print(f"cost     {explanation.cost}")
        out.print(f"path     {' or '.join(explanation.readings)}")
        if explanation.required_scopes:
            out.print(f"needs    {scopes.joined(explanation.required_scopes)}")
        rows = [_story_row(story) for story in explanation.stories]
        print_table(out, ("limit", "rule", "left", "next reset", "this request"), rows)
    out.print(_verdict(explanation))


def explanation_fields(explanation: Explanation) -> dict[str, object]:
    """An explanation for machines."""
    identity, decision = explanation.identity, explanation.decision
    return {
        "allowed": explanation.reason is None,
        "reason": None if explanation.reason is None else explanation.reason.value,
        "client": None if identity is None else identity.client.name or None,
        "subject": None if identity is None else identity.subject or None,
        "key": None if identity is None or identity.key is None else identity.subject,
        "plan": None if identity is None else identity.client.plan,
        "test_plan_of": None if explanation.plan is None else explanation.plan.test_of,
        "scopes": [] if identity is None else sorted(identity.scopes),
        "required_scopes": sorted(explanation.required_scopes),
        "cost": explanation.cost,
        "readings": list(explanation.readings),
        "limit": None if decision is None or decision.binding is None else decision.binding.name,
        "retry_after_us": None if decision is None else decision.retry_after_us,
        "limits": {story.limit.name: _story_fields(story) for story in explanation.stories},
    }


def state_fields(state: RawState) -> dict[str, object]:
    """A state for machines: its bytes in hexadecimal, and what they say in grains and units."""
    memory = state.memory
    buckets = {
        name: {"level_grains": level, "grains": rule.grains, "refill": rule.refill, "burst": rule.burst}
        for name, (rule, level) in memory.levels.items()
    }
    quotas = {name: {"window_end_us": end_us, "used": used} for name, (end_us, used) in memory.counts.items()}
    return {
        "key": state.key,
        "bytes": state.data.hex(),
        "lives_ms": state.lives_ms,
        "generation": state.generation,
        "at_us": memory.at_us,
        "until_us": memory.until_us,
        "open_quarter": _open_quarter_fields(state.open_quarter),
        "limits": {name: (buckets | quotas)[name] for name, _ in memory.layout},
    }


def print_state(out: Console, state: RawState) -> None:
    """A state for people."""
    memory = state.memory
    lives = "for ever" if state.lives_ms is None else duration(state.lives_ms * 1000)
    out.print(f"{state.key}: {len(state.data)} bytes, generation {state.generation}, lives {lives}")
    out.print(f"written {instants.show(memory.at_us)}, of use until {instants.show(memory.until_us)}")
    rows = []
    for name, _ in memory.layout:
        if name in memory.levels:
            rule, level = memory.levels[name]
            rows.append((name, f"holds {level} of {rule.capacity} grains, {rule.grains} a token"))
        else:
            end_us, used = memory.counts[name]
            rows.append((name, f"{used} used in the window that ends {instants.show(end_us)}"))
    print_table(out, ("limit", "as written"), rows)
    if state.open_quarter is not None:
        begins = instants.show(state.open_quarter.quarter * QUARTER_US)
        out.print(f"units of usage counted in the quarter of an hour from {begins} on: {state.open_quarter.units}")
    out.print(state.data.hex())


def _open_quarter_fields(open_quarter: OpenQuarter | None) -> dict[str, int] | None:
    if open_quarter is None:
        return None
    return {"begin_us": open_quarter.quarter * QUARTER_US, "units": open_quarter.units}


def _story_fields(story: LimitStory) -> dict[str, object]:
    standing = story.standing
    return {
        "rule": rule_in_words(story.limit),
        "overridden": story.overridden,
        "matches": standing is not None,
        "remaining": None if standing is None else max(0, standing.remaining),
        "reset_after_us": None if standing is None else standing.reset_after_us,
        "retry_after_us": None if standing is None else standing.retry_after_us,
    }


def _story_row(story: LimitStory) -> tuple[str, str, str, str, str]:
    rule = rule_in_words(story.limit) + (", the client's own" if story.overridden else "")
    standing = story.standing
    if standing is None:
        return story.limit.name, rule, "", "", "is not about it"
    if standing.retry_after_us == 0:
        fate = "has room"
    elif story.limit.mode is Mode.ENFORCE:
        fate = (
            "refuses, for ever"
            if standing.retry_after_us is None
            else f"refuses, for {duration(standing.retry_after_us)}"
        )
    else:
        fate = f"has no room, and does not refuse ({story.limit.mode.value})"
    return story.limit.name, rule, str(standing.remaining), duration(standing.reset_after_us), fate


def _verdict(explanation: Explanation) -> str:
    if explanation.reason is None:
        return "allowed"
    decision, identity = explanation.decision, explanation.identity
    if explanation.reason is Reason.INSUFFICIENT_SCOPE and identity is not None:
        return f"refused: insufficient_scope; missing: {scopes.joined(explanation.required_scopes - identity.scopes)}"
    if decision is None or decision.binding is None:
        return f"refused: {explanation.reason.value}"
    wait = duration(decision.retry_after_us)
    return f"refused: {explanation.reason.value} by {decision.binding.name}; retry after: {wait}"


def _period(period_us: int) -> str:
    units = {"week": 604_800, "day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
    for name, seconds in units.items():
        if period_us % (seconds * 1_000_000) == 0:
            times = period_us // (seconds * 1_000_000)
            return name if times == 1 else f"{times} {name}s"
    return f"{period_us} microseconds"
