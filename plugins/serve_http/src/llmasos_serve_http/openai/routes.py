"""OpenAI's routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import ModelFacts, Prompt, Ranked, TokenPrompt, UnknownModel
from llmasos_serve_http.answering import Answering
from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.openai import chat, completions, operations, response_bodies
from llmasos_serve_http.openai.assisted import Assisted
from llmasos_serve_http.openai.embeddings import EmbeddingsAnswer, EmbeddingsAsked, RankingAsked
from llmasos_serve_http.openai.response_rendering import ResponseRendering
from llmasos_serve_http.routes import Guarded, Service


class OpenAI:
    """What OpenAI's clients ask for."""

    def __init__(self, service: Service, answering: Answering) -> None:
        self._service = service
        self._answering = answering
        self._assisted = Assisted(service, answering)

    def routes(self) -> Iterator[BaseRoute]:
        """Each with its permission."""
        plain = OpenAIDialect()
        yield Route("/v1/models", Guarded(self._service, "use", plain, self.models, operation=operations.MODELS), methods=["GET"])
        yield Route("/v1/models/{name:path}", Guarded(self._service, "use", plain, self.model, operation=operations.MODEL), methods=["GET"])
        yield Route(
            "/v1/chat/completions", Guarded(self._service, "use", chat.DIALECT, self.chat, operation=operations.CHAT), methods=["POST"]
        )
        yield Route(
            "/v1/completions",
            Guarded(self._service, "use", completions.DIALECT, self.completions, operation=operations.COMPLETIONS),
            methods=["POST"],
        )
        yield Route(
            "/v1/responses",
            Guarded(self._service, "use", response_bodies.DIALECT, self.responses, operation=operations.RESPONSES),
            methods=["POST"],
        )
        yield Route(
            "/v1/embeddings", Guarded(self._service, "use", plain, self.embeddings, operation=operations.EMBEDDINGS), methods=["POST"]
        )
        yield Route("/v1/rerank", Guarded(self._service, "use", plain, self.rerank, operation=operations.RERANK), methods=["POST"])

    async def models(self, call: Call) -> None:
        """Those that the client may use."""
        await call.reply({"object": "list", "data": [_described(facts) for facts in await self._service.models(call.known)]})

    async def model(self, call: Call) -> None:
        """One of them."""
        name = call.path["name"]
        for facts in await self._service.models(call.known):
            if facts.name == name:
                await call.reply(_described(facts))
                return
        raise UnknownModel(f"There is no model {name[:200]!r} that you may use; /v1/models lists them.")

    async def chat(self, call: Call) -> None:
        """Answer chat messages."""
        body = await call.fields()
        asked = chat.asked_of(body, self._service.options.temperature)
        await self._answering.answer(call, asked, chat.ChatRendering(call.id, body))

    async def completions(self, call: Call) -> None:
        """Continue a text."""
        body = await call.fields()
        asked = completions.asked_of(body, self._service.options.temperature)
        echoes = [await self._text(call, prompt, asked.model) for prompt in (asked.prompt, *asked.more)] if body.get("echo") else []
        await self._answering.answer(call, asked, completions.CompletionRendering(call.id, body, echoes))

    async def _text(self, call: Call, prompt: Prompt | TokenPrompt, model: str | None) -> str:
        """The text of a completion's prompt."""
        if not isinstance(prompt, TokenPrompt):
            return str(prompt)
        runtime = self._service.runtime
        return await self._service.threads.call(lambda: runtime.detokenize(call.known, prompt.tokens, model=model))

    async def responses(self, call: Call) -> None:
        """Answer what a response's input holds."""
        body = await call.fields()
        if self._assisted.answers(body):
            await self._assisted.answer(call, body)
            return
        asked = response_bodies.asked_of(body, self._service.options.temperature)
        await self._answering.answer(call, asked, ResponseRendering(call.id, body))

    async def embeddings(self, call: Call) -> None:
        """A vector for each text."""
        asked = EmbeddingsAsked.of(await call.fields())
        runtime, principal = self._service.runtime, call.known

        def embed() -> EmbeddingsAnswer:
            vectors = runtime.embed(principal, asked.texts, model=asked.model, dimensions=asked.dimensions)
            counts = (
                len(text.tokens)
                if isinstance(text, TokenPrompt)
                else runtime.count_tokens(principal, text, model=asked.model, kind="passage")
                for text in asked.texts
            )
            return EmbeddingsAnswer(vectors=vectors, tokens=sum(counts))

        await call.reply(asked.body(await self._service.threads.call(embed)))

    async def rerank(self, call: Call) -> None:
        """Documents, the best answer to a query first."""
        asked = RankingAsked.of(await call.fields())
        runtime, principal = self._service.runtime, call.known

        def rank() -> Sequence[Ranked]:
            return runtime.rank(principal, asked.query, asked.documents, model=asked.model, top=asked.top)

        await call.reply(asked.body(await self._service.threads.call(rank)))


def _described(facts: ModelFacts) -> dict[str, Any]:
    return {"id": facts.name, "object": "model", "created": 0, "owned_by": "llmasos", "max_model_len": facts.context_length}
