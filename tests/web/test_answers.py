"""What a check is answered: status, header fields and body, whatever the method, the path and the credential."""

import asyncio
import re
from collections.abc import Sequence

import httpx
import pytest

from quotas import keys
from quotas.keys import Environment

from .serving import Service, service

Fields = dict[str, str]
PLANS = """
plans:
  pair:
    limits:
      per-second: {rate: 5/second, burst: 10}
      monthly: {quota: 10000/month}
  single:
    limits:
      one: {rate: 1/second, burst: 1}
  exhausted:
    limits:
      nothing: {quota: 0/day}
"""
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PROPFIND", "X-MINE"]
PATHS = ["/check", "/check/", "/check/any/trailing/path", "/check//", "/check/a%2Fb", "/check/caf%C3%A9", "/check?x=1"]
UNIDENTIFIED = {"x-quotas-client": "", "x-quotas-plan": "", "x-quotas-subject": "", "cache-control": "no-store"}


def fields(response: httpx.Response) -> Fields:
    """All header fields; a name that stands twice fails."""
    names = [name for name, _ in response.headers.multi_items()]
    assert len(names) == len(set(names))
    return dict(response.headers)


def problem(response: httpx.Response) -> dict[str, object]:
    """The body of a refusal, once it is seen to be one."""
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["content-length"]) == len(response.content)
    body: dict[str, object] = response.json()
    assert body["status"] == response.status_code
    assert body["reason"] == response.headers["x-quotas-reason"]
    return body


async def identified(worker: Service, plan: str) -> tuple[str, Fields]:
    """A new client's key, and the fields that every answer to it must carry."""
    secret = await worker.key("acme", plan)
    (key,) = await worker.clients.keys_of("acme")
    return secret, {
        "x-quotas-client": "acme",
        "x-quotas-plan": plan,
        "x-quotas-subject": key.id,
        "cache-control": "no-store",
    }


class TestGolden:
    def test_allow_is_200_with_an_empty_body(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                secret, identity = await identified(worker, "pair")
                response = await worker.check(secret)
                found = fields(response)
                policy, limit = found.pop("ratelimit-policy"), found.pop("ratelimit")
                assert (response.status_code, response.content) == (200, b"")
                assert found == {**identity, "content-length": "0"}
                monthly = re.fullmatch(r'"per-second";q=10;w=2, "monthly";q=10000;w=(\d+)', policy)
                left = re.fullmatch(r'"per-second";r=9;t=1, "monthly";r=9999;t=(\d+)', limit)
                assert monthly
                assert left
                assert int(monthly[1]) in {days * 86_400 for days in (28, 29, 30, 31)}
                assert 0 < int(left[1]) <= int(monthly[1])

        asyncio.run(work())

    def test_throttled_is_429_and_names_the_limit(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                secret, identity = await identified(worker, "single")
                response = max(
                    await asyncio.gather(worker.check(secret), worker.check(secret)), key=lambda one: one.status_code
                )
                body = problem(response)
                assert response.status_code == 429
                assert fields(response) == {
                    **identity,
                    "ratelimit-policy": '"one";q=1;w=1',
                    "ratelimit": '"one";r=0;t=1',
                    "retry-after": "1",
                    "x-quotas-limit": "one",
                    "x-quotas-reason": "rate_limited",
                    "content-type": "application/problem+json",
                    "content-length": str(len(response.content)),
                }
                assert body["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
                assert body["violated-policies"] == ["one"]

        asyncio.run(work())

    def test_what_can_never_pass_is_403_without_a_retry(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                secret, identity = await identified(worker, "exhausted")
                response = await worker.check(secret)
                body, found = problem(response), fields(response)
                assert response.status_code == 403
                assert re.fullmatch(r'"nothing";r=0;t=\d+', found.pop("ratelimit"))
                assert found == {
                    **identity,
                    "ratelimit-policy": '"nothing";q=0;w=86400',
                    "x-quotas-limit": "nothing",
                    "x-quotas-reason": "cost_exceeds_limit",
                    "content-type": "application/problem+json",
                    "content-length": str(len(response.content)),
                }
                assert body["violated-policies"] == ["nothing"]

        asyncio.run(work())

    def test_without_a_credential_the_challenge_has_no_error_code(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url) as worker:
                response = await worker.http.get("/check")
                problem(response)
                assert response.status_code == 401
                assert fields(response) == {
                    **UNIDENTIFIED,
                    "x-quotas-reason": "missing_credential",
                    "www-authenticate": 'Bearer realm="quotas"',
                    "content-type": "application/problem+json",
                    "content-length": str(len(response.content)),
                }

        asyncio.run(work())

    def test_a_plan_that_the_configuration_lost_is_403_no_plan(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url) as before, service(redis_url, PLANS) as after:
                secret, identity = await identified(before, "slow")
                response = await after.check(secret)
                problem(response)
                assert response.status_code == 403
                assert fields(response) == {
                    **identity,
                    "x-quotas-reason": "no_plan",
                    "content-type": "application/problem+json",
                    "content-length": str(len(response.content)),
                }
                assert (await before.check(secret)).status_code == 200

        asyncio.run(work())


class TestMethodsAndPaths:
    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_is_decided(self, redis_url: str, method: str) -> None:
        async def work() -> None:
            async with service(redis_url) as worker:
                secret = await worker.key(plan="slow")
                allowed = await worker.http.request(method, "/check", headers={"x-api-key": secret})
                refused = await worker.http.request(method, "/check")
                assert (allowed.status_code, allowed.content) == (200, b"")
                assert allowed.headers["ratelimit"].startswith('"hourly";r=99;')
                assert refused.status_code == 401

        asyncio.run(work())

    @pytest.mark.parametrize("path", [*PATHS, "/check/a%0Ab", "/check/%00", "/check/a%0A"])
    def test_every_path_below_is_decided(self, redis_url: str, path: str) -> None:
        async def work() -> None:
            async with service(redis_url) as worker:
                assert (await worker.check(await worker.key(), path)).status_code == 200
                assert (await worker.http.get(path)).status_code == 401

        asyncio.run(work())

    def test_a_body_is_not_read(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url) as worker:
                secret = await worker.key()
                response = await worker.http.post("/check", headers={"x-api-key": secret}, content=b"x" * 100_000)
                assert (response.status_code, response.content) == (200, b"")

        asyncio.run(work())

    @pytest.mark.parametrize("path", ["/", "/checks", "/checkout", "/metric", "/admin/v1/clients"])
    def test_elsewhere_there_is_nothing(self, redis_url: str, path: str) -> None:
        async def work() -> None:
            async with service(redis_url) as worker:
                response = await worker.http.get(path)
                assert response.status_code == 404
                assert response.headers["content-type"] == "application/problem+json"

        asyncio.run(work())

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
    def test_a_wrong_method_is_told_which_are_right(self, redis_url: str, path: str) -> None:
        """RFC 9110, section 15.5.6: a 405 carries Allow."""

        async def work() -> None:
            async with service(redis_url) as worker:
                response = await worker.http.post(path)
                assert response.status_code == 405
                assert response.headers["content-type"] == "application/problem+json"
                assert set(response.headers.get("allow", "").split(", ")) == {"GET", "HEAD"}

        asyncio.run(work())


class TestCredentials:
    """Case C04; `K` is the key of acme and `L` that of another client."""

    @pytest.mark.parametrize(
        ("headers", "status", "reason"),
        [
            ([("Authorization", "Bearer K")], 200, None),
            ([("Authorization", "bearer K")], 200, None),
            ([("Authorization", "BEARER  K")], 200, None),
            ([("Authorization", " bEaReR   K ")], 200, None),
            ([("X-API-Key", "K")], 200, None),
            ([("X-API-Key", " K\t")], 200, None),
            ([("Authorization", "Bearer K"), ("X-API-Key", "K")], 200, None),
            ([("Authorization", "Bearer caf\xe9")], 401, "invalid_credential"),
            ([("X-API-Key", "\xff\xfe\x80")], 401, "invalid_credential"),
            ([("Authorization", "\xff")], 401, None),
            ([("Authorization", "Bearer")], 401, "missing_credential"),
            ([("Authorization", "Bearer ")], 401, "missing_credential"),
            ([("Authorization", "")], 401, "missing_credential"),
            ([("X-API-Key", "")], 401, "missing_credential"),
            ([("Authorization", "Bearer\tK")], 401, None),
            ([("Authorization", "BearerK")], 401, None),
            ([("Authorization", "Bearer K extra")], 401, "invalid_credential"),
            ([("Authorization", "Bearer K,K")], 401, "invalid_credential"),
            ([("Authorization", "Bearer null")], 401, "invalid_credential"),
            ([("Authorization", "Bearer a.b")], 401, "invalid_credential"),
            ([("Authorization", "Basic K")], 401, None),
            ([("X-API-Key", "Bearer K")], 401, "invalid_credential"),
            ([("X-API-Key", "k")], 401, "invalid_credential"),
            ([("X-API-Key", "x" * 10_000)], 401, "invalid_credential"),
            ([("X-API-Key", "K"), ("X-API-Key", "junk")], 401, "ambiguous_credentials"),
            ([("X-API-Key", "K"), ("X-API-Key", "K")], 401, "ambiguous_credentials"),
            ([("Authorization", "Bearer K"), ("Authorization", "Bearer K")], 401, "ambiguous_credentials"),
            ([("Authorization", "Bearer K"), ("X-API-Key", "L")], 401, "ambiguous_credentials"),
            ([("Authorization", "Bearer K"), ("X-API-Key", "")], 401, "ambiguous_credentials"),
            ([("Authorization", "Bearer"), ("X-API-Key", "K")], 401, "ambiguous_credentials"),
        ],
    )
    def test_headers(self, redis_url: str, headers: Sequence[tuple[str, str]], status: int, reason: str | None) -> None:
        async def work() -> None:
            async with service(redis_url) as worker:
                secrets = {"K": await worker.key("acme"), "L": await worker.key("other")}

                def written(value: str) -> bytes:
                    text = re.sub(r"\b[KL]\b", lambda match: secrets[match[0]], value)
                    return text.encode("latin-1")

                sent = [(name.encode(), written(value)) for name, value in headers]
                response = await worker.http.get("/check", headers=sent)
                assert response.status_code == status
                assert response.headers["x-quotas-client"] == ("acme" if status == 200 else "")
                if reason is not None:
                    assert response.headers["x-quotas-reason"] == reason

        asyncio.run(work())

    def test_an_unknown_key_is_answered_like_a_malformed_one(self, redis_url: str) -> None:
        async def work() -> None:
            async with service(redis_url) as worker:
                unknown = keys.generate("quotas", Environment.LIVE)
                answers = [await worker.check(secret) for secret in (unknown, unknown[:-1], "x", f"{unknown}x")]
                seen = {(one.status_code, tuple(one.headers.raw), one.content) for one in answers}
                assert len(seen) == 1
                assert answers[0].status_code == 401
                assert answers[0].headers["www-authenticate"] == (
                    'Bearer realm="quotas", error="invalid_token", error_description="The credential is not valid"'
                )

        asyncio.run(work())

    def test_one_key_in_either_header_is_one_client(self, redis_url: str) -> None:
        """Case C16 (5)."""

        async def work() -> None:
            async with service(redis_url) as worker:
                secret = await worker.key(plan="once")
                bearer = await worker.http.get("/check", headers={"authorization": f"Bearer {secret}"})
                api_key = await worker.check(secret)
                assert [bearer.headers["ratelimit"], api_key.headers["ratelimit"]] == [
                    '"lifetime";r=9',
                    '"lifetime";r=8',
                ]

        asyncio.run(work())

    @pytest.mark.parametrize("known", [True, False])
    def test_a_forged_identity_is_never_echoed(self, redis_url: str, *, known: bool) -> None:
        forged = {
            "x-quotas-client": "forged",
            "x-quotas-plan": "forged",
            "x-quotas-subject": "forged",
            "x-quotas-degraded": "forged",
        }

        async def work() -> None:
            async with service(redis_url) as worker:
                secret = await worker.key() if known else "unknown"
                response = await worker.http.get("/check", headers={**forged, "x-api-key": secret})
                assert "forged" not in str(response.headers.raw) + response.text
                assert {"x-quotas-client", "x-quotas-plan", "x-quotas-subject"} <= set(response.headers)
                assert response.headers["x-quotas-client"] == ("acme" if known else "")

        asyncio.run(work())

    @pytest.mark.parametrize("query", ["?api_key=K", "?x-api-key=K", "?access_token=K"])
    def test_a_key_in_the_query_is_no_credential(self, redis_url: str, query: str) -> None:
        async def work() -> None:
            async with service(redis_url) as worker:
                secret = await worker.key()
                response = await worker.http.get("/check" + query.replace("K", secret))
                assert response.headers["x-quotas-reason"] == "missing_credential"

        asyncio.run(work())
