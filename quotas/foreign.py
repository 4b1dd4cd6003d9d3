"""Foreign keys as text: the CSV file (RFC 4180) of keys that others have made, each by its SHA-256 digest.

    client,name,sha256,scopes,expires_at,environment,shown
    acme,build server,2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683,read write,,live,sk_a1

The first line names the columns, in any order; the first three of these must be there. Rows are read one at a time,
however long the file is. No message quotes what stands where a key or its digest could have been pasted. Bytes that are
not UTF-8 are to come as surrogates: they are no printable characters.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import TextIO

from quotas import instants, scopes
from quotas.errors import Fault
from quotas.keys import Environment
from quotas.plans import MAX_CLIENT_NAME, is_client_name

MAX_ROWS = 1_000_000
MAX_NAME = 128
MAX_SHOWN = 16
"""Characters of the hint by which listings show a foreign key."""

_NEEDED = ("client", "name", "sha256")
_COLUMNS = (*_NEEDED, "scopes", "expires_at", "environment", "shown")
_DIGEST = re.compile(r"[0-9A-Fa-f]{64}")


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """One row: whose key it is, and what is known of it. `expires_at_us` None is never."""

    row: int
    client: str
    name: str
    digest: str
    scopes: frozenset[str]
    expires_at_us: int | None
    environment: Environment
    shown: str


def place(row: int, column: str = "") -> str:
    """Where a fault is; `row` is the number of the line on which the row begins."""
    return f"line {row}, {column}" if column else f"line {row}"


def read(lines: TextIO) -> Iterator[ForeignKey | list[Fault]]:
    """Each row as a key, or as what is wrong with it. A fault that leaves the rest unreadable is the last."""
    reader = csv.reader(lines, strict=True)
    begin, columns = 1, None
    try:
        for values in reader:
            row, begin = begin, reader.line_num + 1
            if not values:
                continue
            if columns is None:
                columns, faults = values, _header_faults(values, row)
                if faults:
                    yield faults
                    return
                continue
            if row > MAX_ROWS:
                yield [Fault(place(row), f"a file has at most {MAX_ROWS} lines; divide it")]
                return
            yield _row(row, columns, values)
    except csv.Error as error:
        yield [Fault(place(begin), f"is no CSV: {error}")]
        return
    if columns is None:
        yield [Fault(place(1), f"must name the columns: {', '.join(_NEEDED)}, and any of {', '.join(_COLUMNS[3:])}")]


def _header_faults(columns: list[str], row: int) -> list[Fault]:
    faults = [Fault(place(row), f"the column {name!r} is missing") for name in _NEEDED if name not in columns]
    for name in dict.fromkeys(columns):
        if name not in _COLUMNS:
            faults.append(Fault(place(row), f"unknown column {name[:40]!r}; known are {', '.join(_COLUMNS)}"))
        elif columns.count(name) > 1:
            faults.append(Fault(place(row), f"the column {name!r} stands twice"))
    return faults


def _row(row: int, columns: list[str], values: list[str]) -> ForeignKey | list[Fault]:
    if len(values) != len(columns):
        return [Fault(place(row), f"has {len(values)} fields, and the first line has {len(columns)}")]
    given = dict.fromkeys(_COLUMNS, "") | dict(zip(columns, values, strict=True))
    digest, shown = given["sha256"].strip().lower(), given["shown"].strip()
    faults = list(_text_faults(row, given, digest, shown))
    granted, expires_at_us, environment = scopes.NONE, None, Environment.LIVE
    try:
        granted = scopes.checked(given["scopes"].split())
    except ValueError as error:
        faults.append(Fault(place(row, "scopes"), str(error)))
    if given["expires_at"].strip():
        try:
            expires_at_us = instants.parse(given["expires_at"].strip())
        except ValueError:
            faults.append(Fault(place(row, "expires_at"), "must be an RFC 3339 instant such as 2026-12-31T23:59:59Z"))
    if given["environment"].strip():
        try:
            environment = Environment(given["environment"].strip())
        except ValueError:
            faults.append(Fault(place(row, "environment"), "must be live or test; live when left out"))
    if faults:
        return faults
    return ForeignKey(row, given["client"], given["name"], digest, granted, expires_at_us, environment, shown)


def _text_faults(row: int, given: dict[str, str], digest: str, shown: str) -> Iterator[Fault]:
    if not is_client_name(given["client"]):
        yield Fault(place(row, "client"), f"a client's name has 1 to {MAX_CLIENT_NAME} printable characters")
    if len(given["name"]) > MAX_NAME or not (given["name"] == "" or given["name"].isprintable()):
        yield Fault(place(row, "name"), f"a key's name has at most {MAX_NAME} printable characters")
    if not _DIGEST.fullmatch(digest):
        yield Fault(place(row, "sha256"), "must be the SHA-256 of the key in 64 hexadecimal digits, not the key itself")
    if len(shown) > MAX_SHOWN or not (shown == "" or shown.isprintable()):
        yield Fault(place(row, "shown"), f"must be at most {MAX_SHOWN} printable characters: listings show it")
    for column in ("name", "shown"):
        if sha256(given[column].encode("utf-8", "surrogatepass")).hexdigest() == digest:
            yield Fault(place(row, column), "is the key itself, and listings would show it")
