"""OpenAI's routes of sound, in front of the tasks ``transcribe`` and ``speak``."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import PluginError, RequestError
from llmasos_serve_http.answering import Answering
from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.failures import refused
from llmasos_serve_http.fields import model_of, refuse, shown
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service
from llmasos_serve_http.schemas import TEXT, answer, body, harmless

_MULTIPART: Final = "multipart/form-data"
#: Fields of a form, and bytes of each that is no file.
_MOST_FIELDS: Final = 32
_LONGEST_FIELD: Final = 16 << 10
#: Samples a second of ``pcm``, as OpenAI has it.
_PCM_RATE: Final = 24_000

#: Fields of a form whose other values would change the answer.
_REFUSED_IN_FORMS: Final = {"prompt": ("",), "temperature": ("0", "0.0"), "stream": ("false", "False", "0")}
_REFUSED_IN_SPEECH: Final = {"speed": (1, 1.0), "instructions": ("",), "stream_format": ("audio",)}
_TEXT_FORMS: Final = ("json", "text", "verbose_json")
_SOUND_FORMS: Final = {"wav": "audio/wav", "pcm": "audio/pcm"}

_TRANSCRIPTIONS: Final = Operation(
    body={
        "type": "object",
        "properties": {
            "file": {"type": "string", "format": "binary", "description": "A WAV file."},
            "model": {"type": "string", "description": "Any name: the config says what transcribes."},
            "language": TEXT,
            "response_format": {"enum": list(_TEXT_FORMS)},
            **harmless(_REFUSED_IN_FORMS),
        },
        "required": ["file"],
    },
    body_type=_MULTIPART,
    answer=answer(text=TEXT),
)
_SPEECH: Final = Operation(
    body=body(
        {
            "model": {"type": "string", "description": "Any name: the config says what speaks."},
            "input": {"type": "string", "minLength": 1},
            "voice": {"type": ["string", "object"], "description": "Any name: the config says what speaks."},
            "response_format": {"enum": list(_SOUND_FORMS)},
            **harmless(_REFUSED_IN_SPEECH),
        },
        required=["input"],
    ),
    answer={"type": "string", "format": "binary"},
    media_type="audio/wav",
)
_DIALECT: Final = OpenAIDialect()


class Audio:
    """What OpenAI's clients ask for by sound. Who may run the tasks may use the routes."""

    def __init__(self, service: Service, answering: Answering) -> None:
        self._service = service
        self._answering = answering

    def routes(self) -> Iterator[BaseRoute]:
        """Each with its permission."""
        hear = Guarded(self._service, "use", _DIALECT, self.transcriptions, operation=_TRANSCRIPTIONS)
        yield Route("/v1/audio/transcriptions", hear, methods=["POST"])
        yield Route("/v1/audio/speech", Guarded(self._service, "use", _DIALECT, self.speech, operation=_SPEECH), methods=["POST"])

    async def transcriptions(self, call: Call) -> None:
        """Write an uploaded recording down."""
        fields, file = await _form(call)
        refuse(fields, _REFUSED_IN_FORMS)
        form = fields.get("response_format", "json")
        if form not in _TEXT_FORMS:
            raise RequestError(f"response_format is {shown(form)}, and it must be one of {', '.join(_TEXT_FORMS)}.", "response_format")
        inputs = {"audio": base64.b64encode(file).decode(), "language": fields.get("language", "")}
        output = await self._run(call, "transcribe", inputs, {"audio": "file"})
        if form == "text":
            await call.reply_bytes((output["text"] + "\n").encode(), "text/plain; charset=utf-8")
            return
        found: dict[str, Any] = {"text": output["text"]}
        if form == "verbose_json":
            segments = [{"id": place, **segment} for place, segment in enumerate(output["segments"])]
            found |= {"task": "transcribe", "language": inputs["language"], "duration": output["seconds"], "segments": segments}
        await call.reply({**found, "usage": {"type": "duration", "seconds": output["seconds"]}})

    async def speech(self, call: Call) -> None:
        """Say a text aloud; the answer is a WAV file, or its samples."""
        found = await call.fields()
        refuse(found, _REFUSED_IN_SPEECH)
        model_of(found)
        text, voice, form = found.get("input"), found.get("voice", ""), found.get("response_format", "wav")
        if not isinstance(text, str) or not text:
            raise RequestError("input must be a text that is not empty.", "input")
        if not isinstance(voice, str | Mapping):
            raise RequestError(f"voice is {shown(voice)}, and it must be a name.", "voice")
        if form not in _SOUND_FORMS:
            raise RequestError(f"response_format is {shown(form)}, and this server makes {' and '.join(_SOUND_FORMS)}.", "response_format")
        inputs = {"text": text, "form": form, "sample_rate": _PCM_RATE if form == "pcm" else 0}
        output = await self._run(call, "speak", inputs, {"text": "input"})
        await call.reply_bytes(base64.b64decode(output["audio"]), _SOUND_FORMS[form])

    async def _run(self, call: Call, task: str, inputs: Mapping[str, Any], fields: Mapping[str, str]) -> Mapping[str, Any]:
        """A task's output. ``fields``: what the request calls its inputs."""
        runtime = self._service.runtime
        try:
            return await self._answering.attended(call, runtime.arun(call.known, task, inputs))
        except RequestError as error:
            raise RequestError(str(error), fields.get(error.param, error.param)) from error
        except PluginError:
            known = await self._service.threads.call(lambda: {facts.name for facts in runtime.tasks(call.known)})
            if task in known:
                raise
            sentence = f"This server has no task {task}; install llmasos-app-voice beside it, with a transcriber and a speaker."
            raise refused(501, sentence, "not_supported") from None


async def _form(call: Call) -> tuple[dict[str, str], bytes]:
    """The fields of a form that uploads one file, and the file's bytes. The body is bounded, and nothing of it is written to disk.

    Raises ``RequestError``, or ``Refused`` for another type of body.
    """
    kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _MULTIPART:
        raise refused(415, f'The body is of the type "{kind}"; send {_MULTIPART}.', "unsupported_media_type")
    whole = await call.body()

    async def parts() -> AsyncGenerator[bytes, None]:
        yield whole

    parser = MultiPartParser(call.headers, parts(), max_files=1, max_fields=_MOST_FIELDS, max_part_size=_LONGEST_FIELD)
    parser.spool_max_size = len(whole) + 1
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError) as error:
        said = error.message.rstrip(".") if isinstance(error, MultiPartException) else "it has no boundary, or no names"
        raise RequestError(f"The body is no form: {said}.") from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError("file must be a file that is uploaded: a WAV recording.", "file")
        return {name: value for name, value in form.multi_items() if isinstance(value, str)}, await file.read()
    finally:
        await form.close()
