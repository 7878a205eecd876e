"""``/v1/audio/transcriptions`` and ``/v1/audio/speech``: OpenAI's client, unchanged, and what is refused."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from llmasos_hookspecs import NotAllowed, PluginError, Principal, RequestError, TaskFacts
from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_hookspecs.testing.scripted_runtime import KEY
from llmasos_serve_http.application import Application
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options

from .in_process import Client, data

if TYPE_CHECKING:
    import openai

WAV = b"RIFF0000WAVE not one that anybody could play\r\n\r\n--x--\xff\0"


class Sounding(ScriptedRuntime):
    """A runtime with the tasks of sound; it remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[tuple[str, Mapping[str, Any]]] = []
        self.error: Exception | None = None
        self.listed = True

    def tasks(self, principal: Principal) -> list[TaskFacts]:
        names = ("speak", "transcribe") if self.listed else ()
        return [TaskFacts(name=name, summary="", inputs={}, output={}, streams=False) for name in names]

    async def arun(self, principal: Principal, task: str, inputs: Mapping[str, Any], **more: Any) -> Mapping[str, Any]:
        self.principals.append(principal)
        self.inputs.append((task, inputs))
        if self.error is not None:
            raise self.error
        if task == "speak":
            return {"audio": base64.b64encode(inputs["text"].encode()).decode(), "form": inputs["form"], "sample_rate": 1, "seconds": 1.0}
        return {"text": "an otter", "seconds": 1.5, "segments": [{"text": "an otter", "start": 0.25, "end": 1.0}]}


@pytest.fixture
def runtime() -> Sounding:
    return Sounding()


@pytest.fixture
def openai_client(runtime: Sounding) -> Iterator[openai.OpenAI]:
    import openai

    server = HttpServer(runtime, Options(port=0))
    server.start()
    with openai.OpenAI(base_url=f"{server.endpoints[0].url}/v1", api_key=KEY, max_retries=0) as client:
        yield client
    server.stop()


@pytest.fixture
def client(runtime: Sounding) -> Iterator[Client]:
    application = Application(runtime, Options(max_body=100_000))
    yield Client(application)
    application.close()


def test_openai_has_a_recording_written_down(openai_client: openai.OpenAI, runtime: Sounding) -> None:
    """In each of its forms; the bytes come as they were sent, with the tenant of the key."""
    plain = openai_client.audio.transcriptions.create(model="whisper-1", file=("question.wav", WAV), language="en")
    assert plain.text == "an otter"
    assert runtime.inputs[0] == ("transcribe", {"audio": base64.b64encode(WAV).decode(), "language": "en"})
    assert runtime.principals[-1].tenant == "kit-tenant"
    text = openai_client.audio.transcriptions.create(model="whisper-1", file=WAV, response_format="text", temperature=0)
    assert str(text) == "an otter\n"
    verbose: Any = openai_client.audio.transcriptions.create(model="whisper-1", file=WAV, response_format="verbose_json")
    assert (verbose.duration, verbose.segments[0].text, verbose.segments[0].start, verbose.segments[0].id) == (1.5, "an otter", 0.25, 0)


def test_openai_has_a_text_said(openai_client: openai.OpenAI, runtime: Sounding) -> None:
    """As a WAV file, or as samples at 24 kHz."""
    import openai

    spoken = openai_client.audio.speech.create(model="tts-1", voice="alloy", input="An otter.")
    assert (spoken.read(), spoken.response.headers["content-type"]) == (b"An otter.", "audio/wav")
    samples = openai_client.audio.speech.create(model="tts-1", voice="alloy", input="An otter.", response_format="pcm", speed=1.0)
    assert samples.response.headers["content-type"] == "audio/pcm"
    assert [inputs for _, inputs in runtime.inputs] == [
        {"text": "An otter.", "form": "wav", "sample_rate": 0},
        {"text": "An otter.", "form": "pcm", "sample_rate": 24_000},
    ]
    with pytest.raises(openai.BadRequestError, match="response_format is 'mp3', and this server makes wav and pcm"):
        openai_client.audio.speech.create(model="tts-1", voice="alloy", input="An otter.", response_format="mp3")


@pytest.mark.parametrize(
    ("error", "status", "param", "sentence"),
    [
        (RequestError("It is no WAV file.", "audio"), 400, "file", "It is no WAV file."),
        (RequestError('It does not understand "zz".', "language"), 400, "language", 'It does not understand "zz".'),
        (NotAllowed("You may not run the task."), 403, "", "You may not run the task."),
        (PluginError("No transcriber is installed."), 500, "", "No transcriber is installed."),
    ],
)
def test_errors_of_the_task_are_those_of_the_request(
    client: Client, runtime: Sounding, error: Exception, status: int, param: str, sentence: str
) -> None:
    """With the field's name in the form."""
    runtime.error = error
    answer = client.ask("POST", "/v1/audio/transcriptions", files={"file": WAV})
    found = answer.json()["error"]
    assert (answer.status_code, found["param"] or "", found["message"]) == (status, param, sentence)


def test_a_server_without_the_tasks_says_what_to_install(client: Client, runtime: Sounding) -> None:
    """And is not found to be at fault."""
    runtime.error, runtime.listed = PluginError("There is no task."), False
    for answer in (
        client.ask("POST", "/v1/audio/transcriptions", files={"file": WAV}),
        client.post("/v1/audio/speech", {"input": "hi"}),
    ):
        assert answer.status_code == 501
        assert "install llmasos-app-voice" in answer.json()["error"]["message"]


FORM = {"content-type": "multipart/form-data; boundary=x"}


def part(name: str, content: bytes, more: str = "") -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + more.encode() + b"\r\n\r\n" + content + b"\r\n"


FILE = part("file", WAV.replace(b"--x", b""), '; filename="a.wav"')


@pytest.mark.parametrize(
    ("body", "headers", "status", "param", "sentence"),
    [
        (FILE + b"--x--\r\n", {"content-type": "application/json"}, 415, "", "send multipart/form-data"),
        (b"", {}, 415, "", "send multipart/form-data"),
        (FILE + b"--x--\r\n", {"content-type": "multipart/form-data"}, 400, "", "The body is no form"),
        (b"not a form", FORM, 400, "", "The body is no form"),
        (b"", FORM, 400, "file", "file must be a file that is uploaded"),
        (part("file", b"text") + b"--x--\r\n", FORM, 400, "file", "file must be a file that is uploaded"),
        (FILE + FILE + b"--x--\r\n", FORM, 400, "", "Too many files"),
        (part("a", b"") * 40 + FILE + b"--x--\r\n", FORM, 400, "", "Too many fields"),
        (part("model", b"a" * 20_000) + FILE + b"--x--\r\n", FORM, 400, "", "Part exceeded maximum size"),
        (part("prompt", b"otters") + FILE + b"--x--\r\n", FORM, 400, "prompt", "prompt = 'otters' is not supported"),
        (part("temperature", b"1") + FILE + b"--x--\r\n", FORM, 400, "temperature", "is not supported"),
        (part("stream", b"true") + FILE + b"--x--\r\n", FORM, 400, "stream", "is not supported"),
        (part("response_format", b"srt") + FILE + b"--x--\r\n", FORM, 400, "response_format", "must be one of json, text, verbose_json"),
        (FILE + b"a" * 100_000 + b"--x--\r\n", FORM, 413, "", "longer than 100000 bytes"),
    ],
)
def test_forms_are_bounded_and_refused_by_name(
    client: Client, runtime: Sounding, body: bytes, headers: Mapping[str, str], status: int, param: str, sentence: str
) -> None:
    """Before anything is run."""
    answer = client.ask("POST", "/v1/audio/transcriptions", content=body, headers=headers)
    found = answer.json()["error"]
    assert (answer.status_code, found["param"] or "") == (status, param), found
    assert sentence in found["message"]
    assert runtime.inputs == []


def test_a_large_recording_is_not_written_to_disk(runtime: Sounding, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody said is nobody else's."""
    rolled: list[Any] = []
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rolled.append)
    application = Application(runtime, Options())
    assert data(Client(application).ask("POST", "/v1/audio/transcriptions", files={"file": bytes(3 << 20)}))["text"] == "an otter"
    application.close()
    assert rolled == []
    assert runtime.inputs[0][1]["audio"] == base64.b64encode(bytes(3 << 20)).decode()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"), ({"input": ""}, "input"), ({"input": ["a"]}, "input"), ({"input": "a", "voice": 7}, "voice"),
        ({"input": "a", "speed": 2}, "speed"), ({"input": "a", "instructions": "whisper"}, "instructions"),
        ({"input": "a", "stream_format": "sse"}, "stream_format"), ({"input": "a", "response_format": "mp3"}, "response_format"),
        ({"input": "a", "model": 3}, "model"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_by_name(client: Client, body: Any, param: str) -> None:
    status, error = client.refusal("/v1/audio/speech", body)
    assert (status, error["param"]) == (400, param)


def test_who_has_no_key_is_not_let_in(client: Client, runtime: Sounding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the body read."""
    from llmasos_hookspecs import NotAuthenticated

    def refuse(_: Any) -> Any:
        raise NotAuthenticated("Who are you?")

    monkeypatch.setattr(runtime, "authenticate", refuse)
    ask: Callable[..., Any] = client.ask
    assert ask("POST", "/v1/audio/transcriptions", files={"file": WAV}).status_code == 401
    assert ask("POST", "/v1/audio/speech", json={"input": "a"}).status_code == 401
    assert runtime.inputs == []
