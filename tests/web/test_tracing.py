"""The spans of checks, over both roads: which there are, whose children they are, and what they say."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from quotas import app, tracing
from quotas.answers import Answer
from quotas.errors import ConfigError
from quotas.faces import NATIVE
from quotas.settings import Settings

from .serving import Service, service

PLANS = """
plans:
  plan:
    limits:
      few: {rate: 1/hour, burst: 2}
  nobody:
    limits:
      few: {rate: 1/hour, burst: 100}
"""
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


class Traced:
    """A worker that traces, and the spans that it has sent; they are there when it has ended."""

    def __init__(self, worker: Service, exporter: InMemorySpanExporter) -> None:
        self.worker = worker
        self._exporter = exporter

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def checks(self) -> list[ReadableSpan]:
        return self.named("quotas.check")


@asynccontextmanager
async def traced(redis_url: str, share: float, plans: str = PLANS, timeout_ms: int = 30_000) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    with patch.object(tracing, "make_exporter", lambda: exporter):
        async with service(redis_url, plans, traces=share, timeout_ms=timeout_ms) as worker:
            yield Traced(worker, exporter)


def test_a_check_is_a_span_with_the_store_s_part_in_it(redis_url: str) -> None:
    async def work() -> Traced:
        async with traced(redis_url, 1) as traces:
            secret = await traces.worker.key("acme", "plan")
            for _ in range(3):
                await traces.worker.check(secret, "/check/SECRET?key=SECRET")
            await traces.worker.http.head("/check/nginx", headers={"x-api-key": "SECRET"})
            await traces.worker.http.get("/healthz")
        return traces

    traces = asyncio.run(work())
    acme = {"http.request.method": "GET", "quotas.client": "acme", "quotas.plan": "plan", "quotas.face": "check"}
    allowed = acme | {"http.response.status_code": 200, "quotas.outcome": "allowed"}
    told = [dict(span.attributes or {}) for span in traces.checks()]
    assert told == [
        allowed,
        allowed,
        acme
        | {
            "http.response.status_code": 429,
            "quotas.outcome": "rate_limited",
            "quotas.reason": "rate_limited",
            "quotas.limit": "few",
        },
        {
            "http.request.method": "HEAD",
            "http.response.status_code": 401,
            "quotas.face": "nginx",
            "quotas.outcome": "unauthenticated",
            "quotas.reason": "invalid_credential",
        },
    ]
    assert [span.kind for span in traces.checks()] == [SpanKind.SERVER] * 4
    assert {span.status.status_code for span in traces.checks()} == {StatusCode.UNSET}
    assert len({span.context.trace_id for span in traces.checks()}) == 4
    for check, take in zip(traces.checks(), traces.named("quotas.take"), strict=False):
        assert (take.kind, take.attributes) == (SpanKind.CLIENT, {"db.system.name": "redis"})
        assert take.parent is not None
        assert (take.parent.span_id, take.context.trace_id) == (check.context.span_id, check.context.trace_id)
        begun, asked, answered, ended = check.start_time, take.start_time, take.end_time, check.end_time
        assert begun is not None
        assert asked is not None
        assert answered is not None
        assert ended is not None
        assert begun <= asked < answered <= ended
    assert len(traces.named("quotas.take")) == 3
    resource = traces.checks()[0].resource.attributes
    assert resource["service.name"] == "quotas"
    assert "SECRET" not in "".join(span.to_json() for span in traces.all())


def test_a_caller_without_a_credential_has_no_name(redis_url: str) -> None:
    async def work() -> Traced:
        async with traced(redis_url, 1, PLANS + "anonymous: {plan: nobody}\n") as traces:
            assert (await traces.worker.http.get("/check")).status_code == 200
        return traces

    (span,) = asyncio.run(work()).checks()
    assert "quotas.client" not in (span.attributes or {})
    assert "127.0.0.1" not in span.to_json()


def test_the_caller_says_of_which_trace_a_check_is_part_and_if_it_is_sampled(redis_url: str) -> None:
    async def work(share: float, sent: Sequence[str]) -> list[ReadableSpan]:
        headers = [("traceparent", each) for each in sent]
        async with traced(redis_url, share) as traces:
            assert (await traces.worker.http.get("/check", headers=headers)).status_code == 401
        return traces.checks()

    for share in (0, 1):
        (span,) = asyncio.run(work(share, [SAMPLED]))
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (int(TRACE, 16), int(SPAN, 16))
        assert span.parent.is_remote
        assert span.context.trace_id == int(TRACE, 16)
        assert asyncio.run(work(share, [NOT_SAMPLED])) == []
    for sent in ([], ["junk"], [SAMPLED, SAMPLED]):
        assert asyncio.run(work(0, sent)) == []
        (span,) = asyncio.run(work(1, sent))
        assert span.parent is None
        assert span.context.trace_id != int(TRACE, 16)


def test_a_store_that_does_not_answer_is_an_error_of_this_server(tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/valkey.sock"

    async def work() -> list[ReadableSpan]:
        plans = PLANS + "anonymous: {plan: nobody}\n"
        async with traced(nowhere, 1, plans, timeout_ms=20) as traces:
            assert (await traces.worker.http.get("/check")).status_code == 503
        plans = plans.replace("burst: 100}", "burst: 100}\n    on_store_error: allow")
        async with traced(nowhere, 1, plans, timeout_ms=20) as lenient:
            assert (await lenient.worker.http.get("/check")).status_code == 200
        return traces.checks() + lenient.checks()

    refused, allowed = asyncio.run(work())
    assert refused.status.status_code is StatusCode.ERROR
    assert (refused.attributes or {})["quotas.reason"] == "store_unavailable"
    assert allowed.status.status_code is StatusCode.UNSET
    assert (allowed.attributes or {})["quotas.degraded"] is True


@pytest.mark.parametrize(
    ("sent", "is_one"),
    [
        (SAMPLED, True),
        (f" {SAMPLED}\t", True),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"01-{TRACE}-{SPAN}-01more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{TRACE[1:]}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}-1", False),
        (f"00-{TRACE}-{SPAN}", False),
        ("", False),
        (f"{SAMPLED}\n{SAMPLED}", False),
    ],
)
def test_a_parent_that_cannot_be_read_is_none(sent: str, *, is_one: bool) -> None:
    found = tracing.parent([(b"x-api-key", b"k"), (b"traceparent", sent.encode())])
    assert (found is not None) == is_one
    if found is not None:
        assert (found.trace_id, found.span_id) == (int(TRACE, 16), int(SPAN, 16))
        assert found.trace_flags.sampled


def test_instants_are_those_of_the_timer_put_on_the_clock() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = tracing.Tracer(provider, timer=lambda: 10.5, clock=lambda: 1_000_000_000_000)
    tracer.checked(Answer(None, asked_s=(10.25, 10.375)), NATIVE, 200, (), "GET", 10.0)
    take, check = exporter.get_finished_spans()
    assert (check.start_time, check.end_time) == (999_500_000_000, 1_000_000_000_000)
    assert (take.start_time, take.end_time) == (999_750_000_000, 999_875_000_000)


class TestStart:
    def test_without_the_extra_a_service_that_is_to_trace_does_not_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "quotas.tracing")
        monkeypatch.delattr("quotas.tracing")
        for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "opentelemetry", None)
        app.check_tracing(Settings())
        with pytest.raises(ConfigError, match=r"QUOTAS_TRACES: needs opentelemetry.*quotas\[otel\]"):
            app.check_tracing(Settings(traces=0.5))

    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "OTEL_EXPORTER_OTLP_ENDPOINT: must start with http"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http:///v1", "TRACES_ENDPOINT: must start with http"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", r"OTEL_\*: max_queue_size"),
        ],
    )
    def test_what_the_environment_says_of_the_exporter_must_be_usable(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
    ) -> None:
        app.check_tracing(Settings(traces=0.5))
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=told):
            app.check_tracing(Settings(traces=0.5))

    def test_a_header_that_cannot_be_read_is_not_logged(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "SECRET123")
        app.check_tracing(Settings(traces=0.5))
        assert "a part of OTEL_EXPORTER_OTLP_HEADERS is no name=value" in caplog.text
        assert "SECRET123" not in caplog.text

    def test_nothing_of_it_is_imported_when_it_is_off(self) -> None:
        """The store's client library takes OpenTelemetry's metrics in by itself where they are installed."""
        code = "import sys, quotas.cli, quotas.serving; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        names = set(done.stdout.split())
        assert "quotas.serving" in names
        assert not {"quotas.tracing", "opentelemetry.sdk.trace", "opentelemetry.exporter"} & names
