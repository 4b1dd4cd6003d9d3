"""Values as Grafana writes them in the units that the dashboards use."""

import datetime as dt
import math
from collections.abc import Callable, Mapping

_MAGNITUDES = ((1e12, "T"), (1e9, "Bil"), (1e6, "Mil"), (1e3, "K"))
_DURATIONS = ((86400.0, "day"), (3600.0, "hour"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_MAGNITUDES_OF_RATES = ((1e9, "B"), (1e6, "M"), (1e3, "K"))


def shown(value: float, unit: str) -> str:
    """A value in a unit, such as "12.5%" or "3.2 ms". Raises KeyError for a unit that no dashboard uses."""
    return "NaN" if math.isnan(value) else _UNITS[unit](value)


def _short(value: float) -> str:
    """Three digits, and no zeros that say nothing."""
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scaled(value: float, magnitudes: tuple[tuple[float, str], ...], gap: str) -> str:
    for factor, name in magnitudes:
        if abs(value) >= factor:
            return f"{_short(value / factor)}{gap}{name}"
    return _short(value)


def _duration(seconds: float) -> str:
    for factor, name in _DURATIONS:
        if abs(seconds) >= factor:
            return f"{_short(seconds / factor)} {name}"
    return "0 s"


def _date(milliseconds: float) -> str:
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


_UNITS: Mapping[str, Callable[[float], str]] = {
    "short": lambda value: _scaled(value, _MAGNITUDES, " "),
    "percentunit": lambda value: f"{_short(value * 100)}%",
    "reqps": lambda value: f"{_scaled(value, _MAGNITUDES_OF_RATES, '')} req/s",
    "cps": lambda value: f"{_scaled(value, _MAGNITUDES_OF_RATES, '')} c/s",
    "s": _duration,
    "dateTimeAsIso": _date,
    "bool_yes_no": lambda value: "Yes" if value else "No",
}
