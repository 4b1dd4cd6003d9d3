"""Foreign keys as a file: what is right is read exactly, what is wrong is told with its line, and no key is quoted."""

import io
from hashlib import sha256

import pytest

from quotas import foreign
from quotas.errors import Fault
from quotas.foreign import ForeignKey, read
from quotas.keys import Environment

DIGEST = sha256(b"a key of another maker").hexdigest()
HEADER = "client,name,sha256,scopes,expires_at,environment,shown\n"


def rows(text: str) -> list[ForeignKey]:
    found = list(read(io.StringIO(text, newline="")))
    assert all(isinstance(row, ForeignKey) for row in found), found
    return [row for row in found if isinstance(row, ForeignKey)]


def faults(text: str) -> list[tuple[str, str]]:
    """All faults; there may be good rows beside them."""
    found = [fault for row in read(io.StringIO(text, newline="")) if isinstance(row, list) for fault in row]
    assert all(isinstance(fault, Fault) for fault in found)
    return [(fault.path, fault.message) for fault in found]


def row(**changes: str) -> str:
    given = dict.fromkeys(HEADER.strip().split(","), "") | {"client": "acme", "name": "n", "sha256": DIGEST} | changes
    return HEADER + ",".join(given.values()) + "\n"


def test_all_columns() -> None:
    text = HEADER + f'"Acme, Inc.",a ""b"",{DIGEST.upper()},write read,1970-01-01T00:00:01.5Z,test,sk_a1\n'
    assert rows(text.replace('a ""b""', '"a ""b"""')) == [
        ForeignKey(2, "Acme, Inc.", 'a "b"', DIGEST, frozenset({"read", "write"}), 1_500_000, Environment.TEST, "sk_a1")
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_what_is_needed_in_any_order(end: str) -> None:
    text = end.join(["sha256,client,name", "", f"{DIGEST},acme,", ""])
    assert rows(text) == [ForeignKey(3, "acme", "", DIGEST, frozenset(), None, Environment.LIVE, "")]


def test_names_are_exact() -> None:
    (found,) = rows(row(client=" acme ", name=" 日本 "))
    assert (found.client, found.name) == (" acme ", " 日本 ")


def test_a_row_is_told_by_the_line_on_which_it_begins() -> None:
    text = f'client,name,sha256\nacme,"a\nb\nc",{DIGEST}\n\nacme,n,nothing\n'
    assert [path for path, _ in faults(text)] == ["line 2, name", "line 6, sha256"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["must name the columns: client, name, sha256"]),
        ("\n\n", ["must name the columns"]),
        ("client,name\n", ["the column 'sha256' is missing"]),
        ("acme,n,abc\n", ["'client' is missing", "'name' is missing", "'sha256' is missing", "unknown column 'acme'"]),
        ("client,name,sha256,scope\n", ["unknown column 'scope'; known are client, name, sha256, scopes"]),
        ("client,name,sha256,name\n", ["the column 'name' stands twice"]),
        (" client,name,sha256\n", ["'client' is missing", "unknown column ' client'"]),
    ],
)
def test_without_its_columns_nothing_is_read(text: str, told: list[str]) -> None:
    found = faults(text + "acme\n" if text.strip() else text)
    assert all(path == "line 1" for path, _ in found)
    for words, (_, message) in zip(told, found, strict=False):
        assert words in message


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"client": ""}, "client"),
        ({"client": "x" * 129}, "client"),
        ({"client": "a\tb"}, "client"),
        ({"name": "x" * 129}, "name"),
        ({"name": "a key of another maker"}, "name"),
        ({"sha256": ""}, "sha256"),
        ({"sha256": "my-key-itself"}, "sha256"),
        ({"sha256": DIGEST[:-1]}, "sha256"),
        ({"sha256": DIGEST[:-1] + "g"}, "sha256"),
        ({"sha256": DIGEST[:-1] + "٣"}, "sha256"),
        ({"scopes": 'a"b'.replace('"', "\\")}, "scopes"),
        ({"scopes": "é"}, "scopes"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2026-12-31"}, "expires_at"),
        ({"environment": "Live"}, "environment"),
        ({"shown": "x" * 17}, "shown"),
        ({"shown": "a\x00b"}, "shown"),
        ({"shown": "short key", "sha256": sha256(b"short key").hexdigest()}, "shown"),
    ],
)
def test_what_is_wrong_with_a_row(changes: dict[str, str], column: str) -> None:
    ((path, message),) = faults(row(**changes))
    assert path == f"line 2, {column}"
    if column != "scopes":
        assert not any(len(value) > 10 and value in message for value in changes.values())


def test_all_faults_of_all_rows_are_told() -> None:
    text = f"client,name,sha256,shown\n,n,no,{'x' * 17}\nacme,n,{DIGEST},\nacme,n\nacme,n,no,\n"
    assert [path for path, _ in faults(text)] == [
        "line 2, client",
        "line 2, sha256",
        "line 2, shown",
        "line 4",
        "line 5, sha256",
    ]


@pytest.mark.parametrize("rest", ['acme,"n"x,' + DIGEST, 'acme,"' + "n" * 140_000, f"acme,{'n' * 140_000},{DIGEST}"])
def test_what_is_no_csv_ends_the_reading(rest: str) -> None:
    ((path, message),) = faults(f"client,name,sha256\n{rest}\nacme,n,no\n")
    assert path == "line 2"
    assert message.startswith("is no CSV: ")


@pytest.mark.parametrize("column", ["client", "name", "sha256", "scopes", "expires_at", "environment", "shown"])
def test_what_is_no_utf8_is_a_fault_of_its_field(column: str) -> None:
    text = row(**{column: "caf\udce9"})
    assert [path for path, _ in faults(text)] == [f"line 2, {column}"]


def test_a_file_can_be_read_again_whatever_it_begins_with() -> None:
    lines = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + row().encode()), "utf-8-sig", newline="")
    first = list(read(lines))
    lines.seek(0)
    assert list(read(lines)) == first
    assert isinstance(first[0], ForeignKey)


def test_a_file_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "MAX_ROWS", 3)
    text = "client,name,sha256\n" + f"acme,n,{DIGEST}\n" * 5
    found = list(read(io.StringIO(text)))
    assert [isinstance(each, ForeignKey) for each in found] == [True, True, False]
    assert [path for path, _ in faults(text)] == ["line 4"]
