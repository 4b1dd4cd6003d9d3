"""Bars in a terminal of any width, with and without colours."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from quotas.plots import print_bars
from quotas.tallies import Tally


def drawn(*rows: tuple[str, Tally], width: int = 80, encoding: str = "utf-8", colour: bool = False) -> list[str]:
    text = io.TextIOWrapper(io.BytesIO(), encoding, write_through=True)
    out = Console(file=text, width=width, markup=False, highlight=False, force_terminal=colour, no_color=not colour)
    print_bars(out, rows)
    return text.buffer.getvalue().decode(encoding).splitlines()


def test_lengths_are_in_proportion_and_numbers_stand_beside() -> None:
    head, full, half, least, none = drawn(
        ("2026-11-01", Tally(1_000_000)), ("2026-11-02", Tally(500_000)), ("b", Tally(1)), ("c", Tally())
    )
    assert head.split() == ["units"]
    assert full.split() == ["2026-11-01", "█" * full.count("█"), "1,000,000"]
    assert half.count("█") == full.count("█") // 2
    assert least.split() == ["b", "▏", "1"]
    assert none.split() == ["c", "0"]


def test_refused_checks_have_bars_and_signs_of_their_own() -> None:
    head, first, second = drawn(("a", Tally(10, 5, 4, 3)), ("b", Tally(-2, never=6)))
    assert head.split() == ["units", "refused"]
    assert first.split()[::2] == ["a", "10", "12"]
    assert second.split() == ["b", "-2", "░" * (first.count("░") // 2), "6"]
    assert "█" in first
    assert "░" in first


@pytest.mark.parametrize("width", [60, 80, 133, 160])
def test_every_line_fits(width: int) -> None:
    rows = [("日" * 64, Tally(2**53, 2**40)), ("x" * 128, Tally(1, 1)), ("short", Tally(0, 0, 0, 1))]
    lines = drawn(*rows, width=width)
    assert len(lines) == 4
    assert all(cell_len(line) == width for line in lines)
    assert lines[2].lstrip("x").startswith("..  ")


def test_a_terminal_without_block_elements_gets_plain_signs() -> None:
    lines = drawn(("a", Tally(10, 5)), ("b", Tally(1, 1)), encoding="ascii")
    assert "#" in lines[1]
    assert "." in lines[1]
    assert all(line.isascii() for line in lines)


def test_colours_only_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    rows = (("a", Tally(10, 5)),)
    plain, coloured = drawn(*rows), drawn(*rows, colour=True)
    assert "\x1b[36m" in coloured[1]
    for sign in ("█", "░"):
        assert coloured[1].count(sign) == plain[1].count(sign) > 0


def test_nothing_at_all_is_a_head_and_nothing_used_is_no_bar() -> None:
    assert [line.split() for line in drawn()] == [["units"]]
    assert [line.split() for line in drawn(("a", Tally()))] == [["units"], ["a", "0"]]
