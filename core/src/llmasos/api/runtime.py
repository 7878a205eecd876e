"""A pipeline as its servers use it: ``llmasos_hookspecs.Runtime``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from llmasos.api.administration import PipelineAdministration
from llmasos.api.answer import PipelineAnswer
from llmasos.api.model import LanguageModel
from llmasos.api.pipeline import Pipeline
from llmasos.compose.access import NamedAccess
from llmasos.compose.client import Charge, Client, Desk
from llmasos.compose.serving import Sending
from llmasos.compose.task_runs import TaskRuns
from llmasos.compose.waiting_room import WaitingRoom
from llmasos_hookspecs import (
    Credentials,
    LLMasOSError,
    ModelFacts,
    NotAllowed,
    NotAuthenticated,
    Permission,
    Principal,
    Prompt,
    Ranked,
    Rejected,
    TaskEvent,
    TaskFacts,
    TaskOutput,
    TextKind,
    TokenPrompt,
)
from llmasos_options import json_schema, unstructure

#: Seconds that closing waits until everything is recorded, where nobody says how long.
CLOSE_SECONDS: Final = 5.0


class PipelineRuntime(PipelineAdministration):
    """What servers may ask of a pipeline; see ``llmasos_hookspecs.Runtime``.

    Attributes:
        draining: new work is refused.
    """

    def __init__(self, pipeline: Pipeline, access: NamedAccess) -> None:
        super().__init__(pipeline, access, Desk(access))
        self.draining = False
        self._runs = TaskRuns()
        self._waiting = WaitingRoom(pipeline.config.resources.max_waiting, pipeline.composer.residency)

    @property
    def active(self) -> int:
        return self._desk.active

    @property
    def open(self) -> bool:
        return self._access.is_open

    def authenticate(self, credentials: Credentials) -> Principal:
        try:
            return self._access.authenticate(credentials)
        except NotAuthenticated:
            self._desk.record(None, "authenticate", "server", "denied", client=credentials.client)
            raise

    def recognise(self, credentials: Credentials) -> Principal | None:
        return self._access.recognise(credentials)

    def authorize(self, principal: Principal, permission: Permission, resource: str = "server") -> None:
        self._allow(principal, permission, resource, permission)

    def allows(self, principal: Principal, permission: Permission, resource: str = "server") -> bool:
        return self._access.allows(principal, permission, resource)

    def models(self, principal: Principal) -> Sequence[ModelFacts]:
        found = []
        for name, model in self._pipeline.models.items():
            if self._access.allows(principal, "use", f"model:{name}"):
                facts = model.describe()
                encoder = facts.get("features")  # of a loaded encoder; others are known to generate, or not known yet
                features = frozenset(encoder) if encoder else frozenset({"generate", "chat", *facts.get("media", ())})
                found.append(
                    ModelFacts(
                        name=name,
                        source=self._pipeline.config.models[self._pipeline.host_of(name).name].source,
                        state=facts["state"],
                        context_length=facts.get("context_length"),
                        features=features,
                    )
                )
        return found

    def generate(
        self, principal: Principal, prompt: Prompt | TokenPrompt, *, model: str | None = None, n: int = 1, **sampling: Any
    ) -> PipelineAnswer:
        self._accept()
        charge = self._desk.arrive(principal)
        try:
            return self._waiting.send_waiting(self._generating(charge, principal, prompt, model, n, sampling))
        except BaseException:
            charge.release()
            raise

    def agenerate(
        self, principal: Principal, prompt: Prompt | TokenPrompt, *, model: str | None = None, n: int = 1, **sampling: Any
    ) -> Coroutine[Any, Any, PipelineAnswer]:
        """What can be refused at once is, before there is anything to await."""
        self._accept()
        if (asked := self._pipeline.models.get(model or self._pipeline.config.default_model)) is not None:
            asked.check_queue()  # what is refused for the length of the queue costs neither a thread nor a record
        return self._sent(principal, prompt, model, n, sampling)

    async def _sent(
        self, principal: Principal, prompt: Prompt | TokenPrompt, model: str | None, n: int, sampling: Mapping[str, Any]
    ) -> PipelineAnswer:
        charge = self._desk.arrive(principal)
        return await self._waiting.send(
            lambda: self._generating(charge, principal, prompt, model, n, sampling), PipelineAnswer.cancel, charge.release
        )

    def _generating(
        self, charge: Charge, principal: Principal, prompt: Prompt | TokenPrompt, model: str | None, n: int, sampling: Mapping[str, Any]
    ) -> Sending[PipelineAnswer]:
        name = self._model(principal, "generate", model)
        view = self._pipeline.models[name].for_client(Client(self._desk, principal, name))
        queued = yield from view.generating(prompt, n, sampling, charge)
        return PipelineAnswer(name, queued, charge)

    def embed(
        self,
        principal: Principal,
        texts: Sequence[str | TokenPrompt],
        *,
        model: str | None = None,
        kind: TextKind = "passage",
        dimensions: int | None = None,
    ) -> Sequence[Sequence[float]]:
        self._accept()
        vectors: Any = self._encoder(principal, "embed", model).embed(texts, kind, dimensions=dimensions)
        return cast("Sequence[Sequence[float]]", vectors)

    def rank(
        self, principal: Principal, query: str, documents: Sequence[str], *, model: str | None = None, top: int | None = None
    ) -> Sequence[Ranked]:
        self._accept()
        return self._encoder(principal, "rank", model).rank(query, documents, top=top)

    def _encoder(self, principal: Principal, action: str, model: str | None) -> LanguageModel:
        name = self._model(principal, action, model)
        return self._pipeline.models[name].for_client(Client(self._desk, principal, name))

    def count_tokens(self, principal: Principal, prompt: Prompt, *, model: str | None = None, **options: Any) -> int:
        return self._pipeline.models[self._model(principal, "count_tokens", model)].count_tokens(prompt, **options)

    def tokenize(self, principal: Principal, prompt: Prompt, *, model: str | None = None, **options: Any) -> Sequence[int]:
        return self._pipeline.models[self._model(principal, "tokenize", model)].encode(prompt, **options)

    def detokenize(self, principal: Principal, tokens: Sequence[int], *, model: str | None = None) -> str:
        return self._pipeline.models[self._model(principal, "detokenize", model)].decode(tokens)

    def tasks(self, principal: Principal) -> Sequence[TaskFacts]:
        found = []
        for name, summary in self._pipeline.tasks().items():
            if not self._access.allows(principal, "use", f"task:{name}"):
                continue
            with contextlib.suppress(LLMasOSError):  # a broken plugin that nobody asked for harms nothing
                task = self._pipeline.task(name)
                streams = getattr(task, "stream", None) is not None
                found.append(
                    TaskFacts(name=name, summary=summary, inputs=json_schema(task.inputs), output=json_schema(task.output), streams=streams)
                )
        return found

    def run(self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None) -> Mapping[str, Any]:
        self._accept()
        with self._recorded(principal, task):
            output: Mapping[str, Any] = unstructure(self._pipeline.run_on(self._view(principal, task, model), task, inputs))
        return output

    async def arun(
        self,
        principal: Principal,
        task: str,
        inputs: Mapping[str, Any],
        *,
        model: str | None = None,
        written: Callable[[str, int], object] | None = None,
    ) -> Mapping[str, Any]:
        return await self._runs.run(lambda: self.run(principal, task, inputs, model=model), written)

    async def stream_task(
        self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None
    ) -> AsyncGenerator[str, None]:
        def pieces() -> Iterator[str]:
            self._accept()
            with self._recorded(principal, task):
                yield from self._pipeline.stream_on(self._view(principal, task, model), task, inputs)

        async with contextlib.aclosing(self._runs.stream(pieces)) as found:
            async for piece in found:
                yield piece

    async def task_events(
        self, principal: Principal, task: str, inputs: Mapping[str, Any], *, model: str | None = None
    ) -> AsyncGenerator[TaskEvent, None]:
        def events() -> Iterator[TaskEvent]:
            self._accept()
            with (
                self._recorded(principal, task),
                contextlib.closing(self._pipeline.events_on(self._view(principal, task, model), task, inputs)) as found,
            ):
                for event in found:
                    yield TaskOutput(unstructure(event.output)) if isinstance(event, TaskOutput) else event

        async with contextlib.aclosing(self._runs.stream(events)) as arrived:
            async for event in arrived:
                yield event

    def _view(self, principal: Principal, task: str, model: str | None) -> LanguageModel:
        """The model for a client's task, which the client may run on it."""
        self._allow(principal, "use", f"task:{task}", "run")
        name = self._model(principal, "run", model)
        return self._pipeline.models[name].for_client(Client(self._desk, principal, name))

    @contextlib.contextmanager
    def _recorded(self, principal: Principal, task: str) -> Iterator[None]:
        """Have it recorded how a task ended that was allowed to run; what was not is recorded where it is refused."""
        try:
            yield
        except NotAllowed:
            raise
        except BaseException as error:
            self._desk.record(principal, "run", f"task:{task}", "failed", error=type(error).__name__)  # a sentence may hold its inputs
            raise
        self._desk.record(principal, "run", f"task:{task}", "done")

    def close(self, seconds: float | None = CLOSE_SECONDS) -> bool:
        """Wait until what was cancelled has ended and everything is recorded; False where that takes longer; None: without bound."""
        self._waiting.close()
        self._runs.close()
        return self._desk.close(seconds)

    def _accept(self) -> None:
        if self.draining:
            raise Rejected("The server is being stopped; send the request to another, or again later.", retry_after=5.0)

    def _model(self, principal: Principal, action: str, name: str | None) -> str:
        """The model that is meant, which the client may use. A client learns of no other that there is."""
        found = name or self._pipeline.config.default_model
        self._allow(principal, "use", f"model:{found}", action)
        return self._pipeline.model_named(found).name
