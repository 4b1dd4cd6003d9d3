"""Printed configurations: what may get into one, and what is in each."""

import re
from itertools import product
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from quotas import gateway
from quotas.answers import Answer, Reason
from quotas.faces import NGINX
from quotas.gateway import Address, Gateway, Options
from quotas.rendering import check_response

OPTIONS = Options(Address("app.example", 3001), Address("quotas.example", 8081), Address("0.0.0.0", 8001))
SYNTAX = set("\"'`{}[]()<>;#$%&|\\^~*?!=, \t\r\n\0")


def printed(
    name: Gateway, *, fail_open: bool = False, hide_credentials: bool = False, credential_header: str = ""
) -> str:
    options = Options(
        OPTIONS.upstream,
        OPTIONS.check,
        OPTIONS.listen,
        fail_open=fail_open,
        hide_credentials=hide_credentials,
        credential_header=credential_header,
        credential_cookie=credential_header != "",
    )
    text = gateway.render(name, options)
    return text + gateway.render_lua(options) if name is Gateway.HAPROXY else text


def variants() -> list[tuple[Gateway, bool, bool]]:
    every = product(Gateway, (False, True), (False, True))
    return [each for each in every if each[:2] != (Gateway.TRAEFIK, True)]


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("http://127.0.0.1:8080", Address("127.0.0.1", 8080)),
            ("http://quotas", Address("quotas", 80)),
            ("http://localhost:3000", Address("127.0.0.1", 3000)),
            ("http://my_app.svc.cluster.local:1/", Address("my_app.svc.cluster.local", 1)),
            ("http://[::1]:65535", Address("::1", 65_535)),
            ("http://[2001:DB8:0::1]", Address("2001:db8::1", 80)),
        ],
    )
    def test_a_url_is_a_host_and_a_port(self, text: str, address: Address) -> None:
        assert gateway.url(text) == address
        assert gateway.url(f"http://{address}") == address

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "127.0.0.1:8080",
            "https://quotas",
            "ftp://quotas",
            "HTTP://quotas",
            "http://",
            "http://:8080",
            "http://quotas:",
            "http://quotas:0",
            "http://quotas:65536",
            "http://quotas:8o",
            "http://quotas:٣",
            "http://quotas/path",
            "http://quotas?a",
            "http://quotas#a",
            "http://user:secret@quotas",
            "http://user@quotas",
            "http://::1:80",
            "http://[::1",
            "http://[::1%25eth0]:80",
            "http://[quotas]:80",
            "http://-quotas",
            "http://quötas",
            *(f"http://quo{char}tas:80" for char in sorted(SYNTAX)),
            *(f"http://quotas:80{char}" for char in sorted(SYNTAX)),
        ],
    )
    def test_anything_else_is_refused_without_being_repeated(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"^must be http://HOST or http://HOST:PORT") as caught:
            gateway.url(text)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("text", ["0.0.0.0:8000", "[::]:8000", "127.0.0.1:1"])
    def test_a_listener_is_an_ip_address_and_a_port(self, text: str) -> None:
        assert str(gateway.listener(text)) == text

    @pytest.mark.parametrize(
        "text", ["", ":8000", "0.0.0.0", "localhost:80", "[::]", "::", "::1:80", "1.2.3:80", "*:80"]
    )
    def test_and_nothing_else(self, text: str) -> None:
        with pytest.raises(ValueError, match="must be an IP address and a port"):
            gateway.listener(text)

    @given(st.text(max_size=40))
    def test_nothing_that_a_configuration_could_understand_gets_through(self, text: str) -> None:
        readers = ((gateway.url, f"http://{text}"), (gateway.url, text), (gateway.listener, text))
        for reader, given_text in readers:
            try:
                address = reader(given_text)
            except ValueError:
                continue
            assert not SYNTAX & set(address.host)
            assert 1 <= address.port <= 65_535

    @pytest.mark.parametrize("text", ["", "a b", "/a\nb", '/a"b', "/a$b", "/a\\b", "/a;b", "/a#b", "/" * 1025])
    def test_a_path_is_plain(self, text: str) -> None:
        with pytest.raises(ValueError, match="must be a path"):
            gateway.lua_path(text)
        assert gateway.lua_path("/etc/haproxy/lua-5.3/quotas_1.lua") == "/etc/haproxy/lua-5.3/quotas_1.lua"

    @pytest.mark.parametrize("text", ["X_Acme", "X;", 'X "', "a b", "X-Ä", "Cookie", "X-Quotas-Client", "-" * 65])
    def test_a_header_that_gateways_drop_or_that_means_something_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"must be letters|means something else|has 1 to 64 letters"):
            gateway.credential_header(text)

    def test_a_header_of_ones_own_is_taken(self) -> None:
        assert gateway.credential_header("X-Acme-Key") == "X-Acme-Key"
        assert gateway.credential_header("") == ""


class TestEveryFile:
    @pytest.mark.parametrize(("name", "fail_open", "hide_credentials"), variants())
    def test_is_whole(self, name: Gateway, fail_open: bool, hide_credentials: bool) -> None:  # noqa: FBT001 # A table.
        text = printed(name, fail_open=fail_open, hide_credentials=hide_credentials)
        assert not re.search(r"<<|>>|^\s*%%", text, re.MULTILINE)
        assert "app.example" in text
        assert "quotas.example" in text
        assert "8001" in text
        assert ("--fail-open" in text) == fail_open

    @pytest.mark.parametrize("name", list(Gateway))
    def test_hands_on_the_further_places_of_the_plan_file(self, name: Gateway) -> None:
        text = printed(name, credential_header="X-Acme-Key", hide_credentials=True).lower()
        assert "x-acme-key" in text
        assert "x-acme-key" not in printed(name).lower()
        handed_on = "-cookie" if name is Gateway.CADDY else "cookie"  # Caddy hands everything on, and then but that.
        assert (handed_on in text) != (handed_on in printed(name).lower())

    @pytest.mark.parametrize("name", list(Gateway))
    def test_knows_whom_the_service_names(self, name: Gateway) -> None:
        """A header that is added to every answer has to be handed on, and kept from clients, here as well."""
        answered = [field.decode() for field, _ in check_response(Answer(None, degraded=True)).headers]
        identity = [field for field in answered if field.startswith("x-quotas-")]
        assert len(identity) >= 4
        text = printed(name).lower()
        for field in identity:
            assert field in text or "prefix: x-quotas-" in text, field

    @pytest.mark.parametrize("name", [each for each in Gateway if each is not Gateway.TRAEFIK])
    def test_knows_what_a_client_is_told(self, name: Gateway) -> None:
        text = printed(name).lower()
        for field in ("retry-after", "ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-quotas-degraded"):
            assert field in text or ("prefix: x-ratelimit-" in text and field.startswith("x-ratelimit-")), field

    def test_nginx_reads_what_its_face_says(self) -> None:
        answer = check_response(Answer(Reason.STORE_UNAVAILABLE), NGINX)
        text = printed(Gateway.NGINX)
        for field, _ in answer.headers:
            if field not in {b"cache-control", b"content-length"}:
                assert "$upstream_http_" + field.decode().replace("-", "_") in text


class TestTraefik:
    """There is no Traefik to run here, so this is what its documentation asks of such a file."""

    def parsed(self, *, hide_credentials: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(printed(Gateway.TRAEFIK, hide_credentials=hide_credentials))
        return found["http"]  # type: ignore[no-any-return] # A mapping, or what follows fails.

    @pytest.mark.parametrize("hide_credentials", [False, True])
    def test_everything_that_is_named_is_there(self, hide_credentials: bool) -> None:  # noqa: FBT001 # A table.
        http = self.parsed(hide_credentials=hide_credentials)
        (router,) = http["routers"].values()
        assert router["entryPoints"] == ["web"]
        assert router["rule"] == "PathPrefix(`/`)"
        assert router["middlewares"] == list(http["middlewares"]), "each is used, in the order of the file"
        assert [router["service"]] == list(http["services"])

    def test_the_check_is_asked_with_what_it_is_about(self) -> None:
        check = self.parsed()["middlewares"]["quotas-check"]["forwardAuth"]
        assert check["address"] == "http://quotas.example:8081/check"
        assert check["trustForwardHeader"] is False
        assert "X-Quotas-Cost" not in check["authRequestHeaders"]
        assert {"Authorization", "X-API-Key"} < set(check["authRequestHeaders"])
        assert {"X-Quotas-Client", "X-Quotas-Plan", "X-Quotas-Subject"} < set(check["authResponseHeaders"])

    def test_forged_headers_are_removed_first(self) -> None:
        first, *_ = self.parsed()["middlewares"].values()
        removed = first["headers"]["customRequestHeaders"]
        assert set(removed.values()) == {""}
        assert {"X-Quotas-Client", "X-Quotas-Plan", "X-Quotas-Subject", "X-Quotas-Cost"} < set(removed)

    def test_credentials_are_removed_last(self) -> None:
        *_, last = self.parsed(hide_credentials=True)["middlewares"].values()
        assert last == {"headers": {"customRequestHeaders": {"Authorization": "", "X-API-Key": ""}}}
        (service,) = self.parsed()["services"].values()
        assert service["loadBalancer"]["servers"] == [{"url": "http://app.example:3001"}]
