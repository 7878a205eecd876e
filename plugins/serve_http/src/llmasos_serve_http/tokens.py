"""``/tokenize`` and ``/detokenize``, in vLLM's form."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import Prompt, RequestError
from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.fields import model_of
from llmasos_serve_http.openai.chat import messages_of, tools_of
from llmasos_serve_http.routes import Guarded, Service


class Tokens:
    """Texts to token ids and back."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> Iterator[BaseRoute]:
        """Each with its permission."""
        yield Route("/tokenize", Guarded(self._service, "use", OpenAIDialect(), self.tokenize), methods=["POST"])
        yield Route("/detokenize", Guarded(self._service, "use", OpenAIDialect(), self.detokenize), methods=["POST"])

    async def tokenize(self, call: Call) -> None:
        """The tokens of a ``prompt``, or of ``messages`` through the chat template."""
        body = await call.fields()
        model = model_of(body)
        if ("prompt" in body) == ("messages" in body):
            raise RequestError("The body must have either prompt or messages.", "prompt")
        prompt: Prompt = body["prompt"] if "prompt" in body else messages_of(body)
        if "prompt" in body and not isinstance(prompt, str):
            raise RequestError("prompt must be a text.", "prompt")
        runtime = self._service.runtime
        options = {} if "prompt" in body else tools_of(body)
        tokens = await self._service.threads.call(lambda: list(runtime.tokenize(call.known, prompt, model=model, **options)))
        await call.reply({"count": len(tokens), "tokens": tokens})

    async def detokenize(self, call: Call) -> None:
        """The text of ``tokens``."""
        body = await call.fields()
        model, tokens = model_of(body), body.get("tokens")
        if not isinstance(tokens, list):
            raise RequestError("tokens must be a list of token ids.", "tokens")
        runtime = self._service.runtime
        await call.reply({"prompt": await self._service.threads.call(lambda: runtime.detokenize(call.known, tokens, model=model))})
