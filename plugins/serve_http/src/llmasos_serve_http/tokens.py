"""``/tokenize`` and ``/detokenize``, in vLLM's form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import Prompt, RequestError
from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.fields import model_of
from llmasos_serve_http.openai.chat import messages_of, tools_of
from llmasos_serve_http.openai.operations import MESSAGES, TOOLS
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service
from llmasos_serve_http.schemas import TEXT, Schema, answer, body

_IDS: Final[Schema] = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_TOKENIZE: Final = Operation(
    body={
        **body({"model": TEXT, "prompt": TEXT, "messages": MESSAGES, **TOOLS}),
        "oneOf": [answer(prompt=TEXT), answer(messages=MESSAGES)],
    },
    answer=answer(count={"type": "integer"}, tokens=_IDS),
)
_DETOKENIZE: Final = Operation(body=body({"model": TEXT, "tokens": _IDS}, required=["tokens"]), answer=answer(prompt=TEXT))


class Tokens:
    """Texts to token ids and back."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> Iterator[BaseRoute]:
        """Each with its permission."""
        yield Route("/tokenize", Guarded(self._service, "use", OpenAIDialect(), self.tokenize, operation=_TOKENIZE), methods=["POST"])
        yield Route("/detokenize", Guarded(self._service, "use", OpenAIDialect(), self.detokenize, operation=_DETOKENIZE), methods=["POST"])

    async def tokenize(self, call: Call) -> None:
        """The tokens of a ``prompt``, or of ``messages`` through the chat template."""
        found = await call.fields()
        model = model_of(found)
        if ("prompt" in found) == ("messages" in found):
            raise RequestError("The body must have either prompt or messages.", "prompt")
        prompt: Prompt = found["prompt"] if "prompt" in found else messages_of(found)
        if "prompt" in found and not isinstance(prompt, str):
            raise RequestError("prompt must be a text.", "prompt")
        runtime = self._service.runtime
        options = {} if "prompt" in found else tools_of(found)
        tokens = await self._service.threads.call(lambda: list(runtime.tokenize(call.known, prompt, model=model, **options)))
        await call.reply({"count": len(tokens), "tokens": tokens})

    async def detokenize(self, call: Call) -> None:
        """The text of ``tokens``."""
        found = await call.fields()
        model, tokens = model_of(found), found.get("tokens")
        if not isinstance(tokens, list):
            raise RequestError("tokens must be a list of token ids.", "tokens")
        runtime = self._service.runtime
        await call.reply({"prompt": await self._service.threads.call(lambda: runtime.detokenize(call.known, tokens, model=model))})
