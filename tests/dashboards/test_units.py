import pytest

from dashboards import queries
from dashboards.units import shown


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "short", "0"),
        (7, "short", "7"),
        (0.125, "short", "0.125"),
        (1234, "short", "1.23 K"),
        (52_000_000, "short", "52 Mil"),
        (0.5, "percentunit", "50%"),
        (0.1234, "percentunit", "12.3%"),
        (1.25, "percentunit", "125%"),
        (49.96, "reqps", "50 req/s"),
        (1500, "cps", "1.5K c/s"),
        (0.00042, "s", "420 µs"),
        (0.0125, "s", "12.5 ms"),
        (90, "s", "1.5 min"),
        (0, "s", "0 s"),
        (float("nan"), "s", "NaN"),
        (1_764_028_800_000, "dateTimeAsIso", "2025-11-25 00:00:00"),
        (1, "bool_yes_no", "Yes"),
        (0, "bool_yes_no", "No"),
    ],
)
def test_values_are_written_as_grafana_does(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_every_unit_of_a_panel_can_be_drawn() -> None:
    for name in queries.NAMES:
        for panel in queries.panels(queries.read(name)):
            assert shown(1, panel["fieldConfig"]["defaults"]["unit"])
