"""`quotas keys import`: foreign keys by their digests, all of a file or nothing of it, as often as one likes."""

from hashlib import sha256
from unittest.mock import patch

import pytest

from quotas import assembly, importing

from .terminal import Done, Terminal, snapshot

NOW_US = 1_773_144_000_000_000  # 2026-03-10T12:00:00Z
PLANS = "plans: {free: {limits: {burst: {rate: 1/day, burst: 10}}}}"
ONE, OTHER, THIRD = "sk_one", "SG.two.parts", "sk_third"


@pytest.fixture(autouse=True)
def clients(terminal: Terminal) -> None:
    terminal.file("quotas.yaml", PLANS)
    for name in ("acme", "other"):
        terminal.good("clients", "create", name, "--plan", "free")


def digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def file_of(terminal: Terminal, *rows: str, more: str = "") -> str:
    return terminal.file("keys.csv", "\n".join([f"client,name,sha256{more}", *rows]))


def keys_of(terminal: Terminal, client: str = "acme") -> list[str]:
    return sorted(each["name"] for each in terminal.good("keys", "list", "--client", client, "--json").json)


def faulty(done: Done) -> list[str]:
    """What is wrong with a file, to people; nothing on standard output."""
    assert (done.code, done.out) == (2, "")
    first, *rest = done.err.splitlines()
    assert first == f"keys.csv cannot be used: {len(rest)} {'fault' if len(rest) == 1 else 'faults'}"
    return [line.strip() for line in rest]


def test_what_is_imported_is_listed_and_works_like_any_key(terminal: Terminal) -> None:
    more = ",scopes,expires_at,environment,shown"
    rows = (
        f"acme,one,{digest(ONE)},write read,2026-04-09T12:00:00Z,test,sk_o",
        f"acme,two,{digest(OTHER)},,,,",
        f"other,third,{digest(THIRD)},,2026-03-10T12:00:00Z,,",
    )
    file = file_of(terminal, *rows, more=more)
    with patch.object(assembly, "clock", lambda: NOW_US):
        assert terminal.good("keys", "import", file).out == "2 keys imported; 0 were there already, 1 have expired\n"
    one, two = terminal.good("keys", "list", "--client", "acme", "--json").json
    if one["name"] != "one":
        one, two = two, one
    assert one == {
        "id": one["id"],
        "client": "acme",
        "name": "one",
        "shown": "sk_o",
        "environment": "test",
        "scopes": ["read", "write"],
        "imported": True,
        "created_at": "2026-03-10T12:00:00Z",
        "expires_at": "2026-04-09T12:00:00Z",
        "last_used_at": None,
    }
    assert (two["shown"], two["expires_at"], two["imported"]) == ("", None, True)
    assert keys_of(terminal, "other") == []
    told = terminal("explain", OTHER, "GET", "/", "--json").json
    assert (told["allowed"], told["client"], told["key"]) == (True, "acme", two["id"])
    assert terminal("explain", THIRD, "GET", "/", "--json").json["reason"] == "invalid_credential"
    issued = terminal.good("keys", "rotate", two["id"], "--grace", "0", "--json").json
    assert issued["key"].startswith("quotas_live_")
    assert (issued["name"], issued["imported"]) == ("two", False)
    assert terminal("explain", OTHER, "GET", "/", "--json").json["reason"] == "expired_credential"
    terminal.good("keys", "revoke", two["id"], "--yes")
    assert terminal("explain", OTHER, "GET", "/", "--json").json["reason"] == "invalid_credential"


def test_again_brings_in_what_is_missing(terminal: Terminal, redis_url: str) -> None:
    row = f"acme,one,{digest(ONE)}"
    counts = terminal.good("keys", "import", file_of(terminal, row, row), "--json").json
    assert counts == {"new": 1, "present": 1, "expired": 0, "dry_run": False}
    before = snapshot(redis_url)
    assert terminal.good("keys", "import", file_of(terminal, row.replace("one", "renamed")), "--json").json["new"] == 0
    assert snapshot(redis_url) == before
    counts = terminal.good("keys", "import", file_of(terminal, row, f"acme,two,{digest(OTHER)}"), "--json").json
    assert (counts["new"], counts["present"]) == (1, 1)
    assert keys_of(terminal) == ["one", "two"]


def test_a_dry_run_counts_and_writes_nothing(terminal: Terminal, redis_url: str) -> None:
    row = f"acme,one,{digest(ONE)}"
    before = snapshot(redis_url)
    done = terminal.good("keys", "import", "--dry-run", file_of(terminal, row, row))
    assert done.out == "1 keys would be imported; 1 were there already, 0 have expired\n"
    assert snapshot(redis_url) == before


def test_one_fault_and_nothing_is_imported(terminal: Terminal, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "BATCH", 2)
    terminal.good("keys", "import", file_of(terminal, f"other,third,{digest(THIRD)}"))
    before = snapshot(redis_url)
    rows = (
        f"acme,one,{digest(ONE)}",
        f"nobody,two,{digest(OTHER)}",
        f"acme,third,{digest(THIRD)}",
        f"other,one,{digest(ONE)}",
        "acme,five,the-key-itself",
    )
    told = faulty(terminal("keys", "import", file_of(terminal, *rows)))
    assert told == [
        "line 3, client: there is no client 'nobody'; create it first",
        "line 4, sha256: is of a key that another client has already",
        "line 5, sha256: stands on line 2, for another client",
        "line 6, sha256: must be the SHA-256 of the key in 64 hexadecimal digits, not the key itself",
    ]
    done = terminal("keys", "import", file_of(terminal, *rows), "--json")
    assert (done.code, done.err) == (2, "")
    assert [fault["path"] for fault in done.json["faults"]] == [each.partition(":")[0] for each in told]
    assert snapshot(redis_url) == before


def test_the_faults_that_are_told_are_bounded(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "BATCH", 2)
    monkeypatch.setattr(importing, "MAX_FAULTS", 3)
    told = faulty(terminal("keys", "import", file_of(terminal, *["acme,n,no"] * 9)))
    assert [each.partition(":")[0] for each in told] == [f"line {n}, sha256" for n in (2, 3, 4, 5)] + ["(file)"]


def test_what_is_no_file_is_wrong_use(terminal: Terminal, redis_url: str) -> None:
    before = snapshot(redis_url)
    for words in (["none.csv"], ["."], []):
        done = terminal("keys", "import", *words)
        assert (done.code, done.out) == (2, "")
    (terminal.folder / "bytes.csv").write_bytes(b"client,name,sha256\nacme,\xff,x\n")
    assert "line 2, name: " in terminal("keys", "import", "bytes.csv").err
    assert snapshot(redis_url) == before


def test_a_spreadsheet_s_file_is_read_as_well(terminal: Terminal) -> None:
    text = f"client,name,sha256\r\nacme,one,{digest(ONE)}\r\n"
    (terminal.folder / "keys.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert terminal.good("keys", "import", "keys.csv", "--json").json["new"] == 1


def test_an_import_is_one_entry_of_the_audit_log(terminal: Terminal) -> None:
    file = file_of(terminal, f"acme,one,{digest(ONE)}", f"acme,two,{digest(OTHER)}")
    for _ in range(2):
        terminal.good("keys", "import", file)
    terminal.good("keys", "import", "--dry-run", file)
    entries = [each for each in terminal.good("audit", "--json").json if each["action"] == "key.import"]
    assert [(each["target"], each["details"]) for each in entries] == [("keys.csv", {"new": 2, "present": 0})]


def test_without_a_store_it_can_be_asked_again(terminal: Terminal) -> None:
    file = file_of(terminal, f"acme,one,{digest(ONE)}")
    terminal.environment["QUOTAS_REDIS_URL"] = f"unix://{terminal.folder}/none.sock"
    done = terminal("keys", "import", file)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("store: ")
