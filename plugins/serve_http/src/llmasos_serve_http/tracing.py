"""Traces of requests for OpenTelemetry, by its semantic conventions for generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/).

Where spans go is the process's matter: `opentelemetry-instrument llmasos serve` reads ``OTEL_EXPORTER_OTLP_ENDPOINT`` and the like.
"""

from __future__ import annotations

from typing import Any, Final

from llmasos_hookspecs import ConfigError
from llmasos_serve_http.handled import Handled

#: Route -> the operation that the conventions call it.
_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/api/chat": "chat",
    "/v1/completions": "text_completion",
    "/api/generate": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
}
#: Headers that carry a trace's context (https://www.w3.org/TR/trace-context/).
CARRIERS: Final = ("traceparent", "tracestate")


class Tracing:
    """Makes a span of each request that is over, as a child of the client's where it sent one."""

    def __init__(self) -> None:
        """Raises ``ConfigError`` where OpenTelemetry is not installed."""
        try:
            from opentelemetry import trace
            from opentelemetry.propagate import extract
        except ImportError as error:
            raise ConfigError('The option traces needs OpenTelemetry; run pip install "llmasos-serve-http[traces]".') from error
        self._trace: Any = trace
        self._extract = extract
        self._tracer = trace.get_tracer("llmasos.serve_http")

    def __call__(self, handled: Handled) -> None:
        """Make the span."""
        facts, trace = handled.facts, self._trace
        operation = _OPERATIONS.get(handled.route)
        name = f"{operation} {facts.model}" if operation and facts.model else f"{handled.method} {handled.route}".strip()
        known: dict[str, Any] = {
            "http.request.method": handled.method,
            "http.route": handled.route,
            "http.response.status_code": handled.status,
            "client.address": handled.client,
            "error.type": facts.code,
            "llmasos.request.id": handled.id,
            "llmasos.tenant": facts.tenant,
        }
        if operation:
            known |= {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "llmasos",
                "gen_ai.response.model": facts.model,
                "gen_ai.response.id": handled.id,
                "gen_ai.usage.input_tokens": facts.prompt_tokens,
                "gen_ai.usage.output_tokens": facts.generated_tokens,
                "gen_ai.usage.cache_read.input_tokens": facts.cached_tokens,
                "gen_ai.response.time_to_first_chunk": facts.first,
                "gen_ai.response.finish_reasons": facts.finishes,
            }
        span = self._tracer.start_span(
            name,
            context=self._extract(handled.headers),
            kind=trace.SpanKind.SERVER,
            start_time=handled.began,
            attributes={key: value for key, value in known.items() if value not in ("", None, ())},
        )
        if facts.code or handled.status >= 500:
            span.set_status(trace.Status(trace.StatusCode.ERROR))
        span.end(handled.began + int(handled.seconds * 1e9))

    def close(self) -> None:
        """Spans that wait belong to the process, which sends them."""
