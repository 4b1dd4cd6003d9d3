"""`quotas gateway`: a whole file on standard output, or what is wrong with the options."""

from pathlib import Path

import pytest

from .terminal import Terminal

GATEWAYS = ["nginx", "envoy", "caddy", "traefik", "haproxy"]


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """Without a store: none is needed."""
    return Terminal(tmp_path)


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_file_is_printed_and_nothing_else_is_done(terminal: Terminal, name: str) -> None:
    printed = terminal.good("gateway", name).out
    assert f"Printed by `quotas gateway {name}`" in printed
    assert "127.0.0.1:3000" in printed or "port_value: 3000" in printed
    assert "127.0.0.1:8080" in printed or "port_value: 8080" in printed
    assert list(terminal.folder.iterdir()) == []


def test_options_are_in_it(terminal: Terminal) -> None:
    words = ["--upstream", "http://app:81", "--check", "http://[::1]:82", "--listen", "0.0.0.0:83"]
    printed = terminal.good("gateway", "nginx", *words, "--check-timeout-ms", "1000").out
    for line in (
        "server app:81 max_fails=0;",
        "server [::1]:82 max_fails=0;",
        "listen 0.0.0.0:83;",
        "proxy_connect_timeout 400ms;",
        "proxy_read_timeout    1000ms;",
    ):
        assert line in printed


def test_haproxy_is_two_files_that_agree(terminal: Terminal) -> None:
    words = ["gateway", "haproxy", "--listen", "127.0.0.1:8123", "--lua-path", "/srv/quotas.lua"]
    printed, lua = terminal.good(*words).out, terminal.good(*words, "--lua").out
    assert "lua-load-per-thread /srv/quotas.lua" in printed
    assert "bind abns@quotas-check-8123" in printed
    assert 'CHECK = "abns@quotas-check-8123"' in lua


def test_every_fault_is_told_at_once(terminal: Terminal) -> None:
    done = terminal(
        *("gateway", "traefik", "--upstream", "http://user:secret@app", "--check", 'http://a";b', "--listen", "8000"),
        *("--lua-path", "a b", "--lua", "--fail-open"),
    )
    assert (done.code, done.out) == (2, "")
    for option in ("--upstream", "--check", "--listen", "--lua-path", "--lua", "--fail-open"):
        assert f"  {option}: " in done.err
    assert "secret" not in done.err


@pytest.mark.parametrize("words", [["apache"], [], ["nginx", "--check-timeout-ms", "0"]])
def test_wrong_use_is_2(terminal: Terminal, words: list[str]) -> None:
    assert terminal("gateway", *words).code == 2
