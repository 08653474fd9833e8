"""A stand-in for an OpenTelemetry collector: takes spans over HTTP, in OTLP's protobuf."""

from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from luthien_litellm_hooks.cli.demo.proxy import HOST


class Collector:
    """What came to `url`. `spans` are protobuf messages of `opentelemetry.proto.trace.v1`."""

    def __init__(self, url: str, bodies: list[bytes]) -> None:
        self.url = url
        self._bodies = bodies

    @property
    def spans(self) -> list[Any]:
        return [span for scope in self._scopes for span in scope.spans]

    @property
    def scopes(self) -> set[str]:
        """The names of those that made spans."""
        return {scope.scope.name for scope in self._scopes}

    def parent_of(self, span: Any) -> str | None:
        """The name of a span's parent, None if that did not come, or there is none."""
        return next((other.name for other in self.spans if other.span_id == span.parent_span_id), None)

    @property
    def _scopes(self) -> list[Any]:
        messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
        requests = [messages.ExportTraceServiceRequest.FromString(body) for body in self._bodies]
        return [scope for request in requests for resource in request.resource_spans for scope in resource.scope_spans]


@contextmanager
def collector() -> Generator[Collector]:
    """A collector that listens until the context ends."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer((HOST, 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Collector(f"http://{HOST}:{server.server_port}/v1/traces", bodies)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
