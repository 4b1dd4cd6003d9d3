"""What the real service sends to a collector: OTLP over HTTP, on loopback."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from .processes import PATIENCE_S, Home

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Keeps what it is sent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sent: list[tuple[str, ExportTraceServiceRequest]] = []

    def spans(self) -> list[Span]:
        return [
            span
            for _, request in self.sent
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def resource(self) -> dict[str, str]:
        return {each.key: each.value.string_value for each in self.sent[0][1].resource_spans[0].resource.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.sent.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("words", [(), ("--workers", "2")], ids=["alone", "two"])
def test_sampled_checks_are_with_the_collector_when_the_service_has_ended(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    home = Home(tmp_path)
    with collecting() as collector:
        home.environment |= {"QUOTAS_TRACES": "0", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "NO_PROXY": "*"}
        # So late that nothing is sent before the end.
        home.environment |= {"OTEL_BSP_SCHEDULE_DELAY": str(PATIENCE_S * 10_000), "OTEL_SERVICE_NAME": "checks"}
        with home.serving("--demo", *words) as serving:
            headers = {"x-api-key": serving.curl[0], "traceparent": f"00-{TRACE}-{SPAN}-01"}
            for sent in (headers, {"x-api-key": "SECRET123", **headers}, {"x-api-key": headers["x-api-key"]}):
                httpx.get(f"{serving.url}/check?SECRET123", headers=sent, trust_env=False)
            httpx.get(f"{serving.url}/check", headers=headers | {"x-api-key": "SECRET123"}, trust_env=False)
            assert collector.sent == []
            assert serving.stop() == 0
        assert {path for path, _ in collector.sent} == {"/v1/traces"}
        assert collector.resource()["service.name"] == "checks"
        checks = [span for span in collector.spans() if span.name == "quotas.check"]
        assert len(checks) == 3
        assert {span.trace_id.hex() for span in collector.spans()} == {TRACE}
        assert {span.parent_span_id.hex() for span in checks} == {SPAN}
        assert "SECRET123" not in str(collector.sent)
        assert headers["x-api-key"] not in str(collector.sent)


def test_a_collector_that_is_not_there_holds_nobody_up(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.environment |= {"QUOTAS_TRACES": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "*"}
    with home.serving("--demo") as serving:
        headers = {"x-api-key": serving.curl[0]}
        assert httpx.get(f"{serving.url}/check", headers=headers, trust_env=False).status_code == 200
        assert serving.stop() == 0
        assert "Traceback" not in serving.err()


def test_a_service_that_cannot_trace_does_not_start(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.environment |= {"QUOTAS_TRACES": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}
    done = home.command("serve", "--port", "0")
    assert done.returncode == 2
    assert "OTEL_EXPORTER_OTLP_ENDPOINT: must start with http://" in " ".join(done.stderr.split())
