"""Bars in a terminal: what was used and what was refused, a line for each hour, day, month or client.

Two kinds of bars, each on a scale of its own because units and refused checks have none in common. They differ by their
signs and not only by colour, so that they can be read in a pipe, in a log and by who sees no colours. A terminal that
cannot show block elements gets `#` and `.`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from quotas.tallies import Tally

MIN_WIDTH, MAX_WIDTH = 60, 160
_MIN_LABEL, _MAX_LABEL = 8, 26
_EIGHTHS = " ▏▎▍▌▋▊▉"
_GAP = "  "


@dataclass(frozen=True, slots=True)
class _Bars:
    """How one kind of bar is drawn: `most` is what fills its width. `parts` are the ends of a bar, finest first."""

    most: int
    width: int
    full: str
    parts: str
    style: str

    def of(self, number: int) -> Text:
        """A number's bar; nothing for 0 and less, and the least that can be shown for anything more."""
        steps = max(1, len(self.parts))
        eighths = 0 if number <= 0 else max(1, number * self.width * steps // self.most)
        whole, rest = divmod(eighths, steps)
        bar = self.full * whole + (self.parts[rest] if rest else "")
        return Text(bar.ljust(self.width), style=self.style)


def print_bars(out: Console, rows: Sequence[tuple[str, Tally]]) -> None:
    """Print a line for each row: its label, its units and, where anything was refused, its refused checks."""
    width = min(MAX_WIDTH, max(MIN_WIDTH, out.width))
    units = max([len("units"), *(len(f"{tally.units:,}") for _, tally in rows)])
    most_refused = max((tally.refused for _, tally in rows), default=0)
    refused = max(len("refused"), len(f"{most_refused:,}")) if most_refused else 0
    spare = width - units - 2 * len(_GAP) - (refused + 2 * len(_GAP) if refused else 0)
    longest = max((cell_len(name) for name, _ in rows), default=0)
    label = min(longest, max(_MIN_LABEL, min(_MAX_LABEL, spare // 2)))
    room = spare - label
    second = room // 4 if refused else 0
    is_plain = out.options.ascii_only
    most_units = max((tally.units for _, tally in rows), default=0)
    used = _Bars(most_units, room - second, "#" if is_plain else "█", "" if is_plain else _EIGHTHS, "cyan")
    turned_away = _Bars(most_refused, second, "." if is_plain else "░", "", "red")
    head = " " * label + _GAP + " " * used.width + _GAP + "units".rjust(units)
    _print(out, Text(head + (_GAP + " " * second + _GAP + "refused".rjust(refused) if refused else "")))
    for name, tally in rows:
        line = Text(_cut(name, label) + _GAP) + used.of(tally.units) + Text(_GAP + f"{tally.units:,}".rjust(units))
        if refused:
            line += Text(_GAP) + turned_away.of(tally.refused) + Text(_GAP + f"{tally.refused:,}".rjust(refused))
        _print(out, line)


def _print(out: Console, line: Text) -> None:
    out.print(line, no_wrap=True, overflow="ignore", crop=False)


def _cut(name: str, width: int) -> str:
    """A label of exactly this width; one that is cut ends with dots."""
    return set_cell_size(name, width) if cell_len(name) <= width else set_cell_size(name, width - 2) + ".."
