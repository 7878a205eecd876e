"""Operating the server: health, TLS, limits that are told, the access log and traces."""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trustme
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai

from llmasos_hookspecs import ConfigError, EngineFailed, Quota, QuotaExceeded, Rejected, Remaining
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.scripted_runtime import KEY
from llmasos_serve_http.access_log import AccessLog
from llmasos_serve_http.handled import Facts, Handled
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options

from .http_clients import begun, chat_body, streamed, whole

CHAT = "/v1/chat/completions"
HANDLED = Handled(id="1", began=0, seconds=0.5, method="GET", route="/", status=200, client="", headers={}, facts=Facts())
Start = Callable[..., HttpServer]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def files(folder: Path, authority: trustme.CA, name: str = "localhost") -> dict[str, str]:
    """Options with a certificate for ``name`` and its key."""
    issued = authority.issue_cert(name, "127.0.0.1")
    folder.mkdir(exist_ok=True)
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (folder / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    return {"tls_certificate": str(folder / "chain.pem"), "tls_key": str(folder / "key.pem")}


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def test_a_model_that_does_not_get_on_is_not_ready(start: Start, runtime: ScriptedRuntime) -> None:
    """It has something to compute, and no step ended for too long; no name is told."""
    url = start().endpoints[0].url
    for silent, status, told in (
        ({}, 200, "ready"),
        ({"secret-model": 29.0}, 200, "ready"),
        ({"a": 0.0, "secret-model": 31.0}, 503, "stalled"),
    ):
        runtime.silent = silent
        answer = httpx.get(f"{url}/readyz")
        assert (answer.status_code, answer.json()) == (status, {"status": told})
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_clients_connect_with_tls(start: Start, tmp_path: Path, authority: trustme.CA) -> None:
    """To a name that the certificate has, and with nothing older than TLS 1.2; one that speaks plain HTTP gets nothing."""
    server = start(**files(tmp_path, authority))
    url = server.endpoints[0].url
    assert url.startswith("https://")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    assert httpx.post(f"{url}{CHAT}", json=chat_body("hi"), verify=context).json()["choices"][0]["message"]["content"] == "hi"
    with httpx.stream("POST", f"{url}{CHAT}", json=chat_body("hi", stream=True), verify=context) as answer:
        assert "data: [DONE]" in "".join(answer.iter_text())
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url.replace('https', 'http')}/healthz")
    page = httpx.get(f"{url}/v1/models", verify=context, headers={"origin": url})
    assert page.status_code == 200


def test_files_that_are_no_certificate_and_key_are_refused(runtime: ScriptedRuntime, tmp_path: Path, authority: trustme.CA) -> None:
    """Before anything listens."""
    right = files(tmp_path / "a", authority)
    other = files(tmp_path / "b", authority)
    for options, sentence in (
        ({"tls_certificate": right["tls_certificate"]}, "needs both"),
        ({"tls_key": right["tls_key"]}, "needs both"),
        ({**right, "tls_key": other["tls_key"]}, "no certificate and key"),
        ({**right, "tls_certificate": str(tmp_path / "missing.pem")}, "No such file"),
        ({**right, "tls_certificate": __file__}, "no certificate and key"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            HttpServer(runtime, Options(port=0, **options))


def test_what_a_client_has_left_is_told_in_headers(start: Start, runtime: ScriptedRuntime) -> None:
    """Whole and streamed; nothing where it has no limits."""
    url = start().endpoints[0].url
    quota = Quota(limit=60, left=59, renewed=0.25)
    for left, expected in (
        (None, {}),
        (Remaining(requests=quota), {"limit-requests": "60", "remaining-requests": "59", "reset-requests": "250ms"}),
        (
            Remaining(tokens=Quota(limit=1000, left=0, renewed=3725.1)),
            {"limit-tokens": "1000", "remaining-tokens": "0", "reset-tokens": "1h2m6s"},
        ),
        (Remaining(tokens=Quota(limit=1, left=1, renewed=59.2)), {"limit-tokens": "1", "remaining-tokens": "1", "reset-tokens": "1m0s"}),
    ):
        runtime.left = left
        for stream in (False, True):
            headers = httpx.post(f"{url}{CHAT}", json=chat_body("hi", stream=stream)).headers
            found = {name.removeprefix("x-ratelimit-"): value for name, value in headers.items() if name.startswith("x-ratelimit")}
            assert found == expected


@pytest.mark.parametrize("stream", [False, True])
def test_who_has_nothing_left_is_told_so_in_headers(start: Start, runtime: ScriptedRuntime, stream: bool) -> None:
    """Status 429 has the headers too, whether the quota was exceeded or the scheduler refused what had been reserved."""
    url = start().endpoints[0].url
    left = Remaining(requests=Quota(limit=60, left=0, renewed=20.0), tokens=Quota(limit=9, left=2, renewed=61.0))
    runtime.script["again"] = (Rejected("The queue is full.", 2.0),)
    runtime.left = left
    answered = runtime.agenerate

    async def exceeded(*arguments: Any, **more: Any) -> Any:
        raise QuotaExceeded("There are 2 tokens left.", 20.0, left)

    for prompt, generate in (("again", answered), ("over", exceeded)):
        runtime.agenerate = generate  # type: ignore[method-assign]
        answer = httpx.post(f"{url}{CHAT}", json=chat_body(prompt, stream=stream))
        assert (answer.status_code, int(answer.headers["retry-after"]) > 1) == (429, True)
        found = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit-re")}
        assert found == {
            "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s",
            "x-ratelimit-remaining-tokens": "2", "x-ratelimit-reset-tokens": "1m1s",
        }  # fmt: skip


def test_each_request_is_a_line_of_the_access_log(start: Start, runtime: ScriptedRuntime, tmp_path: Path) -> None:
    """With who, what, how long and how many tokens; no prompt, no answer, no key, and no address that a client made up."""
    log = tmp_path / "access.log"
    runtime.script["tell a secret"] = ("The ", "otters", ".")
    runtime.script["break"] = ("The ", EngineFailed("The engine failed."))
    server = start(access_log=str(log))
    url = server.endpoints[0].url
    whole(server.endpoints[0], CHAT, chat_body("tell a secret"), KEY)
    streamed(server.endpoints[0], CHAT, chat_body("tell a secret"))
    httpx.post(f"{url}{CHAT}", json=chat_body("break", stream=True), headers={"x-request-id": "mine"})
    httpx.post(f"{url}{CHAT}", json={}, headers={"authorization": "Bearer wrong-key"})
    httpx.get(f"{url}/v1/secret?key={KEY}")
    httpx.get(f"{url}/v1/models/default")
    server.stop()
    first, second, third, denied, nowhere, model = lines(log)
    assert (first["route"], first["status"], first["principal"], first["tenant"], first["model"]) == (
        CHAT,
        200,
        "kit",
        "kit-tenant",
        "default",
    )
    assert (first["prompt_tokens"], first["cached_tokens"], first["generated_tokens"], first["finishes"]) == (3, 1, 3, ["stop"])
    assert 0 < first["first"] <= first["seconds"]
    assert (second["tenant"], second["generated_tokens"]) == ("local", 3)
    assert (third["id"], third["status"], third["code"]) == ("mine", 200, "server_error")
    assert (denied["status"], denied["code"], "tenant" in denied) == (401, "invalid_api_key", False)
    assert (nowhere["status"], nowhere["code"], "route" in nowhere) == (404, "not_found", False)
    assert (model["method"], model["route"], model["client"]) == ("GET", "/v1/models/{name:path}", "127.0.0.1")
    text = log.read_text(encoding="utf-8")
    assert not any(word in text for word in ("secret", "otters", KEY, "wrong-key"))


def test_a_client_that_leaves_is_in_the_log(start: Start, runtime: ScriptedRuntime, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    runtime.script["wait"] = ("The", threading.Event())
    server = start(access_log=str(log))
    with begun(server.endpoints[0], CHAT, chat_body("wait")):
        while not runtime.answers:
            threading.Event().wait(0.01)
    assert runtime.answers[0].cancelled.wait(20)
    assert server.drain(20)
    server.stop()
    (line,) = lines(log)
    assert (line["status"], line["finishes"]) == (0, ["cancelled"])


def test_a_log_that_cannot_be_written_to_is_refused_and_a_slow_one_loses_lines_and_says_so(
    runtime: ScriptedRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        HttpServer(runtime, Options(access_log=str(tmp_path / "missing" / "log")))
    monkeypatch.setattr("llmasos_serve_http.access_log._MOST", 2)
    disk, has_its_name = threading.Event(), os.path.samestat
    monkeypatch.setattr(os.path, "samestat", lambda *found: disk.wait(20) and has_its_name(*found))
    log = AccessLog(str(tmp_path / "log"))
    for _ in range(10):
        log(HANDLED)
    disk.set()
    while not log._waiting.empty():
        threading.Event().wait(0.01)
    log(HANDLED)
    log.close()
    found = lines(tmp_path / "log")
    assert found[-1]["lost"] + len(found) == 11
    assert found[0] == {"time": "1970-01-01T00:00:00.000Z", "id": "1", "method": "GET", "route": "/", "status": 200, "seconds": 0.5}


def test_an_access_log_goes_to_standard_error(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the process, also where ``sys.stderr`` is something else."""
    monkeypatch.setattr("sys.stderr", None)
    log = AccessLog("-")
    log(HANDLED)
    log.close()
    assert [json.loads(line)["id"] for line in capfd.readouterr().err.splitlines()] == ["1"]


def test_an_access_log_may_be_renamed_while_it_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(str(path))
    log(HANDLED)
    while not path.read_bytes():
        threading.Event().wait(0.001)
    path.rename(tmp_path / "log.1")
    log(HANDLED)
    log.close()
    assert len(lines(tmp_path / "log.1")) == len(lines(path)) == 1


def test_a_full_disk_loses_lines_of_the_access_log_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, rooms = tmp_path / "log", iter([0, 0, 1, 0, 1])
    has_its_name = os.path.samestat
    monkeypatch.setattr(os.path, "samestat", lambda *found: has_its_name(*found) if next(rooms) else _full())
    log = AccessLog(str(path))
    for _ in range(5):
        log(HANDLED)
    log.close()
    assert len(lines(path)) == 2
    assert [record.getMessage() for record in caplog.records] == [f"The access log {path} cannot be written, and lines are lost: full."] * 2


def test_a_line_that_is_no_text_is_lost_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog(str(tmp_path / "log"))
    log(attrs.evolve(HANDLED, facts=Facts(tenant="\udcff")))
    log(HANDLED)
    log.close()
    assert len(lines(tmp_path / "log")) == len(caplog.records) == 1


def _full() -> bool:
    raise OSError("full.")


@pytest.fixture(scope="module")
def spans() -> Iterator[InMemorySpanExporter]:
    """What a process that collects traces gets."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", provider)
        yield exporter
    provider.shutdown()


def test_each_request_is_a_span(start: Start, runtime: ScriptedRuntime, spans: InMemorySpanExporter) -> None:
    """By the conventions for generative AI, as a child of the client's span, and without a prompt."""
    runtime.script["tell a secret"] = ("The ", "otters", ".")
    runtime.script["break"] = ("The ", EngineFailed("The engine failed."))
    server = start(traces=True)
    url = server.endpoints[0].url
    parent = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    httpx.post(f"{url}{CHAT}", json=chat_body("tell a secret"), headers=parent)
    httpx.post(f"{url}{CHAT}", json=chat_body("break"))
    httpx.get(f"{url}/v1/models")
    server.stop()
    chat, broken, models = spans.get_finished_spans()
    assert (chat.name, chat.kind, chat.context.trace_id, chat.parent.span_id) == (
        "chat default",
        trace.SpanKind.SERVER,
        int("a" * 32, 16),
        int("b" * 16, 16),
    )
    assert chat.attributes is not None
    assert chat.attributes[gen_ai.GEN_AI_OPERATION_NAME] == gen_ai.GenAiOperationNameValues.CHAT.value
    assert chat.attributes[gen_ai.GEN_AI_USAGE_INPUT_TOKENS] == 3
    assert chat.attributes[gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS] == 3
    assert chat.attributes[gen_ai.GEN_AI_RESPONSE_FINISH_REASONS] == ("stop",)
    known = {value for name, value in vars(gen_ai).items() if name.startswith("GEN_AI_")}
    assert {name for name in chat.attributes if name.startswith("gen_ai.")} <= known
    assert chat.end_time > chat.start_time
    assert "secret" not in repr(dict(chat.attributes))
    assert (broken.status.status_code, broken.attributes["error.type"]) == (trace.StatusCode.ERROR, "server_error")
    assert (models.name, models.parent, models.status.status_code) == ("GET /v1/models", None, trace.StatusCode.UNSET)
