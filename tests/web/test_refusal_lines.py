"""The log's lines about refused checks: what they hold, what they never hold, and how many there are."""

import asyncio
import logging
from typing import Any

import httpx
import pytest

from quotas.answers import Answer, Reason
from quotas.faces import NATIVE, NGINX
from quotas.witness import Witness

from .serving import service
from .timed import noon, timed

PLANS = """
plans:
  plan:
    limits:
      few: {rate: 1/hour, burst: 2}
      monthly: {quota: 100/month}
  nobody:
    limits:
      few: {rate: 1/hour, burst: 1}
"""


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of each line about a refusal."""
    return [vars(record)["fields"] for record in caplog.records if record.name == "quotas.refusals"]


def test_a_line_says_who_met_which_limit_and_nothing_that_was_sent(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "quotas.refusals")

    async def work() -> None:
        async with service(redis_url, PLANS + "anonymous: {plan: nobody}\n", log_refusals=1000) as worker:
            secret = await worker.key("acme", "plan")
            (key,) = await worker.clients.keys_of("acme")
            carried = {"x-api-key": secret, "x-forwarded-method": "POST", "x-forwarded-uri": "/hooks/SECRET?a=SECRET"}
            nginx = {"x-api-key": secret, "x-original-method": "SECRET", "x-original-uri": "/SECRET%3Fa=SECRET"}
            for _ in range(2):
                assert (await worker.http.get("/check", headers=carried)).status_code == 200
            assert lines(caplog) == []
            acme = {"client": "acme", "subject": key.id, "plan": "plan"}
            refused = await worker.http.get("/check", headers=carried)
            assert refused.status_code == 429
            assert lines(caplog)[-1] == acme | {
                "limit": "few",
                "reason": "rate_limited",
                "status": 429,
                "method": "POST",
            }
            assert (await worker.http.get("/check/nginx", headers=nginx)).status_code == 403
            assert lines(caplog)[-1] == acme | {
                "limit": "few",
                "reason": "rate_limited",
                "status": 403,
                "method": "other",
            }
            assert (await worker.http.head("/check/SECRET", headers={"x-api-key": "SECRET"})).status_code == 401
            assert lines(caplog)[-1] == {"reason": "invalid_credential", "status": 401, "method": "HEAD"}
            assert [(await worker.http.get("/check")).status_code for _ in range(2)] == [200, 429]
            nobody = {"plan": "nobody", "limit": "few", "reason": "rate_limited", "status": 429, "method": "GET"}
            assert lines(caplog)[-1] == nobody
            await worker.clients.suspend("acme")
            assert (await worker.http.get("/v1/usage?by=SECRET", headers={"x-api-key": secret})).status_code == 403
            assert lines(caplog)[-1] == acme | {"reason": "suspended_client", "status": 403, "method": "GET"}
            assert len(lines(caplog)) == 5
            assert "SECRET" not in "".join(str(vars(each)) for each in caplog.records if each.name != "httpx")

    asyncio.run(work())


def test_a_worker_that_is_told_to_logs_none(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quotas.refusals")

    async def refuse(http: httpx.AsyncClient) -> None:
        assert (await http.get("/check")).status_code == 401

    async def work() -> None:
        async with service(redis_url, log_refusals=0) as worker:
            await refuse(worker.http)
            assert lines(caplog) == []
        async with timed(redis_url, PLANS, noon()) as other:
            await refuse(other.http)
            assert len(lines(caplog)) == 1  # By default there are some.

    asyncio.run(work())


def test_lines_come_at_a_rate_and_the_next_says_how_many_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quotas.refusals")
    now = [0.0]
    witness = Witness(lines_per_s=2, timer=lambda: now[0])
    answer = Answer(Reason.MISSING_CREDENTIAL)
    steps = [(100.0, 1), (100.5, 2), (100.9, 2), (100.999, 2), (101.0, 3), (101.5, 4), (101.9, 4), (250.0, 5)]
    for now[0], told in steps:
        witness.refused(answer, NGINX, 401, (), "GET")
        assert len(lines(caplog)) == told
    assert [line.get("left_out") for line in lines(caplog)] == [None, None, 2, None, 1]


@pytest.mark.parametrize(
    ("headers", "method", "told"),
    [
        ((), "POST", "POST"),
        ([(b"x-forwarded-method", b"DELETE")], "GET", "DELETE"),
        ([(b"x-forwarded-method", b"delete")], "GET", "other"),
        ([(b"x-forwarded-method", b"\xff")], "GET", "other"),
        ((), "PROPFIND", "other"),
        ([(b"x-original-method", b"PUT")], "GET", "GET"),
    ],
)
def test_a_method_is_told_when_everybody_knows_it(
    caplog: pytest.LogCaptureFixture, headers: list[tuple[bytes, bytes]], method: str, told: str
) -> None:
    caplog.set_level(logging.INFO, "quotas.refusals")
    Witness(lines_per_s=1, timer=lambda: 0.0).refused(Answer(Reason.INVALID_REQUEST), NATIVE, 400, headers, method)
    assert [line["method"] for line in lines(caplog)] == [told]
