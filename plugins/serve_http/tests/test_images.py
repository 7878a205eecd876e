"""Images in the messages of every dialect: sent with the request, or refused with status 400."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
PIXELS = np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8)


def data_of(pixels: Any) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


DATA = data_of(PIXELS)
URL = f"data:image/png;base64,{DATA}"


def openai_body(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}], "max_tokens": 6, "temperature": 0}


def text(said: str, kind: str = "text") -> dict[str, str]:
    return {"type": kind, "text": said}


def of_chat(answer: Any) -> str:
    return answer["choices"][0]["message"]["content"]


def test_every_dialect_sends_images(seeing: tuple[Any, str]) -> None:
    """OpenAI's chats and responses, Anthropic's messages, Ollama's chat and generate: the answer is that of the model in this process, and
    the image's positions are counted."""
    model, url = seeing
    parts = [{"type": "image", "image": PIXELS}, text("What is it?")]
    expected = model.generate([{"role": "user", "content": parts}], max_new_tokens=6)
    assert expected.prompt_tokens > 9 + 11
    image, question = {"type": "image_url", "image_url": {"url": URL}}, text("What is it?")
    source = {"type": "base64", "media_type": "image/png", "data": DATA}
    anthropic = {
        "max_tokens": 6,
        "temperature": 0,
        "messages": [{"role": "user", "content": [{"type": "image", "source": source}, question]}],
    }
    responses = {"max_output_tokens": 6, "temperature": 0}
    responses["input"] = [{"role": "user", "content": [{"type": "input_image", "image_url": URL}, text("What is it?", "input_text")]}]
    ollama = {"stream": False, "think": False, "options": {"num_predict": 6, "temperature": 0}}
    cases: list[tuple[str, dict[str, Any], Callable[[Any], str]]] = [
        (CHAT, openai_body(image, question), of_chat),
        (RESPONSES, responses, lambda found: found["output"][0]["content"][0]["text"]),
        (MESSAGES, anthropic, lambda found: found["content"][0]["text"]),
        (
            "/api/chat",
            {**ollama, "messages": [{"role": "user", "content": "What is it?", "images": [DATA]}]},
            lambda found: found["message"]["content"],
        ),
        ("/api/generate", {**ollama, "prompt": "What is it?", "images": [DATA]}, lambda found: found["response"]),
    ]
    for path, body, answer_of in cases:
        answer = httpx.post(f"{url}{path}", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer_of(answer.json()) == expected.text, path
    usage = httpx.post(f"{url}{CHAT}", json=cases[0][1], timeout=60).json()["usage"]
    assert usage["prompt_tokens"] == expected.prompt_tokens
    counted = httpx.post(f"{url}{MESSAGES}/count_tokens", json={"messages": anthropic["messages"]}, timeout=60).json()
    assert counted["input_tokens"] == expected.prompt_tokens


@pytest.mark.parametrize(
    "address", ["https://example.org/a.png", "http://127.0.0.1:1/a.png", "file:///etc/passwd", "/etc/passwd", "", None, 7]
)
def test_nothing_is_fetched_for_a_client(seeing: tuple[Any, str], address: Any) -> None:
    """A URL, a file and a path are refused with a sentence that says how to send an image."""
    for path, body in (
        (CHAT, openai_body({"type": "image_url", "image_url": {"url": address}})),
        (CHAT, openai_body({"type": "image_url", "image_url": address})),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": address}]}]}),
    ):
        answer = httpx.post(f"{seeing[1]}{path}", json=body, timeout=60)
        assert answer.status_code == 400
        assert "data:image/png;base64," in answer.json()["error"]["message"]


def test_what_is_no_image_is_a_clients_error(seeing: tuple[Any, str]) -> None:
    """A part that names a path in the form of Python's callers, damaged data, and data that are no image."""
    parts = (
        {"type": "image", "image": "/etc/passwd"},
        {"type": "image", "image": {"path": "/etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,!!!!"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA[:60]}"}},
    )
    for part in parts:
        answer = httpx.post(f"{seeing[1]}{CHAT}", json=openai_body(part), timeout=60)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"].startswith("The image of chat message 0")


def test_ollamas_clients_see_that_the_model_reads_images(seeing: tuple[Any, str]) -> None:
    """Once it is loaded."""
    seeing[0].pipeline.load()
    assert "vision" in httpx.post(f"{seeing[1]}/api/show", json={"model": "default"}, timeout=60).json()["capabilities"]
