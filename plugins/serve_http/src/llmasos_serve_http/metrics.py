"""``/metrics``: what all generations of the pipeline took, in Prometheus's form and under vLLM's names where they mean the same.

Requests of tasks, of other servers and of the program itself are in them, because the runtime tells of each. Labels are names of models and
tenants, which come from config and keys, and never from what a request says.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import FinishEvent, GuardRecord, Record, RequestRecord, StepRecord, UsageEvent
from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.handled import Facts
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service

_LABELS: Final = ("model_name", "tenant")
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SECONDS_PER_TOKEN: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
#: Reasons of the runtime -> vLLM's.
_REASONS: Final = {"cancelled": "abort", "rejected": "abort"}

_TEXT: Final = Operation(answer={"type": "string"}, media_type="text/plain")


class Metrics:
    """Counts of one server, which listens to its runtime. From any thread."""

    def __init__(self) -> None:
        # A registry of its own: several servers in a process count apart.
        self._registry = registry = CollectorRegistry()
        model = ("model_name",)
        self._running = Gauge("vllm:num_requests_running", "Requests that the engine computes.", model, registry=registry)
        self._waiting = Gauge("vllm:num_requests_waiting", "Requests that wait in the scheduler.", model, registry=registry)
        self._kv = Gauge("vllm:kv_cache_usage_perc", "Part of the KV cache that is used; 1 is all.", model, registry=registry)
        self._preemptions = Counter("vllm:num_preemptions", "Sequences that lost their slot.", model, registry=registry)
        self._success = Counter("vllm:request_success", "Requests that ended.", (*_LABELS, "finished_reason"), registry=registry)
        self._prompt = Counter("vllm:prompt_tokens", "Tokens of prompts.", _LABELS, registry=registry)
        self._cached = Counter("vllm:prompt_tokens_cached", "Tokens of prompts from the prefix cache.", _LABELS, registry=registry)
        self._generation = Counter("vllm:generation_tokens", "Tokens that were generated.", _LABELS, registry=registry)
        self._queue = _seconds("vllm:request_queue_time_seconds", "In the scheduler's queue.", registry)
        self._first = _seconds("vllm:time_to_first_token_seconds", "Until the first token.", registry)
        self._whole = _seconds("vllm:e2e_request_latency_seconds", "Until the end.", registry)
        self._per_token = _seconds(
            "vllm:request_time_per_output_token_seconds", "Between tokens, the mean of a request.", registry, _SECONDS_PER_TOKEN
        )
        self._fired = Counter(
            "llmasos:guard_fired",
            "Texts that a guard changed or blocked.",
            (*_LABELS, "guard", "stage", "outcome"),
            registry=registry,
        )
        self.unaccepted = Gauge("llmasos:num_requests_unaccepted", "Requests that wait for a model or for memory.", registry=registry)
        self.failure = Counter(
            "llmasos:request_failure", "Requests that this server refused, or that failed.", ("code",), registry=registry
        )
        #: Model -> replica -> its last record: gauges of a model are sums over its replicas.
        self._steps: dict[str, dict[int, StepRecord]] = defaultdict(dict)
        self._lock = threading.Lock()

    def __call__(self, record: Record) -> None:
        """Count what the runtime tells of."""
        if isinstance(record, RequestRecord):
            self._count(record)
        elif isinstance(record, StepRecord):
            self._sample(record)
        elif isinstance(record, GuardRecord):
            self._fired.labels(record.model, record.tenant, record.guard, record.stage, record.outcome).inc()

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)

    def routes(self, service: Service) -> Iterator[BaseRoute]:
        """With its permission."""
        yield Route("/metrics", Guarded(service, "inspect", OpenAIDialect(), self._reply, operation=_TEXT), methods=["GET"])

    async def _reply(self, call: Call) -> None:
        """What generations took, as Prometheus reads it."""
        await call.reply_bytes(self.text(), CONTENT_TYPE_LATEST)

    def _count(self, record: RequestRecord) -> None:
        labels = (record.model, record.tenant)
        self._success.labels(*labels, _REASONS.get(record.finish_reason, record.finish_reason)).inc()
        self._prompt.labels(*labels).inc(record.prompt_tokens)
        self._cached.labels(*labels).inc(record.cached_tokens)
        self._generation.labels(*labels).inc(record.generated_tokens)
        self._whole.labels(*labels).observe(record.finished - record.queued)
        if record.started is not None:
            self._queue.labels(*labels).observe(record.started - record.queued)
        if record.first_token is not None:
            self._first.labels(*labels).observe(record.first_token - record.queued)
            if record.generated_tokens > 1:
                self._per_token.labels(*labels).observe((record.finished - record.first_token) / (record.generated_tokens - 1))

    def _sample(self, record: StepRecord) -> None:
        self._preemptions.labels(record.model).inc(record.preemptions)
        with self._lock:
            self._steps[record.model][record.replica] = record
            of_model = list(self._steps[record.model].values())
        self._running.labels(record.model).set(sum(each.running for each in of_model))
        self._waiting.labels(record.model).set(sum(each.waiting for each in of_model))
        capacity = sum(each.kv_capacity for each in of_model)
        self._kv.labels(record.model).set(sum(each.kv_used for each in of_model) / capacity if capacity else 0.0)


class Measure:
    """One generation that this server was asked for, from where it waits for the runtime to its end, in the ``facts`` of its request."""

    def __init__(self, metrics: Metrics, facts: Facts) -> None:
        self._metrics = metrics
        self._facts = facts
        self._began = time.monotonic()
        self._waits = True
        metrics.unaccepted.inc()

    def accepted(self, model: str) -> None:
        """The runtime answers."""
        self._facts.model = model
        self._accept()

    def piece(self) -> None:
        """A piece of the answer came; only the first is measured."""
        if self._facts.first is None:
            self._facts.first = time.monotonic() - self._began

    def ended(self, usage: UsageEvent, finishes: Sequence[FinishEvent]) -> None:
        """The answers ended."""
        facts = self._facts
        facts.finishes = tuple(finish.reason for finish in finishes)
        facts.prompt_tokens, facts.cached_tokens, facts.generated_tokens = usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens

    def failed(self, code: str) -> None:
        """The request was refused, or its answer failed."""
        self._facts.code = code
        self._metrics.failure.labels(code).inc()

    def close(self) -> None:
        """The request is over."""
        self._accept()

    def _accept(self) -> None:
        if self._waits:
            self._waits = False
            self._metrics.unaccepted.dec()


def _seconds(name: str, what: str, registry: CollectorRegistry, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
    return Histogram(name, what, _LABELS, buckets=buckets, registry=registry)
