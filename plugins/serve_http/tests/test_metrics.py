"""``/metrics``: what generations took."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from llmasos_hookspecs import EngineFailed
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.scripted_runtime import KEY

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


def test_answers_are_counted_whole_and_streamed(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.script["hi"] = ("The ", "otters", ".")
    made = client()
    made.post(CHAT, chat_body("hi"), x_api_key=KEY)
    made.chunks(CHAT, chat_body("hi"))
    found = samples(made)
    for tenant in ("kit-tenant", "local"):
        labels = ("default", tenant)
        assert found["vllm:request_success_total", "stop", *labels] == 1
        assert found["vllm:prompt_tokens_total", *labels] == 3
        assert found["vllm:prompt_tokens_cached_total", *labels] == 1
        assert found["vllm:generation_tokens_total", *labels] == 3
        assert found["vllm:num_requests_running", *labels] == 0
        for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_time_per_output_token_seconds"):
            assert found[f"vllm:{name}_count", *labels] == 1
            assert found[f"vllm:{name}_sum", *labels] >= 0
    assert found[("vllm:num_requests_waiting",)] == 0


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
    assert found[("vllm:num_requests_waiting",)] == 0
    assert found["vllm:num_requests_running", "default", "local"] == 0


def test_metrics_need_a_key_that_may_inspect(client: Make, runtime: ScriptedRuntime) -> None:
    runtime.permissions = {"use"}
    assert client().ask("GET", "/metrics").status_code == 403
