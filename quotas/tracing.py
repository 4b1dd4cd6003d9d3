"""Traces of checks, through OpenTelemetry: the extra `otel`. Without `QUOTAS_TRACES` nobody imports this file.

A span is made when its check has been answered, from instants that were noted on the way, so that both roads of a check
are traced alike. It is a SERVER span `quotas.check` and, where the store was asked, a CLIENT span `quotas.take` in it.
Who asks says by `traceparent` (W3C Trace Context, level 1) of which trace the check is part, and whether that trace is
sampled; else the share decides.

Where spans go is said by the standard variables `OTEL_EXPORTER_OTLP_*`, which OpenTelemetry reads by itself.
"""

import asyncio
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation import set_span_in_context

from quotas.answers import Answer
from quotas.errors import ConfigError, Fault
from quotas.faces import Face
from quotas.requests import common_method
from quotas.settings import SOURCE

CLOSE_S = 3.0
"""How long a worker that ends waits for its last spans to be sent."""

_TRACEPARENT = re.compile(rb"[ \t]*([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?[ \t]*")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NOTHING = Context()


class Tracer:
    """Makes the spans of one worker's checks. `timer` gives seconds, `clock` nanoseconds since the epoch."""

    def __init__(
        self, provider: TracerProvider, *, timer: Callable[[], float], clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._tracer = provider.get_tracer("quotas", version("quotas"))
        self._clock = clock
        self.timer = timer

    def checked(  # noqa: PLR0913, PLR0917 # What was asked and what was answered.
        self,
        answer: Answer,
        face: Face,
        status: int,
        headers: Collection[tuple[bytes, bytes]],
        method: str,
        begun: float,
    ) -> None:
        """Trace a check that came at `begun`, by the timer, and was answered with `status` just now.

        `headers` and `method` are the check request's own.
        """
        caller = parent(headers)
        if caller is not None and not caller.trace_flags.sampled:
            return
        context = _NOTHING if caller is None else set_span_in_context(NonRecordingSpan(caller), _NOTHING)
        now, ended_ns = self.timer(), self._clock()

        def instant(then: float) -> int:
            return ended_ns - round((now - then) * 1e9)

        span = self._tracer.start_span("quotas.check", context, SpanKind.SERVER, start_time=instant(begun))
        if not span.is_recording():
            return
        span.set_attributes(_attributes(answer, face, status, method))
        if status >= 500:  # noqa: PLR2004 # OpenTelemetry's conventions: only these are errors of a server.
            span.set_status(Status(StatusCode.ERROR))
        if answer.asked_s is not None:
            asked, answered = answer.asked_s
            within = set_span_in_context(span, _NOTHING)
            take = self._tracer.start_span("quotas.take", within, SpanKind.CLIENT, start_time=instant(asked))
            take.set_attribute("db.system.name", "redis")
            take.end(instant(answered))
        span.end(ended_ns)


def parent(headers: Collection[tuple[bytes, bytes]]) -> SpanContext | None:
    """The caller's span as its one `traceparent` names it; None without one, and for one that cannot be read.

    W3C Trace Context, level 1, section 3.2: a later version may go on behind what is known of it.
    """
    found = [value for name, value in headers if name == b"traceparent"]
    match = _TRACEPARENT.fullmatch(found[0]) if len(found) == 1 else None
    if match is None or match[1] == b"ff" or (match[1] == b"00" and match[5] is not None):
        return None
    flags = TraceFlags(int(match[4], 16) & TraceFlags.SAMPLED)
    context = SpanContext(int(match[2], 16), int(match[3], 16), is_remote=True, trace_flags=flags)
    return context if context.is_valid else None


def check(share: float, environment: Mapping[str, str]) -> None:
    """Raises ConfigError when what this environment says of the exporter cannot be used."""
    faults = [
        Fault(name, "must start with http:// or https:// and name a server")
        for name in _ENDPOINTS
        if environment.get(name) and not re.match(r"https?://[^/]", environment[name])
    ]
    if faults:
        raise ConfigError(SOURCE, faults)
    make_provider(share).shutdown()


def make_exporter() -> SpanExporter:
    """What sends spans: OTLP over HTTP."""
    logging.getLogger("opentelemetry.util.re").addFilter(_quote_no_header)
    return OTLPSpanExporter()


def make_provider(share: float) -> TracerProvider:
    """What makes spans of this share of the checks without a parent, and sends them in the background.

    Raises ConfigError when what the environment says of it cannot be used.
    """
    told = {"service.name": "quotas", "service.version": version("quotas")}
    try:
        resource = Resource.create({**told, **OTELResourceDetector().detect().attributes})
        processor = BatchSpanProcessor(make_exporter())
    except ValueError as error:
        raise ConfigError(SOURCE, [Fault("OTEL_*", str(error))]) from error
    sampler = ParentBased(TraceIdRatioBased(share))
    provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider


@asynccontextmanager
async def started(share: float, timer: Callable[[], float]) -> AsyncIterator[Tracer]:
    """A tracer that samples this share of the checks without a parent.

    At the end, spans that wait are sent, within `CLOSE_S`.
    """
    provider = make_provider(share)
    try:
        yield Tracer(provider, timer=timer)
    finally:
        await _end(provider)


def _quote_no_header(record: logging.LogRecord) -> bool:
    """Have OpenTelemetry not log the header that it cannot read: that is where a collector's credential stands."""
    record.msg, record.args = "a part of OTEL_EXPORTER_OTLP_HEADERS is no name=value and left out", ()
    return True


async def _end(provider: TracerProvider) -> None:
    """Shut down in a thread that nobody has to wait for: a collector that does not answer must not hold a worker up."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with suppress(RuntimeError):  # The loop is closed when this comes too late.
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=shut_down, daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await done.wait()


def _attributes(answer: Answer, face: Face, status: int, method: str) -> dict[str, str | int | bool]:
    """What a span says: names of ours, and of what was sent the method alone."""
    asked = common_method((), face, method=method)
    told: dict[str, str | int | bool] = {
        "http.request.method": "_OTHER" if asked == "other" else asked,
        "http.response.status_code": status,
        "quotas.face": face.name,
        "quotas.outcome": answer.outcome,
    }
    if answer.identity is not None:
        told["quotas.plan"] = answer.identity.client.plan
        if answer.identity.client.name:  # Callers without a credential have none.
            told["quotas.client"] = answer.identity.client.name
    if answer.reason is not None:
        told["quotas.reason"] = answer.reason.value
    if answer.decision is not None and answer.decision.binding is not None:
        told["quotas.limit"] = answer.decision.binding.name
    if answer.degraded:
        told["quotas.degraded"] = True
    return told
