"""Clients that users have, unchanged: openai, langchain-openai, anthropic, ollama, the llm program and curl."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmasos_hookspecs import ContextLengthExceeded, EngineFailed, LLMasOSError, NotAllowed, QuotaExceeded
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.scripted_runtime import KEY
from llmasos_serve_http.listening import HttpServer

if TYPE_CHECKING:
    import openai

MESSAGES: Any = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "hi"}]


def test_openai_chats_and_streams(openai_client: openai.OpenAI, runtime: ScriptedRuntime) -> None:
    whole = openai_client.chat.completions.create(model="default", messages=MESSAGES, max_completion_tokens=9)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("The otters sleep.", "stop")
    assert whole.usage is not None
    assert (whole.usage.total_tokens, whole.usage.prompt_tokens_details.cached_tokens) == (6, 1)
    assert whole._request_id
    stream = openai_client.chat.completions.create(model="default", messages=MESSAGES, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "The otters sleep."
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert runtime.principals[-1].tenant == "kit-tenant"
    with openai_client.chat.completions.stream(model="default", messages=MESSAGES) as accumulated:
        assert accumulated.get_final_completion().choices[0].message.content == "The otters sleep."


def test_openai_completes_and_lists(openai_client: openai.OpenAI) -> None:
    assert openai_client.completions.create(model="default", prompt="hi").choices[0].text == "The otters sleep."
    assert "".join(chunk.choices[0].text for chunk in openai_client.completions.create(model="default", prompt="hi", stream=True)) == (
        "The otters sleep."
    )
    assert [model.id for model in openai_client.models.list()] == ["default"]
    assert openai_client.models.retrieve("default").id == "default"


def test_openai_asks_on_an_event_loop(server: HttpServer) -> None:
    import openai

    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.endpoints[0].url}/v1", api_key=KEY, max_retries=0) as client:
            found = await asyncio.gather(*(client.chat.completions.create(model="default", messages=MESSAGES) for _ in range(16)))
            return [each.choices[0].message.content for each in found]

    assert asyncio.run(ask()) == ["The otters sleep."] * 16


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ContextLengthExceeded("Too long."), "BadRequestError", "context_length_exceeded"),
        (NotAllowed("You may not."), "PermissionDeniedError", "permission_denied"),
        (QuotaExceeded("Nothing is left.", 1.0), "RateLimitError", "insufficient_quota"),
        (EngineFailed("It failed."), "InternalServerError", "server_error"),
    ],
)
def test_openai_raises_its_own_errors(
    openai_client: openai.OpenAI, runtime: ScriptedRuntime, monkeypatch: pytest.MonkeyPatch, error: LLMasOSError,
    kind: str, code: str,
) -> None:  # fmt: skip
    import openai

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(runtime, "generate", fail)
    for stream in (False, True):
        with pytest.raises(getattr(openai, kind)) as raised:
            openai_client.chat.completions.create(model="default", messages=MESSAGES, stream=stream)
        assert raised.value.code == code


def test_openai_hears_of_wrong_models_keys_and_broken_streams(openai_client: openai.OpenAI) -> None:
    import openai

    with pytest.raises(openai.NotFoundError) as missing:
        openai_client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.AuthenticationError):
        openai_client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.APIError, match="The engine failed"):
        list(openai_client.chat.completions.create(model="default", messages=[{"role": "user", "content": "break"}], stream=True))


def test_openai_that_leaves_a_stream_ends_its_request(openai_client: openai.OpenAI, runtime: ScriptedRuntime) -> None:
    runtime.script["wait"] = ("The", threading.Event())
    stream = openai_client.chat.completions.create(model="default", messages=[{"role": "user", "content": "wait"}], stream=True)
    next(stream)
    stream.close()
    assert runtime.answers[-1].cancelled.wait(30)


def test_anthropic_asks_and_streams(server: HttpServer) -> None:
    import anthropic  # seconds, in each process that collects the tests

    asked: Any = {"model": "default", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    with anthropic.Anthropic(base_url=server.endpoints[0].url, api_key=KEY, max_retries=0) as client:
        whole = client.messages.create(**asked)
        assert (whole.content[0].text, whole.stop_reason, whole.usage.output_tokens) == ("The otters sleep.", "end_turn", 3)
        with client.messages.stream(**asked) as stream:
            assert "".join(stream.text_stream) == "The otters sleep."
            final = stream.get_final_message()
        assert (final.content[0].text, final.stop_reason, final.usage) == ("The otters sleep.", "end_turn", whole.usage)
        assert client.messages.count_tokens(model="default", messages=asked["messages"]).input_tokens > 0
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(**{**asked, "model": "claude"})
        with pytest.raises(anthropic.AuthenticationError):
            client.with_options(api_key="wrong").messages.create(**asked)
        with (
            pytest.raises(anthropic.APIStatusError, match="The engine failed"),
            client.messages.stream(**{**asked, "messages": [{"role": "user", "content": "break"}]}) as stream,
        ):
            list(stream)


def test_ollama_asks_and_streams(server: HttpServer) -> None:
    import ollama

    client = ollama.Client(host=server.endpoints[0].url)
    messages = [{"role": "user", "content": "hi"}]
    assert client.chat(model="default", messages=messages).message.content == "The otters sleep."
    parts = list(client.chat(model="default", messages=messages, stream=True))
    assert "".join(part.message.content or "" for part in parts) == "The otters sleep."
    assert (parts[-1].done, parts[-1].eval_count) == (True, 3)
    assert client.generate(model="default", prompt="hi", format={"type": "string"}).response == "The otters sleep."
    assert [model.model for model in client.list().models] == ["default"]
    assert [model.model for model in client.ps().models] == ["default"]
    assert client.show("default").capabilities == ["completion", "tools"]
    with pytest.raises(ollama.ResponseError, match="llama3"):
        client.chat(model="llama3", messages=messages)
    with pytest.raises(ollama.ResponseError, match="The engine failed"):
        list(client.chat(model="default", messages=[{"role": "user", "content": "break"}], stream=True))


def test_langchain_asks_and_streams(server: HttpServer, runtime: ScriptedRuntime) -> None:
    """With usage, the reason of the end, and several answers."""
    import openai
    from langchain_core.messages import HumanMessage
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    chat = ChatOpenAI(
        base_url=f"{server.endpoints[0].url}/v1",
        api_key=SecretStr(KEY),
        model="default",
        max_retries=0,
        max_completion_tokens=9,
        stream_usage=True,
    )
    whole = chat.invoke([("system", "Be kind."), ("human", "hi")])
    assert (whole.text, whole.response_metadata["finish_reason"], whole.usage_metadata["output_tokens"]) == ("The otters sleep.", "stop", 3)
    parts = list(chat.stream("hi"))
    assert "".join(part.text for part in parts) == "The otters sleep."
    assert sum(part.usage_metadata["output_tokens"] for part in parts if part.usage_metadata) == 3
    (answers,) = chat.model_copy(update={"n": 2}).generate([[HumanMessage("hi")]]).generations
    assert [answer.text for answer in answers] == ["The otters sleep."] * 2
    with pytest.raises(openai.AuthenticationError):
        ChatOpenAI(base_url=f"{server.endpoints[0].url}/v1", api_key=SecretStr("wrong"), model="default", max_retries=0).invoke("hi")


def test_the_llm_program_answers(server: HttpServer, tmp_path: Path) -> None:
    """With nothing but the file in which it names models of other servers."""
    model = {"model_id": "ours", "model_name": "default", "api_base": f"{server.endpoints[0].url}/v1", "api_key_name": "ours"}
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([model]), encoding="utf-8")  # YAML holds JSON
    (tmp_path / "keys.json").write_text(json.dumps({"ours": KEY}), encoding="utf-8")
    command = [sys.executable, "-m", "llm", "-m", "ours", "-s", "Be kind.", "hi"]
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, "The otters sleep.\n"), done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_reads_a_stream(server: HttpServer) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True})
    command = ["curl", "-sN", "--fail", f"{server.endpoints[0].url}/v1/chat/completions", "--json", body]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("data: [DONE]\n\n")
