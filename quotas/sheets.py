"""Usage histories as CSV (RFC 4180), for `quotas usage --csv` and for who asks for `text/csv` over HTTP.

One row for each hour, day or month of each client, below a row of names. What a spreadsheet would take for a formula
gets an apostrophe: subjects choose their names.
"""

import csv
import io
from collections.abc import Iterable

from quotas.bodies import HistoryBody

MEDIA_TYPE = "text/csv"
CONTENT_TYPE = f"{MEDIA_TYPE}; charset=utf-8; header=present"
"""RFC 7111, section 5.1, and RFC 4180, section 3."""

COLUMNS = ("client", "timezone", "start", "units", "rate_limited", "quota_exceeded", "never")

_JSON = "application/json"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def written(histories: Iterable[HistoryBody], *, line_end: str = "\r\n") -> str:
    """The rows of all histories; without any, the names of the columns alone."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=line_end)
    writer.writerow(COLUMNS)
    for history in histories:
        name = "'" + history.client if history.client.startswith(_FORMULA) else history.client
        for row in history.rows:
            refused = row.refused
            numbers = (row.units, refused.rate_limited, refused.quota_exceeded, refused.never)
            writer.writerow((name, history.timezone, row.start, *numbers))
    return text.getvalue()


def is_asked_for(accept: str) -> bool:
    """Whether a field `Accept` (RFC 9110, section 12.5.1) prefers CSV to JSON; in doubt it does not.

    Of two that weigh the same, the one that is named goes before what a range only includes.
    """
    ranges: dict[str, float] = {}
    for part in accept.split(","):
        media, *parameters = (word.strip().lower() for word in part.split(";"))
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        ranges[media] = max(ranges.get(media, 0.0), _weight(given.get("q", "1")))
    return _preference(ranges, MEDIA_TYPE) > _preference(ranges, _JSON)


def _preference(ranges: dict[str, float], media: str) -> tuple[float, int]:
    """Weight and precision of the most precise range that includes this type; weight 0 is not acceptable."""
    names = ("*/*", media.partition("/")[0] + "/*", media)
    precision, weight = max(((at, ranges[name]) for at, name in enumerate(names) if name in ranges), default=(0, 0.0))
    return (weight, precision) if weight else (0.0, 0)


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
