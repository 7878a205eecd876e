"""``/metrics``: what generations took, in Prometheus's form and under vLLM's names where they mean the same.

Labels are names of models and tenants, which come from config and keys, and never from what a request says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import FinishEvent, UsageEvent
from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service

_LABELS: Final = ("model_name", "tenant")
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SECONDS_PER_TOKEN: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_TEXT: Final = Operation(answer={"type": "string"}, media_type="text/plain")


class Metrics:
    """Counts of one server. Used on its event loop."""

    def __init__(self) -> None:
        # A registry of its own: several servers in a process count apart.
        self._registry = registry = CollectorRegistry()
        self.waiting = Gauge("vllm:num_requests_waiting", "Requests that the runtime has not accepted yet.", registry=registry)
        self.running = Gauge("vllm:num_requests_running", "Requests whose answer is in progress.", _LABELS, registry=registry)
        self.success = Counter("vllm:request_success", "Answers that ended.", (*_LABELS, "finished_reason"), registry=registry)
        self.failure = Counter("llmasos:request_failure", "Requests that were refused, or failed.", ("code",), registry=registry)
        self.prompt = Counter("vllm:prompt_tokens", "Tokens of prompts.", _LABELS, registry=registry)
        self.cached = Counter("vllm:prompt_tokens_cached", "Tokens of prompts from the prefix cache.", _LABELS, registry=registry)
        self.generation = Counter("vllm:generation_tokens", "Tokens that were generated.", _LABELS, registry=registry)
        self.first = Histogram("vllm:time_to_first_token_seconds", "Until the first text.", _LABELS, buckets=_SECONDS, registry=registry)
        self.whole = Histogram("vllm:e2e_request_latency_seconds", "Until the end.", _LABELS, buckets=_SECONDS, registry=registry)
        self.per_token = Histogram(
            "vllm:request_time_per_output_token_seconds", "Between tokens, the mean of an answer.", _LABELS,
            buckets=_SECONDS_PER_TOKEN, registry=registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)

    def routes(self, service: Service) -> Iterator[BaseRoute]:
        """With its permission."""
        yield Route("/metrics", Guarded(service, "inspect", OpenAIDialect(), self._reply, operation=_TEXT), methods=["GET"])

    async def _reply(self, call: Call) -> None:
        """What generations took, as Prometheus reads it."""
        await call.reply_bytes(self.text(), CONTENT_TYPE_LATEST)


class Measure:
    """One request, from where it waits for the runtime to its end. What is called after ``close`` counts nothing."""

    def __init__(self, metrics: Metrics, tenant: str) -> None:
        self._metrics = metrics
        self._tenant = tenant
        self._model: str | None = None
        self._begun = time.monotonic()
        self._first: float | None = None
        metrics.waiting.inc()

    def accepted(self, model: str) -> None:
        """The runtime answers."""
        self._model = model
        self._metrics.waiting.dec()
        self._metrics.running.labels(model, self._tenant).inc()

    def piece(self) -> None:
        """A piece of the answer came; only the first is measured, because each costs every token."""
        if self._first is None:
            self._first = time.monotonic()

    def ended(self, usage: UsageEvent, finishes: Sequence[FinishEvent]) -> None:
        """The answers ended."""
        metrics, labels, now = self._metrics, (self._model or "", self._tenant), time.monotonic()
        for finish in finishes:
            metrics.success.labels(*labels, finish.reason).inc()
        metrics.prompt.labels(*labels).inc(usage.prompt_tokens)
        metrics.cached.labels(*labels).inc(usage.cached_tokens)
        metrics.generation.labels(*labels).inc(usage.generated_tokens)
        metrics.whole.labels(*labels).observe(now - self._begun)
        if self._first is not None:
            metrics.first.labels(*labels).observe(self._first - self._begun)
            if usage.generated_tokens > 1:
                metrics.per_token.labels(*labels).observe((now - self._first) / (usage.generated_tokens - 1))

    def failed(self, code: str) -> None:
        """The request was refused, or its answer failed."""
        self._metrics.failure.labels(code).inc()

    def close(self) -> None:
        """The request is over."""
        if self._model is None:
            self._metrics.waiting.dec()
        else:
            self._metrics.running.labels(self._model, self._tenant).dec()
