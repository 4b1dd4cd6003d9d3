"""Usage histories as CSV: who gets it, and what is in it."""

import pytest

from quotas import sheets
from quotas.bodies import HistoryBody, RefusedBody, SpanBody
from quotas.reports import By


@pytest.mark.parametrize(
    ("accept", "is_csv"),
    [
        ("", False),
        ("*/*", False),
        ("text/csv", True),
        ("TEXT/CSV; charset=utf-8; header=present", True),
        ("text/csv, */*", True),
        ("text/*", True),
        ("text/html, text/*;q=0.5, */*;q=0.1", True),
        ("text/csv, application/json", False),
        ("application/json, text/csv;q=0.9", False),
        ("application/json;q=0.8, text/csv;q=0.9", True),
        ("text/csv;q=0", False),
        ("text/csv;q=0, text/*", False),
        ("*/*, application/json;q=0", True),
        ("text/csv;q=2, application/json;q=0.1", False),
        ("text/csv;q=nan", False),
        ("image/png", False),
        (",;,", False),
    ],
)
def test_who_prefers_it_gets_it_and_everybody_else_json(accept: str, *, is_csv: bool) -> None:
    assert sheets.is_asked_for(accept) == is_csv


def test_lines_end_as_rfc_4180_has_it_and_names_are_quoted_and_no_formula() -> None:
    refused = RefusedBody(rate_limited=1, quota_exceeded=2, never=3)
    rows = [SpanBody(start="2026-06-01T00:00:00+00:00", units=-4, refused=refused)]
    history = HistoryBody(
        client='=a,"b\n', timezone="UTC", by=By.DAY, start="", end="", units=-4, refused=refused, rows=rows
    )
    assert sheets.written([history]) == (
        "client,timezone,start,units,rate_limited,quota_exceeded,never\r\n"
        '"\'=a,""b\n",UTC,2026-06-01T00:00:00+00:00,-4,1,2,3\r\n'
    )
    assert sheets.written([]) == "client,timezone,start,units,rate_limited,quota_exceeded,never\r\n"
