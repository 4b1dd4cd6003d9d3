"""What Prometheus reads: who has series and from when, and how much of each limit is used."""

import asyncio
from typing import Protocol

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from quotas.exposition import Format
from quotas.overrides import Override

from .serving import Service, samples, service
from .timed import Clock, noon, timed, us

PLANS = """
plans:
  plan:
    limits:
      bucket: {rate: 1/second, burst: 8}
      daily: {quota: 100/day}
      billed: {quota: 10/month, mode: overage}
      each: {rate: 1/second, burst: 5, per: key}
  other:
    limits:
      hourly: {quota: 1000/hour}
      none: {quota: 0/day, mode: shadow}
metrics: {max_clients: 3}
"""


class Server(Protocol):
    """The fixture of conftest.py."""

    url: str

    def stall(self) -> None: ...
    def go_on(self) -> None: ...
    def kill(self) -> None: ...


async def exposed(worker: Service, accept: str = "") -> str:
    response = await worker.http.get("/metrics", headers={"accept": accept})
    assert response.status_code == 200
    return response.text


async def clients(worker: Service) -> set[str]:
    """Who has series of their own."""
    found = (
        sample.labels["client"]
        for family in parse_text(await exposed(worker))
        for sample in family.samples
        if sample.name == "quotas_checks_total"
    )
    return set(found) - {"other", "unknown"}


def used(text: str) -> dict[tuple[str, str], float]:
    """The used part of each limit."""
    found = [
        sample for family in parse_text(text) for sample in family.samples if sample.name == "quotas_limit_used_ratio"
    ]
    told = {(sample.labels["client"], sample.labels["limit"]): sample.value for sample in found}
    assert len(told) == len(found)
    return told


def test_the_format_is_the_one_that_is_asked_for(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            await worker.check(await worker.key('a "quoted" \\ 🦊 name'))
            for accept, form in (
                ("", Format.TEXT),
                ("application/openmetrics-text; version=1.0.0", Format.OPENMETRICS),
            ):
                response = await worker.http.get("/metrics", headers={"accept": accept})
                assert response.headers["content-type"] == form.value
                assert response.headers["vary"] == "Accept"
                parse = parse_text if form is Format.TEXT else parse_openmetrics
                families = list(parse(response.text))
                counted = [
                    sample
                    for family in families
                    for sample in family.samples
                    if sample.name == "quotas_checks_total" and sample.value
                ]
                assert [sample.labels["client"] for sample in counted] == ['a "quoted" \\ 🦊 name']
                assert len({family.name for family in families}) == len(families)

    asyncio.run(work())


def test_a_client_has_series_at_0_before_its_first_check(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            await worker.clients.create("acme", "slow")
            lines = (await exposed(worker)).splitlines()
            for outcome in ("allowed", "rate_limited", "quota_exceeded", "never", "forbidden", "error"):
                assert f'quotas_checks_total{{client="acme",outcome="{outcome}",plan="slow"}} 0.0' in lines
            assert 'quotas_units_total{client="acme",plan="slow"} 0.0' in lines
            assert 'quotas_limit_used_ratio{client="acme",limit="hourly"} 0.0' in lines

    asyncio.run(work())


def test_a_deleted_client_has_none_and_its_successor_begins_anew(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            for _ in range(3):
                secret = await worker.key()
                for _ in range(5):
                    assert (await worker.check(secret)).status_code == 200
                text = await exposed(worker)
                assert samples(text, "quotas_checks_total") == {'{client="acme",outcome="allowed",plan="slow"}': 5}
                assert used(text) == {("acme", "hourly"): 0.05}
                await worker.clients.delete("acme")
                assert "acme" not in await exposed(worker)
            # Without a scrape in between the two are told apart as well.
            for checks in (4, 2):
                secret = await worker.key()
                for _ in range(checks):
                    await worker.check(secret)
                if checks == 4:
                    await worker.clients.delete("acme")
            counted = samples(await exposed(worker), "quotas_checks_total")
            assert counted == {'{client="acme",outcome="allowed",plan="slow"}': 2}

    asyncio.run(work())


def test_1000_clients_that_come_and_go_leave_no_series(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            lines = len((await exposed(worker)).splitlines())
            for number in range(0, 1000, 25):
                names = [f"client-{each}" for each in range(number, number + 25)]
                secrets = await asyncio.gather(*(worker.key(name) for name in names))
                answers = await asyncio.gather(*map(worker.check, secrets))
                assert {answer.status_code for answer in answers} == {200}
                await asyncio.gather(*map(worker.clients.delete, names))
            assert len((await exposed(worker)).splitlines()) == lines

    asyncio.run(work())


def test_what_is_used_is_told_for_every_limit_of_a_client(redis_url: str) -> None:
    async def work() -> None:
        clock = Clock(us("2026-06-10T23:59:50Z"))
        async with timed(redis_url, PLANS, clock) as worker:
            secret = await worker.key()
            await worker.key("idle", "other")
            await worker.spend(secret, 4)

            async def told() -> dict[tuple[str, str], float]:
                return used((await worker.http.get("/metrics")).text)

            idle = {("idle", "hourly"): 0.0, ("idle", "none"): 1.0}
            now = {("acme", "bucket"): 0.5, ("acme", "daily"): 0.04, ("acme", "billed"): 0.4}
            assert await told() == now | idle
            clock.go_on(2)
            assert await told() == now | idle | {("acme", "bucket"): 0.25}
            clock.go_on(8)
            assert await told() == idle | {("acme", "bucket"): 0, ("acme", "daily"): 0, ("acme", "billed"): 0.4}
            for _ in range(2):
                await worker.spend(secret, 5)
                clock.go_on(10)
            assert (await told())["acme", "billed"] == 1.4

    asyncio.run(work())


def test_a_limit_of_the_client_s_own_is_told_as_it_is(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            secret = await worker.key()
            await worker.spend(secret, 4)
            await worker.clients.set_limit("acme", "daily", Override(quota="8/day"))
            assert used((await worker.http.get("/metrics")).text)["acme", "daily"] == 0.5
            await worker.clients.set_plan("acme", "other")
            assert used((await worker.http.get("/metrics")).text) == {("acme", "hourly"): 0, ("acme", "none"): 1}

    asyncio.run(work())


def test_more_clients_than_may_have_series_share_one(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url, PLANS) as worker:
            secrets = {name: await worker.key(name, "other") for name in "abcdef"}
            for secret in secrets.values():
                for _ in range(2):
                    await worker.check(secret)
            assert await clients(worker) == {"a", "b", "c"}
            counted = samples(await exposed(worker), "quotas_checks_total")
            assert counted['{client="other",outcome="allowed",plan="other"}'] == 6
            assert {client for client, _ in used(await exposed(worker))} == {"a", "b", "c"}
            await worker.clients.delete("b")
            assert await clients(worker) == {"a", "c"}
            await worker.check(secrets["f"])
            assert await clients(worker) == {"a", "c", "f"}

    asyncio.run(work())


@pytest.mark.parametrize("trouble", ["stall", "kill"])
def test_a_store_that_does_not_answer_costs_one_gauge(server: Server, trouble: str) -> None:
    async def work() -> None:
        async with service(server.url, timeout_ms=50) as worker:
            secret = await worker.key()
            while "ratelimit" not in (await worker.check(secret)).headers:
                await asyncio.sleep(0.01)
            assert ("acme", "hourly") in used(await exposed(worker))
            before = samples(await exposed(worker), "quotas_checks_total")
            getattr(server, trouble)()
            for _ in range(3):
                assert (await worker.check(secret)).status_code == 503
            text = await exposed(worker)
            assert "quotas_limit_used_ratio" not in text
            after = samples(text, "quotas_checks_total")
            name = '{client="acme",outcome="error",plan="slow"}'
            assert after == before | {name: before.get(name, 0) + 3}

    asyncio.run(work())


def test_scrapes_at_once_are_each_whole(redis_url: str) -> None:
    async def work() -> None:
        async with service(redis_url) as worker:
            for number in range(80):
                await worker.clients.create(f"client-{number}", "slow")
            texts = await asyncio.gather(*(exposed(worker) for _ in range(5)))
            for text in texts:
                assert len(used(text)) == 80

    asyncio.run(work())
