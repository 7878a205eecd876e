"""``/metrics``: what generations took, and what this server refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmasos_hookspecs import EngineFailed, GuardRecord, RequestRecord, StepRecord
from llmasos_hookspecs.testing import ScriptedRuntime

from .http_clients import chat_body
from .in_process import Client

CHAT = "/v1/chat/completions"
Make = Callable[..., Client]


def samples(client: Client) -> dict[tuple[str, ...], float]:
    """Name and values of labels -> value; buckets left out."""
    answer = client.ask("GET", "/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def record(**more: Any) -> RequestRecord:
    known = {
        "id": "1", "model": "default", "tenant": "t", "queued": 1.0, "started": 1.5, "first_token": 2.0, "finished": 4.0,
        "prompt_tokens": 7, "cached_tokens": 3, "generated_tokens": 5, "finish_reason": "stop",
    }  # fmt: skip
    return RequestRecord(**{**known, **more})


def step(**more: Any) -> StepRecord:
    known = {"model": "default", "time": 1.0, "steps": 2, "seconds": 0.1, "prefill_tokens": 4, "decode_tokens": 2}
    return StepRecord(**{**known, "running": 2, "waiting": 1, "kv_used": 25, "kv_capacity": 100, "preemptions": 1, **more})


def test_what_the_runtime_tells_of_is_counted_for_every_caller(client: Make, runtime: ScriptedRuntime) -> None:
    made = client()
    (listener,) = runtime.listeners
    listener(record())
    listener(record(tenant="other", finish_reason="length", first_token=None, started=None))
    listener(record(finish_reason="cancelled", generated_tokens=1))
    found = samples(made)
    mine = ("default", "t")
    assert found["vllm:request_success_total", "stop", *mine] == found["vllm:request_success_total", "abort", *mine] == 1
    assert found["vllm:request_success_total", "length", "default", "other"] == 1
    assert found["vllm:prompt_tokens_total", *mine] == 14
    assert found["vllm:prompt_tokens_cached_total", *mine] == 6
    assert found["vllm:generation_tokens_total", *mine] == 6
    assert found["vllm:e2e_request_latency_seconds_sum", *mine] == 6.0
    assert found["vllm:request_queue_time_seconds_sum", *mine] == 1.0
    assert found["vllm:time_to_first_token_seconds_sum", *mine] == 2.0
    assert found["vllm:request_time_per_output_token_seconds_sum", *mine] == 0.5
    assert ("vllm:time_to_first_token_seconds_sum", "default", "other") not in found
    made.application.close()
    assert runtime.listeners == []


def test_guards_that_fired_are_counted(client: Make, runtime: ScriptedRuntime) -> None:
    """Which, where and how; never the text."""
    made = client()
    (listener,) = runtime.listeners
    for outcome in ("blocked", "replaced", "blocked"):
        listener(GuardRecord(guard="privacy", stage="output", outcome=outcome, model="default", tenant="t"))
    found = {key: value for key, value in samples(made).items() if key[0] == "llmasos:guard_fired_total"}
    assert {frozenset(key[1:]): value for key, value in found.items()} == {
        frozenset({"privacy", "output", "blocked", "default", "t"}): 2,
        frozenset({"privacy", "output", "replaced", "default", "t"}): 1,
    }


def test_gauges_of_a_model_are_sums_over_its_replicas(client: Make, runtime: ScriptedRuntime) -> None:
    made = client()
    (listener,) = runtime.listeners
    for told in (step(), step(replica=1, running=3, kv_used=75), step(replica=1, running=0, waiting=0, kv_used=35)):
        listener(told)
    found = samples(made)
    assert found["vllm:num_requests_running", "default"] == 2
    assert found["vllm:num_requests_waiting", "default"] == 1
    assert found["vllm:kv_cache_usage_perc", "default"] == pytest.approx(0.3)
    assert found["vllm:num_preemptions_total", "default"] == 3


def test_failures_are_counted_by_code_and_requests_name_no_label(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["break"] = ("The ", EngineFailed("The engine failed."))
    made = client()
    for _ in range(2):
        made.post(CHAT, chat_body("hi", model="somebody's words"))
    for stream in (True, False):
        made.post(CHAT, chat_body("break", stream=stream))
    found = samples(made)
    assert found["llmasos:request_failure_total", "model_not_found"] == 2
    assert found["llmasos:request_failure_total", "server_error"] == 2
    assert not any("words" in label for key in found for label in key)
    assert found[("llmasos:num_requests_unaccepted",)] == 0


def test_metrics_need_a_key_that_may_inspect(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.permissions = {"use"}
    assert client().ask("GET", "/metrics").status_code == 403
