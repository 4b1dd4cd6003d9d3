"""The log's two formats: one line for each record, whatever it holds, and no credential in it."""

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas import log_lines
from quotas.keys import Environment, generate
from quotas.log_lines import COVER, Lines, fields
from quotas.settings import LogFormat

AT = 1795597200.1239
"""2026-11-25T09:00:00.123Z: cut, not rounded, so that no line is of the second after it."""
CONSOLE, JSON = Lines(LogFormat.CONSOLE, "acme"), Lines(LogFormat.JSON, "acme")
TEXTS = st.text(st.characters(codec=None))  # Lone surrogates too.


def record(message: str, *args: object, exception: BaseException | None = None, **told: Any) -> logging.LogRecord:
    exc_info = None if exception is None else (type(exception), exception, exception.__traceback__)
    made = logging.LogRecord("quotas.test", logging.WARNING, "", 0, message, args, exc_info)
    made.created = AT
    vars(made).update(fields(**told))
    return made


def raised(message: str) -> Exception:
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError(message)
    return caught.value


def test_a_record_for_people() -> None:
    told = record("%d of %s", 3, "four", client="acme", status=429, limit=None, name="two words", empty="")
    assert CONSOLE.format(told) == (
        '2026-11-25T09:00:00.123Z WARNING quotas.test: 3 of four client=acme status=429 name="two words" empty=""'
    )


def test_the_same_for_programs() -> None:
    told = record("%d of %s", 3, "four", client="acme", status=429, limit=None)
    assert json.loads(JSON.format(told)) == {
        "time": "2026-11-25T09:00:00.123Z",
        "level": "WARNING",
        "logger": "quotas.test",
        "message": "3 of four",
        "client": "acme",
        "status": 429,
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nFAKE", r'"a\nFAKE"'),
        ("a\r\x1b[2J\x00\x7f\x9b", r'"a\r\x1b[2J\x00\x7f\x9b"'),
        ("\u202eright\u2028", r'"\u202eright\u2028"'),
        ('a" status=200 b="', r'"a\" status=200 b=\""'),
        ("a\\n", r'"a\\n"'),
        ("\udc80", r'"\udc80"'),
        ("Zoë", '"Zoë"'),
        ("a=b", '"a=b"'),
    ],
)
def test_nobody_makes_a_line_or_a_field_of_their_own(text: str, line: str) -> None:
    assert CONSOLE.format(record("seen", client=text)).endswith(f"seen client={line}")
    assert CONSOLE.format(record("%s", text)).endswith(": " + line[1:-1].replace('\\"', '"'))


@given(message=TEXTS, value=TEXTS)
def test_every_line_is_one_and_visible_and_json_gives_back_what_was_said(message: str, value: str) -> None:
    told = record("%s", message, client=value)
    for lines in (CONSOLE, JSON):
        assert lines.format(told).isprintable()
    found = json.loads(JSON.format(told))
    assert JSON.format(told).isascii()
    assert (found["message"], found["client"]) == (message.rstrip("\n"), value)


def test_a_traceback_is_part_of_the_line() -> None:
    told = record("it broke", exception=raised("first\nsecond"))
    found = json.loads(JSON.format(told))["exception"]
    assert found.startswith("Traceback (most recent call last):\n")
    assert found.endswith("RuntimeError: first\nsecond")
    line = CONSOLE.format(told)
    assert line.isprintable()
    assert line.endswith(r'RuntimeError: first\nsecond"')


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param(generate("acme", Environment.LIVE), id="live key"),
        pytest.param(generate("acme", Environment.TEST), id="test key"),
        "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl",
        "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..aXY.Y2lwaGVy.dGFn",
    ],
)
def test_what_looks_like_a_credential_is_covered_wherever_it_stands(secret: str) -> None:
    told = record("got %s!", secret, exception=raised(f"what is {secret}"), header=f"Bearer {secret}")
    for lines in (CONSOLE, JSON):
        line = lines.format(told)
        assert line.count(COVER) == 3
        assert not any(part in line for part in (secret, secret[-20:]))


def test_a_process_writes_its_own_lines_and_the_server_s_alike(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, server = logging.RootLogger(logging.WARNING), logging.getLogger("uvicorn")
    monkeypatch.setattr(logging, "root", root)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "level", logging.NOTSET)
        monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(server, "parent", root)
    log_lines.set_up(level="info", form=LogFormat.JSON, brand="quotas")
    logging.getLogger("uvicorn.error").error("%s", "broken\n", exc_info=raised("why"))
    logging.getLogger("uvicorn.error").warning("Unsupported upgrade request.")
    logging.getLogger("uvicorn.error").info("Started server process")
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["logger"], found["message"], found["level"]) == ("uvicorn.error", "broken", "ERROR")
    assert "RuntimeError: why" in found["exception"]
