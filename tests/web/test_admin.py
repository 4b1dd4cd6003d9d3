"""The admin API: every operation and its refusals, exactly once shown secrets, exact revocation, who did what."""

import asyncio
import hmac
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import quote

import httpx
import pytest

from quotas import admin, audit, problems
from quotas.errors import StoreUnavailableError
from quotas.overrides import Override
from quotas.store import Store

from .administered import TOKENS, Office, office
from .monitor import watched
from .serving import service

PATIENCE_S = 30
NAMES = [
    "a/b",
    "a/limits/per-second",
    "/",
    "//",
    "..",
    ".",
    " ",
    "a ",
    "%2F",
    "%",
    "+",
    "a+b",
    "?",
    "#",
    "a?b#c",
    "caf\u00e9",
    "cafe\u0301",
    "\U0001f98a" * 128,
    "x" * 128,
    '"',
    "\\",
    "clients",
    "-",
]
CLIENT = {"name": "acme", "plan": "slow"}
KEY = {"client": "acme", "name": "production"}


class Server(Protocol):
    """The fixture of conftest.py."""

    url: str

    def stall(self) -> None: ...
    def kill(self) -> None: ...
    def restart(self) -> None: ...


def in_office(redis_url: str, work: Callable[[Office], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S), office(redis_url, **options) as desk:
            await work(desk)
            for answer in desk.answers:
                assert answer.headers["cache-control"] == "no-store"
                if not answer.is_success:
                    assert_problem(answer)

    asyncio.run(run())


def assert_problem(answer: httpx.Response) -> None:
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert {"type", "title", "detail"} <= set(problem)


async def refusal(desk: Office, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
    answer = await desk.ask(method, path, body, **headers)
    return answer.status_code, answer.json()["detail"]


class TestTokens:
    def test_each_token_has_its_name_in_the_log(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            for name, token in TOKENS.items():
                for scheme in ("Bearer", "bearer", "BEARER  "):
                    client = {"name": f"{name} {scheme}", "plan": "free"}
                    await desk.done("POST", "/clients", client, authorization=f"{scheme} {token}")
            assert [actor for actor, _, _ in await desk.audited()] == ["ci"] * 3 + ["ops"] * 3

        in_office(redis_url, work)

    @pytest.mark.parametrize("path", ["/clients", "/clients/acme", "/keys/key_1", "/nothing", "", "/clients/%FF"])
    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
    def test_without_a_token_nothing_is_told(self, redis_url: str, method: str, path: str) -> None:
        token = TOKENS["ops"]
        wrong = [
            "",
            "Bearer",
            "Bearer ",
            "Bearer x",
            f"Basic {token}",
            token,
            f"Bearer {token}x",
            f"Bearer {token[:-1]}",
        ]
        wrong += [f"Bearer {TOKENS['ci']} {token}", f"Bearer {token},", "Bearer \u00e9", "x" * 9000]

        async def work(desk: Office) -> None:
            del desk.http.headers["authorization"]
            answer = await desk.ask(method, path, CLIENT)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Bearer realm="quotas admin"'
            for value in wrong:
                sent = [(b"authorization", value.encode("latin-1"))]
                answer = await desk.http.request(method, admin.PREFIX + path, headers=sent)
                desk.answers.append(answer)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith(
                    'Bearer realm="quotas admin", error="invalid_token"'
                )
                assert token not in answer.text
            assert await desk.store.call("DBSIZE") == 0

        in_office(redis_url, work)

    def test_two_authorizations_are_none(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            value = f"Bearer {TOKENS['ops']}".encode()
            del desk.http.headers["authorization"]
            sent = [(b"authorization", value), (b"authorization", value)]
            answer = await desk.http.get(admin.PREFIX + "/clients", headers=sent)
            assert answer.status_code == 401

        in_office(redis_url, work)

    def test_a_body_is_not_read_before_the_token(self, redis_url: str) -> None:
        read = []

        async def chunks() -> AsyncIterator[bytes]:
            read.append(1)
            yield b"{}"

        async def work(desk: Office) -> None:
            headers = {"authorization": "Bearer x"}
            answer = await desk.http.post(admin.PREFIX + "/clients", content=chunks(), headers=headers)
            assert (answer.status_code, read) == (401, [])

        in_office(redis_url, work)

    @pytest.mark.parametrize("presented", ["one", "two", "three", "none of them", ""])
    def test_every_token_is_compared_whichever_it_is(self, monkeypatch: pytest.MonkeyPatch, presented: str) -> None:
        compared: list[tuple[bytes, bytes]] = []

        def compare(one: bytes, other: bytes) -> bool:
            compared.append((one, other))
            return hmac.compare_digest(one, other)

        monkeypatch.setattr(admin, "compare_digest", compare)
        tokens = admin.AdminTokens({"a": "one", "b": "two", "c": "three"})
        expected = {"one": "a", "two": "b", "three": "c"}.get(presented)
        assert tokens.name_of(presented.encode()) == expected
        assert len(compared) == 3
        assert {len(word) for pair in compared for word in pair} == {32}
        assert "one" not in repr(vars(tokens))

    def test_without_tokens_there_is_no_admin_api(self) -> None:
        assert admin.routes(lambda _: pytest.fail("nobody asks"), {}) == []

    @pytest.mark.parametrize(("port", "status"), [(9000, 200), (8080, 404)])
    def test_on_a_port_of_its_own(self, redis_url: str, port: int, status: int) -> None:
        async def run() -> None:
            async with office(redis_url, port=port) as desk:
                assert (await desk.ask("GET", "/clients")).status_code == status

        asyncio.run(run())


class TestClients:
    def test_create_is_idempotent(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            first, again = await desk.ask("POST", "/clients", CLIENT), await desk.ask("POST", "/clients", CLIENT)
            assert (first.status_code, again.status_code) == (201, 200)
            assert first.json() == again.json() == await desk.done("GET", "/clients/acme")
            assert first.json() | {"id": "", "created_at": ""} == {
                "name": "acme",
                "plan": "slow",
                "status": "active",
                "id": "",
                "created_at": "",
                "limits": {},
            }
            assert re.fullmatch(r"cl_[0-9A-Za-z]{14}", first.json()["id"])
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first.json()["created_at"])
            assert (await refusal(desk, "POST", "/clients", {**CLIENT, "plan": "free"}))[0] == 409
            assert (await refusal(desk, "POST", "/clients", {"name": "new", "plan": "none"}))[0] == 409
            assert await desk.audited() == [("ops", "client.create", "acme")]

        in_office(redis_url, work)

    def test_of_many_who_create_at_once_one_does(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            answers = await asyncio.gather(*(desk.ask("POST", "/clients", CLIENT) for _ in range(20)))
            assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
            assert len({answer.text for answer in answers}) == 1
            assert len(await desk.audited()) == 1

        in_office(redis_url, work)

    def test_change_one_thing_or_both(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            changed = await desk.done("PATCH", "/clients/acme", {"plan": "free"})
            assert (changed["plan"], changed["status"]) == ("free", "active")
            changed = await desk.done("PATCH", "/clients/acme", {"status": "suspended"})
            assert (changed["plan"], changed["status"]) == ("free", "suspended")
            changed = await desk.done("PATCH", "/clients/acme", {"plan": "once", "status": "active"})
            assert (changed["plan"], changed["status"]) == ("once", "active")
            assert changed == await desk.done("GET", "/clients/acme")
            assert [action for _, action, _ in await desk.audited()] == [
                "client.create",
                "client.set_plan",
                "client.suspend",
                "client.set_plan",
                "client.resume",
            ]

        in_office(redis_url, work)

    def test_a_refused_change_changes_nothing(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            before = await desk.done("POST", "/clients", CLIENT)
            assert (await refusal(desk, "PATCH", "/clients/acme", {"plan": "no", "status": "suspended"}))[0] == 409
            assert await desk.done("GET", "/clients/acme") == before
            assert len(await desk.audited()) == 1

        in_office(redis_url, work)

    def test_delete(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            first = await desk.done("POST", "/clients", CLIENT)
            key = await desk.done("POST", "/keys", KEY)
            answer = await desk.ask("DELETE", "/clients/acme")
            assert (answer.status_code, answer.content) == (204, b"")
            assert "content-type" not in answer.headers
            for method, path in (("GET", "/clients/acme"), ("DELETE", "/clients/acme"), ("GET", f"/keys/{key['id']}")):
                assert (await refusal(desk, method, path))[0] == 404
            assert (await desk.done("POST", "/clients", CLIENT))["id"] != first["id"]
            assert (await desk.audited())[2] == ("ops", "client.delete", "acme")

        in_office(redis_url, work)

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("GET", "/clients/nobody", None),
            ("PATCH", "/clients/nobody", {"plan": "free"}),
            ("PATCH", "/clients/nobody", {"status": "suspended"}),
            ("DELETE", "/clients/nobody", None),
            ("GET", f"/clients/{'x' * 129}", None),
            ("GET", "/clients/a%0Ab", None),
            ("DELETE", "/clients/a%00b", None),
            ("GET", "/keys?client=nobody", None),
            ("GET", "/keys/key_none", None),
            ("GET", "/keys/%C3%A9", None),
            ("DELETE", "/keys/key_none", None),
            ("DELETE", "/keys/%C3%A9", None),
            ("POST", "/keys", {"client": "nobody", "name": "n"}),
            ("PUT", "/clients/nobody/limits/per-second", {"burst": 1}),
            ("DELETE", "/clients/nobody/limits/per-second", None),
            ("GET", "/nothing", None),
            ("GET", "", None),
            ("GET", "/", None),
            ("GET", "/clients/", None),
            ("GET", "/clients/acme/", None),
            ("GET", "//clients", None),
            ("DELETE", "/clients//limits/x", None),
        ],
    )
    def test_what_is_not_there(self, redis_url: str, method: str, path: str, body: object) -> None:
        async def work(desk: Office) -> None:
            assert (await refusal(desk, method, path, body))[0] == 404
            assert await desk.audited() == []
            assert await desk.store.call("DBSIZE") == 0

        in_office(redis_url, work)


def encoded(name: str) -> str:
    """A name in a path: a dot alone would be taken for a step by the client."""
    return quote(name, safe="").replace(".", "%2E")


class TestNames:
    def test_every_name_is_found_exactly(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            for name in NAMES:
                await desk.done("POST", "/clients", {"name": name, "plan": "free"})
            for name in NAMES:
                path = f"/clients/{encoded(name)}"
                assert (await desk.done("GET", path))["name"] == name
                assert (await desk.done("PUT", f"{path}/limits/per-second", {"burst": 3}))["name"] == name
                issued = await desk.done("POST", "/keys", {"client": name, "name": "k"})
                listed = await desk.done("GET", f"/keys?client={encoded(name)}")
                assert [key["id"] for key in listed["keys"]] == [issued["id"]]
                assert await desk.ask("DELETE", path)
                assert (await refusal(desk, "GET", path))[0] == 404
            assert (await desk.done("GET", "/clients"))["clients"] == []
            assert {target for _, action, target in await desk.audited() if action == "client.delete"} == set(NAMES)

        in_office(redis_url, work)

    @pytest.mark.parametrize("path", ["/clients/%FF", "/clients/%", "/clients/%zz", "/clients/%ED%A0%80", "/keys/%a"])
    def test_a_path_that_is_no_text_is_refused(self, redis_url: str, path: str) -> None:
        async def run() -> None:
            async with office(redis_url) as desk:
                transport: Any = desk.http._transport  # noqa: SLF001 # httpx would repair the path.
                status = await raw_get(transport.app, (admin.PREFIX + path).encode())
                assert status == 400

        asyncio.run(run())

    @pytest.mark.parametrize("query", ["client=%FF", "client=a&client=a", "client=a&x=1", "", "&".join("abcdefghijkl")])
    def test_a_query_that_is_none_is_refused(self, redis_url: str, query: str) -> None:
        async def work(desk: Office) -> None:
            assert (await refusal(desk, "GET", f"/keys?{query}"))[0] == 400

        in_office(redis_url, work)


async def raw_get(app: Any, path: bytes) -> int:
    """The status of a GET whose path is sent as it is."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": path.decode(),
        "raw_path": path,
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {TOKENS['ops']}".encode())],
    }
    sent: list[Any] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[0]["status"])


class TestPages:
    def test_250_clients_in_pages(self, redis_url: str) -> None:
        names = [f"client {number:03}" for number in range(250)]

        async def work(desk: Office) -> None:
            await asyncio.gather(*(desk.done("POST", "/clients", {"name": name, "plan": "free"}) for name in names))
            for limit in (1, 49, 50, 100, 249, 250, 251, 500):
                if limit == 1:
                    assert await walk(desk, names[:3], limit, "client 003") == names[3:]
                else:
                    assert await walk(desk, [], limit) == names
            assert [client["name"] for client in (await desk.done("GET", "/clients"))["clients"]] == names[:100]

        in_office(redis_url, work)

    def test_a_page_is_stable_while_others_come_and_go(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            for name in ("b", "d", "f", "h"):
                await desk.done("POST", "/clients", {"name": name, "plan": "free"})
            first = await desk.done("GET", "/clients?limit=2")
            await desk.done("POST", "/clients", {"name": "a", "plan": "free"})
            await desk.done("DELETE", "/clients/d")  # The one that the cursor names.
            await desk.done("POST", "/clients", {"name": "e", "plan": "free"})
            second = await desk.done("GET", f"/clients?limit=5&cursor={first['next']}")
            assert [client["name"] for client in first["clients"]] == ["b", "d"]
            assert [client["name"] for client in second["clients"]] == ["e", "f", "h"]
            assert second["next"] is None

        in_office(redis_url, work)

    def test_names_are_in_the_order_of_code_points(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            for name in NAMES:
                await desk.done("POST", "/clients", {"name": name, "plan": "free"})
            assert await walk(desk, [], 2) == sorted(NAMES)

        in_office(redis_url, work)

    @pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=-1", "limit=x", "limit=", "cursor=a%0Ab"])
    @pytest.mark.parametrize("path", ["/clients", "/audit"])
    def test_a_page_that_cannot_be(self, redis_url: str, path: str, query: str) -> None:
        async def work(desk: Office) -> None:
            assert (await refusal(desk, "GET", f"{path}?{query}"))[0] == 400

        in_office(redis_url, work)


async def walk(desk: Office, seen: list[str], limit: int, until: str = "") -> list[str]:
    """The names of all pages of this size, of which those of `seen` come first and are left out."""
    found: list[str] = []
    cursor: str | None = seen[-1] if seen else ""
    while cursor is not None:
        page = await desk.done("GET", f"/clients?limit={limit}&cursor={quote(cursor, safe='')}")
        assert len(page["clients"]) <= limit
        found += [client["name"] for client in page["clients"]]
        cursor = page["next"]
        if until and cursor == until:
            limit = 500
    return found


class TestKeys:
    def test_a_key_is_made_listed_shown_and_revoked(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            asked = {**KEY, "expires_at": "2099-12-31T23:59:59+01:00", "environment": "test", "scopes": ["b", "a"]}
            answer = await desk.ask("POST", "/keys", asked)
            assert answer.status_code == 201
            issued = answer.json()
            secret = issued.pop("key")
            assert issued == await desk.done("GET", f"/keys/{issued['id']}")
            assert issued["shown"] == secret[: len("quotas_test_") + 4]
            assert {name: issued[name] for name in ("client", "name", "environment", "scopes", "expires_at")} == {
                "client": "acme",
                "name": "production",
                "environment": "test",
                "scopes": ["a", "b"],
                "expires_at": "2099-12-31T22:59:59Z",
            }
            other = await desk.done("POST", "/keys", KEY)
            assert (other["environment"], other["scopes"], other["expires_at"]) == ("live", [], None)
            listed = (await desk.done("GET", "/keys?client=acme"))["keys"]
            assert listed[0] == issued
            assert [key["id"] for key in listed] == [issued["id"], other["id"]]
            assert (await desk.ask("DELETE", f"/keys/{issued['id']}")).status_code == 204
            assert (await refusal(desk, "GET", f"/keys/{issued['id']}"))[0] == 404
            assert (await refusal(desk, "DELETE", f"/keys/{issued['id']}"))[0] == 404
            assert [key["id"] for key in (await desk.done("GET", "/keys?client=acme"))["keys"]] == [other["id"]]

        in_office(redis_url, work)

    def test_an_expiry_that_is_over_is_refused(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            asked = {**KEY, "expires_at": "2001-01-01T00:00:00Z"}
            assert (await refusal(desk, "POST", "/keys", asked, idempotency_key="k"))[0] == 409
            assert (await desk.done("GET", "/keys?client=acme"))["keys"] == []
            assert (await desk.ask("POST", "/keys", KEY, idempotency_key="k")).status_code == 201

        in_office(redis_url, work)

    def test_the_secret_is_told_once_and_nowhere_else(self, redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
        """Case C36: all bodies of every operation, the audit log and the service's own log."""
        caplog.set_level(logging.DEBUG)

        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            made = [await desk.done("POST", "/keys", KEY, idempotency_key="k")]
            made.append(await desk.done("POST", "/keys", {**KEY, "name": "other"}))
            await desk.done("POST", "/keys", KEY, idempotency_key="k")
            await desk.done("GET", "/keys?client=acme")
            for key in made:
                await desk.done("GET", f"/keys/{key['id']}")
                await desk.ask("GET", f"/keys/{key['key']}")
                await desk.ask("DELETE", f"/keys/{key['key']}")
                await desk.ask("PATCH", f"/keys/{key['id']}", {"name": "x"})
            await desk.done("GET", "/clients/acme")
            await desk.done("PATCH", "/clients/acme", {"status": "suspended"})
            digests = [key.decode().removeprefix("q1:key:") for key in await desk.store.call("KEYS", "q1:key:*")]
            await desk.done("DELETE", f"/keys/{made[0]['id']}")
            await desk.ask("POST", "/keys", KEY, idempotency_key="k")
            await desk.done("DELETE", "/clients/acme")
            await desk.done("GET", "/audit")
            told = "\n".join(str(answer.headers.raw) + answer.text for answer in desk.answers)
            stream = repr(await desk.store.call("XRANGE", audit.STREAM, "-", "+"))
            logged = "\n".join(record.getMessage() for record in caplog.records if record.name != "httpx")
            for key in made:
                assert told.count(key["key"]) == 1
                body = key["key"].rpartition("_")[2]
                assert told.count(body[5:30]) == 1
                assert body[5:30] not in stream + logged
            assert digests
            for digest in digests:
                assert digest not in told + stream + logged
            assert json.dumps(admin.description()).count("quotas_") == 0

        in_office(redis_url, work)

    def test_revoke_under_a_warm_worker(self, redis_url: str) -> None:
        """Case C11: the next check after the answer is refused, by every worker."""

        async def run() -> None:
            async with office(redis_url) as desk, service(redis_url) as one, service(redis_url) as other:
                await desk.done("POST", "/clients", CLIENT)
                for _ in range(20):
                    key = await desk.done("POST", "/keys", KEY)
                    for worker in (one, other):
                        assert (await worker.check(key["key"])).status_code == 200
                    await desk.done("DELETE", f"/keys/{key['id']}")
                    checks = [worker.check(key["key"]) for worker in (one, other)]
                    assert [check.status_code for check in await asyncio.gather(*checks)] == [401, 401]

        asyncio.run(run())

    def test_suspend_and_delete_under_a_warm_worker(self, redis_url: str) -> None:
        async def run() -> None:
            async with office(redis_url) as desk, service(redis_url) as worker:
                await desk.done("POST", "/clients", CLIENT)
                secret = (await desk.done("POST", "/keys", KEY))["key"]
                steps: list[tuple[str, object, int]] = [
                    ("PATCH", {"status": "suspended"}, 403),
                    ("PATCH", {"status": "active"}, 200),
                    ("DELETE", None, 401),
                ]
                for method, body, status in steps:
                    await desk.done(method, "/clients/acme", body)
                    assert (await worker.check(secret)).status_code == status

        asyncio.run(run())


class TestIdempotencyKey:
    def test_a_repetition_makes_no_second_key(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            first = await desk.ask("POST", "/keys", KEY, idempotency_key="one")
            again = await desk.ask("POST", "/keys", KEY, idempotency_key="one")
            assert (first.status_code, again.status_code) == (201, 200)
            assert again.json() == {name: value for name, value in first.json().items() if name != "key"}
            assert (await refusal(desk, "POST", "/keys", {**KEY, "name": "x"}, idempotency_key="one"))[0] == 409
            assert len((await desk.done("GET", "/keys?client=acme"))["keys"]) == 1
            for number in range(2):
                assert (await desk.ask("POST", "/keys", KEY, idempotency_key=f"n{number}")).status_code == 201
                assert (await desk.ask("POST", "/keys", KEY)).status_code == 201
            await desk.done("DELETE", f"/keys/{first.json()['id']}")
            assert (await refusal(desk, "POST", "/keys", KEY, idempotency_key="one"))[0] == 409
            assert [action for _, action, _ in await desk.audited()].count("key.create") == 5
            for receipt in await desk.store.call("KEYS", "q1:receipt:*"):
                assert 0 < await desk.store.call("PTTL", receipt) <= 86_400_000

        in_office(redis_url, work)

    def test_tokens_do_not_share_them(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            for token in TOKENS.values():
                headers = {"idempotency_key": "one", "authorization": f"Bearer {token}"}
                assert (await desk.ask("POST", "/keys", KEY, **headers)).status_code == 201

        in_office(redis_url, work)

    def test_of_many_at_once_one_makes_a_key(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            asked = [desk.ask("POST", "/keys", KEY, idempotency_key="one") for _ in range(20)]
            statuses = [answer.status_code for answer in await asyncio.gather(*asked)]
            assert statuses.count(201) == 1
            assert set(statuses) <= {200, 201, 409}
            assert len((await desk.done("GET", "/keys?client=acme"))["keys"]) == 1

        in_office(redis_url, work)

    def test_after_one_that_made_nothing_it_can_be_asked_again(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            assert (await refusal(desk, "POST", "/keys", KEY, idempotency_key="one"))[0] == 404
            await desk.done("POST", "/clients", CLIENT)
            assert (await desk.ask("POST", "/keys", KEY, idempotency_key="one")).status_code == 201

        in_office(redis_url, work)

    def test_after_one_that_broke_off_no_second_key_is_made(
        self, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            with failing(monkeypatch, "HSET"):
                assert (await refusal(desk, "POST", "/keys", KEY, idempotency_key="one"))[0] == 503
            status, detail = await refusal(desk, "POST", "/keys", KEY, idempotency_key="one")
            assert status == 409
            assert "broke off" in detail

        in_office(redis_url, work)

    def test_a_key_whose_receipt_is_lost_is_still_told(self, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            with failing(monkeypatch, "SET", "XX"):
                assert "key" in await desk.done("POST", "/keys", KEY, idempotency_key="one")
            assert (await refusal(desk, "POST", "/keys", KEY, idempotency_key="one"))[0] == 409

        in_office(redis_url, work)

    @pytest.mark.parametrize("sent", [[""], ["x" * 257], ["a", "a"]])
    def test_one_that_is_none_is_refused(self, redis_url: str, sent: list[str]) -> None:
        async def work(desk: Office) -> None:
            headers = [("idempotency-key", value) for value in sent]
            answer = await desk.http.post(admin.PREFIX + "/keys", json=KEY, headers=headers)
            assert answer.status_code == 400

        in_office(redis_url, work)


class failing:  # noqa: N801 # Used as a context manager.
    """The store does not answer commands that begin with `name` and hold all `words`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, *words: str) -> None:
        self._patch = monkeypatch
        self._name, self._words = name, set(words)

    def __enter__(self) -> None:
        call = Store.call

        async def failing_call(store: Store, *words: bytes | str | int) -> Any:
            if words[0] == self._name and self._words <= set(words):
                raise StoreUnavailableError("lost", "made up")
            return await call(store, *words)

        self._context = self._patch.context()
        self._context.__enter__().setattr(Store, "call", failing_call)

    def __exit__(self, *_: object) -> None:
        self._context.__exit__(None, None, None)


class TestLimits:
    def test_a_limit_of_its_own_holds_for_the_next_check(self, redis_url: str) -> None:
        async def run() -> None:
            async with office(redis_url) as desk, service(redis_url) as worker:
                await desk.done("POST", "/clients", CLIENT)
                secret = (await desk.done("POST", "/keys", KEY))["key"]
                assert "q=100;" in (await worker.check(secret)).headers["ratelimit-policy"]
                asked = {"burst": 7, "until": "2099-01-01T00:00:00Z"}
                client = await desk.done("PUT", "/clients/acme/limits/hourly", asked)
                assert client["limits"] == {"hourly": asked}
                assert client == await desk.done("GET", "/clients/acme")
                assert "q=7;" in (await worker.check(secret)).headers["ratelimit-policy"]
                client = await desk.done("PUT", "/clients/acme/limits/hourly", {"rate": "3/minute"})
                assert client["limits"] == {"hourly": {"rate": "3/minute"}}
                assert (await desk.ask("DELETE", "/clients/acme/limits/hourly")).status_code == 204
                assert (await desk.done("GET", "/clients/acme"))["limits"] == {}
                assert "q=100;" in (await worker.check(secret)).headers["ratelimit-policy"]
                assert (await refusal(desk, "DELETE", "/clients/acme/limits/hourly"))[0] == 404
                assert [action for _, action, _ in await desk.audited()][2:] == [
                    "limit.set",
                    "limit.set",
                    "limit.unset",
                ]
                entries = (await desk.done("GET", "/audit"))["entries"]
                assert entries[2]["details"] == {"limit": "hourly", **asked}

        asyncio.run(run())

    @pytest.mark.parametrize(
        ("limit", "body", "status"),
        [
            ("none", {"burst": 1}, 409),
            ("hourly", {"quota": "5/day"}, 409),
            ("hourly", {"burst": 5, "until": "2001-01-01T00:00:00Z"}, 409),
            ("hourly", {"burst": 2**53}, 409),
            ("hourly", {"burst": 10**400}, 409),
            ("hourly", {}, 400),
            ("hourly", {"until": "2099-01-01T00:00:00Z"}, 400),
            ("hourly", {"burst": 0}, 400),
            ("hourly", {"burst": "5"}, 400),
            ("hourly", {"rate": "often"}, 400),
            ("hourly", {"rate": "1" + "_" * 9000 + "/second"}, 400),
            ("hourly", {"until_us": 5, "burst": 1}, 400),
        ],
    )
    def test_what_no_limit_can_be(self, redis_url: str, limit: str, body: object, status: int) -> None:
        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            assert (await refusal(desk, "PUT", f"/clients/acme/limits/{limit}", body))[0] == status
            assert (await desk.done("GET", "/clients/acme"))["limits"] == {}
            assert len(await desk.audited()) == 1

        in_office(redis_url, work)

    def test_a_body_says_all_that_an_override_can(self) -> None:
        fields = set(Override.model_fields) - {"until_us"}
        schema = admin.description()["components"]["schemas"]["LimitChange"]
        assert set(schema["properties"]) == fields | {"until"}


MALFORMED: dict[str, tuple[str, str, bytes, list[str]]] = {
    "no JSON": ("POST", "/clients", b"{", ["(body)"]),
    "nothing": ("POST", "/clients", b"", ["(body)"]),
    "no object": ("POST", "/clients", b"[]", ["(body)"]),
    "null": ("POST", "/clients", b"null", ["(body)"]),
    "no UTF-8": ("POST", "/clients", b'{"name": "\xff", "plan": "free"}', ["(body)"]),
    "half a character": ("POST", "/clients", b'{"name": "\\ud800", "plan": "free"}', ["(body)"]),
    "all missing": ("POST", "/clients", b"{}", ["name", "plan"]),
    "a number": ("POST", "/clients", b'{"name": 1, "plan": "free"}', ["name"]),
    "unknown field": ("POST", "/clients", b'{"name": "a", "plan": "free", "x": 1}', ["x"]),
    "empty name": ("POST", "/clients", b'{"name": "", "plan": "free"}', ["name"]),
    "long name": ("POST", "/clients", json.dumps({"name": "x" * 129, "plan": "free"}).encode(), ["name"]),
    "unprintable name": ("POST", "/clients", b'{"name": "a\\nb", "plan": "free"}', ["name"]),
    "long plan": ("POST", "/clients", json.dumps({"name": "a", "plan": "x" * 65}).encode(), ["plan"]),
    "no change": ("PATCH", "/clients/acme", b"{}", ["(body)"]),
    "no change but null": ("PATCH", "/clients/acme", b'{"plan": null}', ["(body)"]),
    "no status": ("PATCH", "/clients/acme", b'{"status": "asleep"}', ["status"]),
    "no instant": ("POST", "/keys", b'{"client": "a", "name": "n", "expires_at": "tomorrow"}', ["expires_at"]),
    "no time zone": (
        "POST",
        "/keys",
        b'{"client": "a", "name": "n", "expires_at": "2099-01-01T00:00:00"}',
        ["expires_at"],
    ),
    "no text": ("POST", "/keys", b'{"client": "a", "name": "n", "expires_at": 4070908800}', ["expires_at"]),
    "no environment": ("POST", "/keys", b'{"client": "a", "name": "n", "environment": "prod"}', ["environment"]),
    "no scope": ("POST", "/keys", b'{"client": "a", "name": "n", "scopes": ["a b"]}', ["scopes"]),
    "scopes as text": ("POST", "/keys", b'{"client": "a", "name": "n", "scopes": "a b"}', ["scopes"]),
    "unprintable key name": ("POST", "/keys", b'{"client": "a", "name": "\\u0000"}', ["name"]),
    "long key name": ("POST", "/keys", json.dumps({"client": "a", "name": "n" * 129}).encode(), ["name"]),
    "deep": ("POST", "/clients", b'{"name": ' + b"[" * 8000, ["(body)"]),
}


class TestBodies:
    @pytest.mark.parametrize("case", MALFORMED)
    def test_a_fault_is_told_with_its_path(self, redis_url: str, case: str) -> None:
        method, path, content, places = MALFORMED[case]

        async def work(desk: Office) -> None:
            answer = await desk.http.request(method, admin.PREFIX + path, content=content)
            desk.answers.append(answer)
            assert answer.status_code == 400
            faults = answer.json()["faults"]
            assert [fault["path"] for fault in faults] == places
            assert all(fault["message"] and fault["message"].isprintable() for fault in faults)
            assert await desk.store.call("DBSIZE") == 0

        in_office(redis_url, work)

    def test_faults_are_told_within_bounds(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            body = {f"{number}{'x' * 10}": 1 for number in range(500)} | {"y" * 5000: 1}
            answer = await desk.ask("POST", "/clients", body)
            assert answer.status_code == 400
            assert len(answer.json()["faults"]) == problems.MAX_FAULTS
            answer = await desk.ask("POST", "/clients", {**CLIENT, "\n" + "y" * 5000: 1})
            assert len(answer.content) < 4000

        in_office(redis_url, work)

    @pytest.mark.parametrize(("size", "status"), [(problems.MAX_BODY, 201), (problems.MAX_BODY + 1, 413), (10**6, 413)])
    def test_a_body_has_at_most_16_kilobytes(self, redis_url: str, size: int, status: int) -> None:
        async def work(desk: Office) -> None:
            content = json.dumps(CLIENT).encode().ljust(size)
            answer = await desk.http.post(admin.PREFIX + "/clients", content=content)
            assert answer.status_code == status

        in_office(redis_url, work)

    @pytest.mark.parametrize(
        ("media_type", "status"),
        [
            ("application/json", 201),
            ("Application/JSON; charset=utf-8", 201),
            (None, 201),
            ("application/x-www-form-urlencoded", 415),
            ("text/plain", 415),
            ("", 415),
        ],
    )
    def test_a_body_is_json(self, redis_url: str, media_type: str | None, status: int) -> None:
        async def work(desk: Office) -> None:
            headers = {} if media_type is None else {"content-type": media_type}
            content = json.dumps(CLIENT).encode()
            answer = await desk.http.post(admin.PREFIX + "/clients", content=content, headers=headers)
            assert answer.status_code == status

        in_office(redis_url, work)


class TestMethods:
    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("PUT", "/clients", "GET, POST"),
            ("POST", "/clients/acme", "DELETE, GET, PATCH"),
            ("GET", "/clients/acme/limits/x", "DELETE, PUT"),
            ("PATCH", "/keys/key_1", "DELETE, GET"),
            ("DELETE", "/audit", "GET"),
            ("OPTIONS", "/audit", "GET"),
        ],
    )
    def test_another_method_is_told_those_there_are(self, redis_url: str, method: str, path: str, allowed: str) -> None:
        async def work(desk: Office) -> None:
            answer = await desk.ask(method, path, {})
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed)

        in_office(redis_url, work)

    def test_head_is_get(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            assert (await desk.ask("HEAD", "/clients")).status_code == 200

        in_office(redis_url, work)


class TestAudit:
    def test_pages(self, redis_url: str) -> None:
        async def work(desk: Office) -> None:
            for number in range(7):
                await desk.done("POST", "/clients", {"name": str(number), "plan": "free"})
            found: list[str] = []
            path = "/audit?limit=3"
            while True:
                page = await desk.done("GET", path)
                found += [entry["target"] for entry in page["entries"]]
                if page["next"] is None:
                    break
                path = f"/audit?limit=3&before={page['next']}"
            assert found == ["6", "5", "4", "3", "2", "1", "0"]
            entry = (await desk.done("GET", "/audit?limit=1"))["entries"][0]
            assert set(entry) == {"id", "at", "actor", "action", "target", "details"}
            assert set(entry["details"]) == {"id", "plan"}

        in_office(redis_url, work)

    @pytest.mark.parametrize("before", ["x", "1", "-", "%2B", f"{2**64}-0", "(1-0", "1-0%0A"])
    def test_before_is_an_entry(self, redis_url: str, before: str) -> None:
        async def work(desk: Office) -> None:
            answer = await desk.ask("GET", f"/audit?before={before}")
            assert answer.status_code == 400
            assert answer.json()["faults"][0]["path"] == "before"

        in_office(redis_url, work)

    def test_a_change_stands_when_it_cannot_be_audited(
        self, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            with failing(monkeypatch, "XADD", audit.STREAM):
                key = await desk.done("POST", "/keys", KEY)
                assert (await desk.ask("DELETE", f"/keys/{key['id']}")).status_code == 204
            assert (await desk.done("GET", "/keys?client=acme"))["keys"] == []
            assert [action for _, action, _ in await desk.audited()] == ["client.create"]
            said = [record.getMessage() for record in caplog.records if record.name == audit.__name__]
            assert len(said) == 2
            assert key["id"] in said[1]
            assert "ops" in said[1]
            assert key["key"] not in "".join(said)

        in_office(redis_url, work)

    def test_half_a_change_is_audited(self, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The plan was changed, and then the store went away."""

        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            run = Store.run
            runs = 0

            async def once(store: Store, *words: Any) -> Any:
                nonlocal runs
                runs += 1
                if runs > 1:
                    raise StoreUnavailableError("lost", "made up")
                return await run(store, *words)

            with monkeypatch.context() as patch:
                patch.setattr(Store, "run", once)
                body = {"plan": "free", "status": "suspended"}
                assert (await refusal(desk, "PATCH", "/clients/acme", body))[0] == 503
            assert [action for _, action, _ in await desk.audited()] == ["client.create", "client.set_plan"]

        in_office(redis_url, work)


OPERATIONS: Mapping[str, tuple[str, str, object]] = {
    "create client": ("POST", "/clients", CLIENT),
    "list clients": ("GET", "/clients", None),
    "show client": ("GET", "/clients/acme", None),
    "change client": ("PATCH", "/clients/acme", {"plan": "free"}),
    "delete client": ("DELETE", "/clients/acme", None),
    "set limit": ("PUT", "/clients/acme/limits/hourly", {"burst": 5}),
    "unset limit": ("DELETE", "/clients/acme/limits/hourly", None),
    "create key": ("POST", "/keys", KEY),
    "list keys": ("GET", "/keys?client=acme", None),
    "show key": ("GET", "/keys/key_1", None),
    "rotate key": ("POST", "/keys/key_1/rotate", {"grace_seconds": 60}),
    "revoke key": ("DELETE", "/keys/key_1", None),
    "add alias": ("POST", "/clients/acme/aliases", {"issuer": "https://id.example.com", "subject": "ada"}),
    "list aliases": ("GET", "/clients/acme/aliases", None),
    "remove alias": ("DELETE", "/clients/acme/aliases/abc", None),
    "revoke tokens": ("POST", "/revocations", {"issued_before": "2026-01-01T00:00:00Z"}),
    "list revocations": ("GET", "/revocations", None),
    "restore tokens": ("DELETE", "/revocations/rev_1", None),
    "show usage": ("GET", "/usage", None),
    "list entries": ("GET", "/audit", None),
}


class TestOutage:
    @pytest.mark.parametrize("case", OPERATIONS)
    def test_without_a_store_nothing_is_done(self, tmp_path: object, case: str) -> None:
        async def work(desk: Office) -> None:
            answer = await desk.ask(*OPERATIONS[case])
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1

        in_office(f"unix://{tmp_path}/none.sock", work)

    def test_every_operation_is_tried_without_a_store(self) -> None:
        described = {
            (method.upper(), path) for path, methods in admin.description()["paths"].items() for method in methods
        }
        assert len(OPERATIONS) == len(described)

    def test_a_revocation_that_the_store_cannot_take_is_no_success(self, server: Server) -> None:
        """Case C11: it is 503, and once the store is back it can be asked again."""

        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            key = await desk.done("POST", "/keys", KEY)
            path = f"/keys/{key['id']}"
            assert (await desk.ask("GET", path)).status_code == 200
            server.kill()
            assert (await refusal(desk, "DELETE", path))[0] == 503
            server.restart()
            async with service(server.url) as worker:
                while (await desk.ask("GET", path)).status_code == 503:
                    await asyncio.sleep(0.01)
                assert (await worker.check(key["key"])).status_code == 200
                assert (await desk.ask("DELETE", path)).status_code == 204
                assert (await worker.check(key["key"])).status_code == 401

        in_office(server.url, work)

    def test_a_store_that_stands_still_is_not_waited_for(
        self, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(admin, "TIMEOUT_S", 0.1)

        async def work(desk: Office) -> None:
            await desk.ask("GET", "/clients")
            server.stall()
            status, detail = await refusal(desk, "DELETE", "/keys/key_1")
            assert status == 503
            assert "asked again" in detail
            assert "DELETE /keys/{id} by ops" in caplog.text

        in_office(server.url, work)

    def test_a_revocation_that_broke_off_can_be_finished(self, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The key's record is gone, its client's generation was not raised."""

        async def work(desk: Office) -> None:
            await desk.done("POST", "/clients", CLIENT)
            key = await desk.done("POST", "/keys", KEY)
            run = Store.run

            async def lost(*_: Any) -> Any:
                raise StoreUnavailableError("lost", "made up")

            with monkeypatch.context() as patch:
                patch.setattr(Store, "run", lost)
                assert (await refusal(desk, "DELETE", f"/keys/{key['id']}"))[0] == 503
            assert Store.run is run
            assert (await refusal(desk, "GET", f"/keys/{key['id']}"))[0] == 404
            assert (await desk.ask("DELETE", f"/keys/{key['id']}")).status_code == 204
            assert await desk.store.call("HLEN", "q1:keys") == 0

        in_office(redis_url, work)

    def test_a_caller_who_leaves_is_nobodys_fault(self, redis_url: str) -> None:
        async def run() -> None:
            async with office(redis_url) as desk:
                transport: Any = desk.http._transport  # noqa: SLF001 # The application itself.
                token = f"Bearer {TOKENS['ops']}".encode()
                scope = {
                    "type": "http",
                    "method": "POST",
                    "path": admin.PREFIX + "/clients",
                    "query_string": b"",
                    "headers": [(b"authorization", token)],
                }

                async def receive() -> dict[str, str]:
                    return {"type": "http.disconnect"}

                async def send(_: Any) -> None:
                    pytest.fail("nobody is there")

                await transport.app(scope, receive, send)
                assert await desk.store.call("DBSIZE") == 0

        asyncio.run(run())


class TestDescription:
    def test_it_has_every_operation_and_what_it_refers_to(self) -> None:
        described = admin.description()
        assert set(described["paths"]) == {
            "/admin/v1/clients",
            "/admin/v1/clients/{name}",
            "/admin/v1/clients/{name}/limits/{limit}",
            "/admin/v1/keys",
            "/admin/v1/keys/{id}",
            "/admin/v1/keys/{id}/rotate",
            "/admin/v1/clients/{name}/aliases",
            "/admin/v1/clients/{name}/aliases/{id}",
            "/admin/v1/revocations",
            "/admin/v1/revocations/{id}",
            "/admin/v1/usage",
            "/admin/v1/audit",
        }
        schemas = described["components"]["schemas"]
        for reference in references(described):
            assert reference.removeprefix("#/components/schemas/") in schemas
        for operation in operations(described):
            assert operation["summary"].endswith(".")
            assert {"401", "503"} <= set(operation["responses"])
            assert operation["security"] == [{"adminToken": []}]
        assert json.loads(json.dumps(described)) == described

    def test_only_a_new_key_has_a_key(self) -> None:
        schemas = admin.description()["components"]["schemas"]
        assert [name for name, schema in schemas.items() if "key" in schema.get("properties", {})] == ["IssuedKeyBody"]

    def test_instants_are_text(self) -> None:
        expires_at = admin.description()["components"]["schemas"]["NewKey"]["properties"]["expires_at"]
        assert {"type": "string", "format": "date-time"} in expires_at["anyOf"]

    def test_pages_have_parameters(self) -> None:
        parameters = admin.description()["paths"]["/admin/v1/clients"]["get"]["parameters"]
        assert [(each["name"], each["in"], each["required"]) for each in parameters] == [
            ("cursor", "query", False),
            ("limit", "query", False),
        ]
        assert parameters[1]["schema"]["maximum"] == 500


def operations(described: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for methods in described["paths"].values():
        yield from methods.values()


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_what_a_call_asks_the_store_is_bounded(redis_url: str) -> None:
    """A page of five of fifty clients: the index, and five records."""

    async def run() -> None:
        async with office(redis_url) as desk:
            for number in range(50):
                await desk.done("POST", "/clients", {"name": str(number), "plan": "free"})
            async with watched(redis_url) as commands:
                await desk.done("GET", "/clients?limit=5")
            assert len(commands) == 1 + 2 * 5

    asyncio.run(run())


def test_the_document_is_served_to_who_has_a_token(redis_url: str) -> None:
    async def work() -> None:
        async with office(redis_url) as desk:
            path = "/admin/v1/openapi.json"
            served = await desk.http.get(path, headers={"authorization": f"Bearer {next(iter(TOKENS.values()))}"})
            assert (served.status_code, served.headers["cache-control"]) == (200, "no-store")
            assert served.json()["openapi"] == "3.1.0"
            assert served.json()["paths"] == json.loads(json.dumps(admin.description()["paths"]))
            assert (await desk.http.get(path, headers={"authorization": "Bearer junk"})).status_code == 401

    asyncio.run(work())


def test_a_rotation_shows_the_new_key_once_and_is_audited(redis_url: str) -> None:
    async def work() -> None:
        async with office(redis_url) as desk:
            await desk.http.post("/admin/v1/clients", json={"name": "acme", "plan": "free"})
            made = (await desk.http.post("/admin/v1/keys", json={"client": "acme", "name": "build"})).json()
            rotated = await desk.http.post(f"/admin/v1/keys/{made['id']}/rotate", json={"grace_seconds": 60})
            assert rotated.status_code == 201
            assert rotated.json()["client"] == "acme"
            assert rotated.json()["key"] != made["key"]
            old = (await desk.http.get(f"/admin/v1/keys/{made['id']}")).json()
            assert old["expires_at"] is not None
            entries = (await desk.http.get("/admin/v1/audit")).text
            assert "key.rotate" in entries
            assert rotated.json()["key"] not in entries
            for refused, status in (({"grace_seconds": -1}, 400), ({}, 400)):
                answer = await desk.http.post(f"/admin/v1/keys/{made['id']}/rotate", json=refused)
                assert answer.status_code == status
            answer = await desk.http.post("/admin/v1/keys/key_none/rotate", json={"grace_seconds": 0})
            assert answer.status_code == 404

    asyncio.run(work())
