"""The three faces over one core: what each reads, and how each is answered."""

import asyncio
from dataclasses import dataclass

import httpx
import pytest

from .conftest import Server
from .serving import service
from .timed import SECOND_US, left, noon, timed, us

PLANS = """
plans:
  plan:
    limits:
      all: {quota: 100/day}
      search: {quota: 50/day, match: {methods: [GET], path: /search/*}}
    costs:
      - {path: /dear, methods: [POST], cost: 10}
  single:
    limits:
      one: {rate: 1/hour, burst: 1}
  none:
    limits:
      nothing: {quota: 0/day}
"""


@dataclass(frozen=True)
class Ask:
    """How a gateway asks through one face; `statuses` are what it is told for 400 and 429."""

    face: str
    statuses: dict[int, int]

    async def __call__(
        self, http: httpx.AsyncClient, method: str, target: str, headers: dict[str, str]
    ) -> httpx.Response:
        if self.face == "envoy":
            return await http.request(method, "/check/envoy" + target, headers=headers)
        prefix, path = ("x-original", "/check/nginx") if self.face == "nginx" else ("x-forwarded", "/check")
        carried = {f"{prefix}-method": method, f"{prefix}-uri": target}
        return await http.get(path, headers={**headers, **carried})


NATIVE = Ask("native", {400: 400, 429: 429})
NGINX = Ask("nginx", {400: 403, 429: 403})
ENVOY = Ask("envoy", {400: 400, 429: 429})
faces = pytest.mark.parametrize("ask", [NATIVE, NGINX, ENVOY], ids=lambda ask: ask.face)


def well_formed(ask: Ask, response: httpx.Response, status: int) -> None:
    """An answer of this face that means this status."""
    names = [name for name, _ in response.headers.multi_items()]
    assert len(names) == len(set(names))
    assert response.headers["cache-control"] == "no-store"
    assert {"x-quotas-client", "x-quotas-plan", "x-quotas-subject"} <= set(names)
    assert response.status_code == ask.statuses.get(status, status)
    assert int(response.headers["content-length"]) == len(response.content)
    if ask is NGINX or status == 200:
        assert response.content == b""
        assert "content-type" not in response.headers
    else:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == status
    assert response.headers.get("x-quotas-status") == (str(status) if ask is NGINX and status != 200 else None)
    assert ("retry-after" in response.headers) == (status in {429, 503})
    assert ("www-authenticate" in response.headers) == (status == 401)


@faces
class TestEveryFace:
    def test_a_check_is_charged_by_the_carried_method_and_path(self, redis_url: str, ask: Ask) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                key = {"x-api-key": await worker.key()}
                seen = []
                for method, target in [
                    ("GET", "/"),
                    ("POST", "/search/a"),
                    ("GET", "/search/a?q=1"),
                    ("GET", "/search%2Fa//b"),
                    ("POST", "/dear?x=/search/a"),
                    ("OPTIONS", "*"),
                ]:
                    response = await ask(worker.http, method, target, key)
                    well_formed(ask, response, 200)
                    seen.append(left(response))
                assert seen == [
                    {"all": 99},
                    {"all": 98},
                    {"all": 97, "search": 49},
                    {"all": 96, "search": 48},
                    {"all": 86},
                    {"all": 85},
                ]

        asyncio.run(work())

    def test_every_refusal(self, redis_url: str, ask: Ask) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                single = {"x-api-key": await worker.key("acme", "single")}
                nothing = {"x-api-key": await worker.key("poor", "none")}
                gone = {"x-api-key": await worker.key("gone", "plan")}
                await worker.clients.suspend("gone")
                asked = [
                    (single, 200, None),
                    (single, 429, "rate_limited"),
                    (nothing, 403, "cost_exceeds_limit"),
                    (gone, 403, "suspended_client"),
                    ({}, 401, "missing_credential"),
                    ({"x-api-key": "x"}, 401, "invalid_credential"),
                    ({**single, "authorization": "Bearer other"}, 401, "ambiguous_credentials"),
                    ({**single, "x-quotas-cost": "-1"}, 400, "invalid_request"),
                ]
                for headers, status, reason in asked:
                    response = await ask(worker.http, "GET", "/", headers)
                    well_formed(ask, response, status)
                    assert response.headers.get("x-quotas-reason") == reason

        asyncio.run(work())

    def test_headers_are_those_of_the_configuration_in_force(self, redis_url: str, ask: Ask) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                key = {"x-api-key": await worker.key("acme", "single")}
                await ask(worker.http, "GET", "/", key)
                shown = {}
                for style in ("draft", "legacy", "both"):
                    worker.use(f"{PLANS}headers: {style}\n")
                    refused = await ask(worker.http, "GET", "/", key)
                    well_formed(ask, refused, 429)
                    shown[style] = {name: value for name, value in refused.headers.items() if "ratelimit" in name}
                reset = str(us("2026-06-10T13:00:00Z") // SECOND_US)
                assert shown["draft"] == {"ratelimit-policy": '"one";q=1;w=3600', "ratelimit": '"one";r=0;t=3600'}
                assert shown["legacy"] == {
                    "x-ratelimit-limit": "1",
                    "x-ratelimit-remaining": "0",
                    "x-ratelimit-reset": reset,
                }
                assert shown["both"] == shown["draft"] | shown["legacy"]

        asyncio.run(work())

    def test_preflights_pass_free_when_they_are_to(self, redis_url: str, ask: Ask) -> None:
        """Case C32."""
        preflight = {"origin": "https://app.example", "access-control-request-method": "GET"}

        async def work() -> None:
            async with timed(redis_url, PLANS + "preflight: pass\n", noon()) as worker:
                key = {"x-api-key": await worker.key()}
                bad = {"x-api-key": "x", "authorization": "Bearer y", "x-quotas-cost": "-1"}
                for headers in [preflight] * 25 + [{**preflight, **bad}] * 25:
                    response = await ask(worker.http, "OPTIONS", "/search/a", headers)
                    well_formed(ask, response, 200)
                    assert {response.headers[f"x-quotas-{name}"] for name in ("client", "plan", "subject")} == {""}
                    assert "ratelimit" not in response.headers
                assert left(await ask(worker.http, "GET", "/", key)) == {"all": 99}
                assert left(await ask(worker.http, "OPTIONS", "/", key)) == {"all": 98}
                assert left(await ask(worker.http, "GET", "/", {**key, **preflight})) == {"all": 97}
                well_formed(ask, await ask(worker.http, "OPTIONS", "/", {"origin": "https://app.example"}), 401)
                counted = await worker.counted("quotas_checks_total")
                assert counted['{client="unknown",outcome="allowed",plan=""}'] == 50

        asyncio.run(work())

    def test_preflights_are_checked_by_default(self, redis_url: str, ask: Ask) -> None:
        preflight = {"origin": "https://app.example", "access-control-request-method": "GET"}

        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                key = {"x-api-key": await worker.key()}
                well_formed(ask, await ask(worker.http, "OPTIONS", "/", preflight), 401)
                assert left(await ask(worker.http, "OPTIONS", "/", {**key, **preflight})) == {"all": 99}

        asyncio.run(work())

    def test_an_outage_is_503(self, server: Server, ask: Ask) -> None:
        async def work() -> None:
            async with timed(server.url, PLANS, noon()) as worker:
                key = {"x-api-key": await worker.key()}
                server.kill()
                well_formed(ask, await ask(worker.http, "GET", "/", key), 503)

        asyncio.run(work())

    def test_what_other_faces_carry_steers_nothing(self, redis_url: str, ask: Ask) -> None:
        """A client can send every header that its gateway does not set: here it asks to be cheaper than /dear is."""

        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                headers = {"x-api-key": await worker.key()}
                if ask is not NATIVE:
                    headers |= {"x-forwarded-method": "GET", "x-forwarded-uri": "/"}
                if ask is not NGINX:
                    headers |= {"x-original-method": "GET", "x-original-uri": "/", "x-original-url": "/"}
                response = await ask(worker.http, "POST", "/dear", headers)
                assert left(response) == {"all": 90}

        asyncio.run(work())

    def test_a_cost_is_believed_from_trusted_peers_only(self, redis_url: str, ask: Ask) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                headers = {"x-api-key": await worker.key(), "x-quotas-cost": "30"}
                assert left(await ask(worker.http, "GET", "/", headers)) == {"all": 70}
                assert left(await ask(worker.stranger, "GET", "/", headers)) == {"all": 69}

        asyncio.run(work())


def test_two_lines_of_a_carrier_are_malformed(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            key = await worker.key()
            for path, name, status in [
                ("/check", "x-forwarded-uri", 400),
                ("/check/nginx", "x-original-uri", 403),
                ("/check/nginx", "x-original-method", 403),
            ]:
                headers = [("x-api-key", key), (name, "GET"), (name, "GET")]
                response = await worker.http.get(path, headers=headers)
                assert response.status_code == status
                assert response.headers["x-quotas-reason"] == "invalid_request"
            assert left(await worker.check(key)) == {"all": 99}

    asyncio.run(work())


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT"])
@pytest.mark.parametrize("path", ["/check", "/check/x", "/check/nginx", "/check/envoy", "/check/envoy/x/y?z"])
def test_every_face_takes_every_method(redis_url: str, path: str, method: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            allowed = await worker.http.request(method, path, headers={"x-api-key": await worker.key()})
            refused = await worker.http.request(method, path)
            assert (allowed.status_code, allowed.content) == (200, b"")
            assert refused.status_code == 401
            empty = method == "HEAD" or path == "/check/nginx"
            assert (refused.content == b"") == empty

    asyncio.run(work())


def test_a_body_that_has_come_keeps_the_connection_and_connect_ends_it(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            headers = {"x-api-key": await worker.key()}
            response = await worker.http.post("/check", headers=headers, content=b"x" * 100_000)
            assert (response.status_code, response.headers.get("connection")) == (200, None)
            response = await worker.http.request("CONNECT", "/check", headers=headers)
            assert (response.status_code, response.headers.get("connection")) == (200, "close")

    asyncio.run(work())
