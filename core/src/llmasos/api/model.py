"""The language model as its users see it: text in, text out, the same on every backend.

Every call goes through one queue and one loop thread, so that calls from many threads and tasks are batched together.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack, overload

import numpy as np
import numpy.typing as npt

from llmasos.api.async_generation import AsyncGeneration, cancel_all
from llmasos.api.checks import check_messages, check_prompts, check_texts
from llmasos.api.closing import Closing
from llmasos.api.options import GenerationOptions, ObjectOptions, Option, lists_options, options
from llmasos.api.part_events import Queued, events_of
from llmasos.api.text_encoding import TextEncoding
from llmasos.compose.answer_forms import PLAIN
from llmasos.compose.generation_params import GenerationParams, token_ids
from llmasos.compose.schemas import as_object
from llmasos.compose.task_runs import TaskRuns
from llmasos_config.foreign_words import InOurWords
from llmasos_hookspecs import (
    Blocked,
    Checkpoint,
    Choice,
    Conversation,
    EngineInfo,
    Event,
    Generation,
    Passage,
    Prompt,
    RequestError,
    Score,
    Stage,
    Task,
    TextKind,
    Tokenizer,
    TokenPrompt,
)
from llmasos_hookspecs.sampling import plain_number
from llmasos_image_input.parts import deferred, has_images
from llmasos_plugin_calls.task_scope import current_task

if TYPE_CHECKING:
    from llmasos.compose.client import Charge, Client
    from llmasos.compose.host import ModelHost
    from llmasos.compose.running_model import Running
    from llmasos.compose.serving import LoopCall, Sending
    from llmasos_engine.ticket import Ticket
    from llmasos_guards.guards import Guards

T = TypeVar("T")
P = TypeVar("P", Prompt, Sequence[Mapping[str, Any]])

#: One ticket, or several.
Sent = TypeVar("Sent", bound="Ticket[Any] | list[Ticket[Any]]")


class ModelPipeline(Protocol):
    """What a model's users reach through ``model.pipeline``: a ``llmasos.Pipeline``."""

    @property
    def guards(self) -> Guards:
        """What prompts and answers pass."""
        ...

    def load(self, model: str | None = None) -> LanguageModel:
        """Fetch and load a model now rather than at its first request."""
        ...

    def model_named(self, name: str | None) -> LanguageModel:
        """A model by name."""
        ...

    def run(self, task: str, *, model: str | None = None, **inputs: Any) -> Any:
        """Run an installed task with typed inputs by name."""
        ...

    @lists_options
    def stream(self, task: str, *, model: str | None = None, **inputs: Any) -> Iterator[str]:
        """Run a task that answers piece by piece."""
        ...

    def task(self, name: str) -> Task:
        """The task of that name."""
        ...

    def use_scheduler(self, scheduler: str | Mapping[str, Any], *, model: str | None = None, **options: Any) -> None:
        """Switch to another scheduler."""
        ...

    def close(self) -> None:
        """Free every engine."""
        ...


class LanguageModel(Closing, AsyncGeneration, TextEncoding, InOurWords):
    """One model of a pipeline; safe to use from any thread and any event loop.

    Keyword arguments ``**sampling`` are ``GenerationOptions``, which ``model.options()`` lists: the fields of
    ``llmasos_hookspecs.SamplingParams`` (``temperature``, ``top_k``, ``top_p``, ``seed``, ``stop`` ...), a length (``max_new_tokens``, or
    ``max_length``, which counts the prompt too; 256 new tokens where neither is given), one constraint (``schema``, ``regex``, ``choices``
    or ``grammar``), and what the scheduler ranks by (``tenant``, ``priority``, ``weight``, and ``deadline`` in seconds from now).
    Temperature 0, the default, is greedy and reproducible. Chat messages also take ``tools`` (functions in OpenAI's form; the text has
    calls as the model's template writes them, and they follow the functions' JSON Schemas unless ``constrain_tools`` is False),
    ``tool_choice``, ``parallel_tool_calls`` and ``template_arguments`` (further variables of the template: ``{"enable_thinking": False}``).
    For an encoder-decoder (T5, Marian, BART) a prompt is the source, and the answer is the target made from it; multilingual ones also
    take ``source_language`` and ``target_language``, codes out of ``languages``.

    A prompt is plain text, which the model continues, or a list of chat messages, which it answers through its chat template. In messages
    only the template writes control tokens: a message's text that spells one, such as ``<|im_end|>``, is kept as text by a space after its
    first character, unless ``allow_control_tokens`` is true. In plain text control tokens are encoded as control tokens.

    Every method raises ``RequestError`` for bad values, ``ContextLengthExceeded`` for a prompt that does not fit (nothing is truncated
    silently), ``Rejected`` where the scheduler refuses the request, ``Blocked`` where a guard blocks its prompt or its answer (after the
    pieces that were released), and ``ModelClosed`` after ``close()``.

    Messages that end with one of the assistant's have it continued: the answer is what follows.
    """

    def __init__(self, pipeline: ModelPipeline, host: ModelHost, *, owns_pipeline: bool = False, adapter: str = "") -> None:
        """``adapter``: the one that its requests are computed with; the model then has that one's name."""
        self._pipeline = pipeline
        self._host = host
        self._adapter = adapter
        self._owns_pipeline = owns_pipeline
        self._client: Client | None = None
        self._runs = TaskRuns()

    def for_client(self, client: Client) -> LanguageModel:
        """The same model for one client of a server: its requests are the client's, and charged to it."""
        view = copy.copy(self)
        view._client, view._owns_pipeline = client, False
        return view

    # Properties

    @property
    def name(self) -> str:
        """The model's name in the pipeline's config; of one with an adapter of its own, the adapter's."""
        return self._adapter or self._host.name

    @property
    def pipeline(self) -> ModelPipeline:
        """The pipeline that the model belongs to."""
        return self._pipeline

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back."""
        return self._host.opened().prompts.tokenizer

    @property
    def context_length(self) -> int:
        """Tokens of prompt and continuation together."""
        with self._host.lease() as running:
            return running.info.context_length

    @property
    def source_length(self) -> int:
        """Tokens of a source at most, where the model is an encoder-decoder, whose prompts are sources; else 0."""
        with self._host.lease() as running:
            info = running.info
            return info.source_length if isinstance(info, EngineInfo) else 0

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes that ``source_language`` and ``target_language`` may have, as the model's tokens spell them: ``fr_XX``; none where the
        model knows no codes."""
        with self._host.lease() as running:
            return () if running.sources is None else tuple(running.sources.languages)

    @property
    def has_source_languages(self) -> bool:
        """Whether sources are marked with their language (M2M-100, NLLB, mBART), so that ``source_language`` is of use."""
        with self._host.lease() as running:
            return running.sources is not None and running.sources.multilingual

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What the checkpoint of an encoder-decoder puts before a source, for each kind of work that it names (T5): ``translate English to
        German: ``."""
        with self._host.lease() as running:
            return () if running.sources is None else running.sources.prefixes

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that the model was loaded from: the result of the accelerator stages, where there are any."""
        return self._host.opened().checkpoint

    @property
    def has_chat_template(self) -> bool:
        """Whether the checkpoint has a chat template."""
        return self._host.opened().prompts.template is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What loading changed and a user should know, one sentence each."""
        with self._host.lease() as running:
            return running.info.notes

    def describe(self) -> dict[str, Any]:
        """Source, loader, scheduler and memory of the model, as plain data; sizes in bytes, counts in tokens."""
        return {**self._host.describe(), "name": self.name, **({"adapter": self._adapter} if self._adapter else {})}

    def usage(self) -> dict[str, Any]:
        """The model's queue, KV cache and speed at this moment, as plain data."""
        return self._host.usage()

    def __repr__(self) -> str:
        facts = self.describe()
        state = ", ".join(str(facts[key]) for key in ("source", "loader", "dtype", "scheduler") if facts.get(key))
        return f"<LanguageModel {self.name}: {state} ({facts['state']})>"

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(str(value))}</td></tr>" for key, value in self.describe().items())
        return f"<table>{rows}</table>"

    # Plain text

    @lists_options
    def generate_text(self, prompt: Prompt | TokenPrompt, **sampling: Unpack[GenerationOptions]) -> str:
        """The continuation of ``prompt``, without the prompt."""
        return self._submit(prompt, sampling).result().text

    @lists_options
    def stream_text(self, prompt: Prompt, **sampling: Unpack[GenerationOptions]) -> Generator[str, None, Generation]:
        """The continuation piece by piece; leaving the iteration early cancels the request."""
        return self.stream(prompt, **sampling)

    @overload
    def generate(self, prompt: Prompt | TokenPrompt, *, n: None = None, **sampling: Unpack[GenerationOptions]) -> Generation: ...
    @overload
    def generate(self, prompt: Prompt | TokenPrompt, *, n: int, **sampling: Unpack[GenerationOptions]) -> list[Generation]: ...
    @lists_options
    def generate(
        self, prompt: Prompt | TokenPrompt, *, n: int | None = None, **sampling: Unpack[GenerationOptions]
    ) -> Generation | list[Generation]:
        """The continuation with its tokens, finish reason and log probabilities; with ``n``, ``n`` of them, which share one prefill."""
        if n is None:
            return self._submit(prompt, sampling).result()
        n = plain_number(n)
        tickets = self._submit_many(prompt, n, sampling)
        try:
            return [ticket.result() for ticket in tickets]
        finally:
            cancel_all(tickets)

    @lists_options
    def stream(self, prompt: Prompt, **sampling: Unpack[GenerationOptions]) -> Generator[str, None, Generation]:
        """Pieces of text as they come; joined they are the text of ``generate``, which is what the generator returns at its end."""
        # Submitted at once, so that bad values raise here and not where the first piece is read.
        return self._submit(prompt, sampling).__iter__()

    @lists_options
    def events(self, prompt: Prompt, **sampling: Unpack[GenerationOptions]) -> Generator[Event, None, None]:
        """What ``generate`` gives, as events of its parts as they come: text, reasoning, and calls of ``tools``; then what it used, in
        tokens, and why it ended. Leaving the iteration early cancels the request."""
        return events_of(self._host.wait(self.generating(prompt, 1, sampling)))

    @lists_options
    def batch(
        self, prompts: Sequence[Prompt], *, progress: Callable[[int, int], None] | None = None, **sampling: Unpack[GenerationOptions]
    ) -> list[Generation]:
        """Many generations through continuous batching, in the order of the prompts.

        ``progress`` is called with how many are done, and of how many.
        """
        tickets = self._submit_batch(prompts, sampling)
        results = []
        try:
            for ticket in tickets:
                results.append(ticket.result())
                if progress is not None:
                    progress(len(results), len(tickets))
        finally:
            cancel_all(tickets)
        return results

    @lists_options
    def generate_object(self, prompt: Prompt, schema: type[T] | Mapping[str, Any], **sampling: Unpack[ObjectOptions]) -> T | Any:
        """An instance of a class, which the model fills in: a pydantic model, an attrs class, a dataclass, or a type made of them
        such as ``list[City]``; with a JSON Schema, plain data.

        Raises:
            RequestError: the token limit cut the answer, or the class has no JSON Schema or refuses the values.
        """
        return self._object(schema, self._submit(prompt, {**sampling, "schema": schema}).result())

    def options(self) -> tuple[Option, ...]:
        """The options of a generation: name, the default that holds for this model, and what it does."""
        return options(self._host.defaults.sampling)

    # Chat

    @lists_options
    def chat(self, messages: Sequence[Mapping[str, Any]], **sampling: Unpack[GenerationOptions]) -> str:
        """The reply to chat messages, each with ``role`` and ``content``: a text, or a list of parts. A part is
        ``{"type": "text", "text": ...}``, or for a model that reads images, in a message of the user, ``{"type": "image", "image": ...}``
        with an array uint8 [height, width, 3], a Pillow image, the bytes of a PNG, JPEG, WebP or GIF file, or a ``pathlib.Path``."""
        check_messages(messages)
        return self._submit(messages, sampling).result().text

    @lists_options
    def stream_chat(self, messages: Sequence[Mapping[str, Any]], **sampling: Unpack[GenerationOptions]) -> Generator[str, None, Generation]:
        """The reply piece by piece."""
        check_messages(messages)
        return self.stream(messages, **sampling)

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **options: Any) -> str:
        """Chat messages as the text that the model was trained on. Without a template: a plain ``role: content`` transcript.

        ``options``: ``tools``, ``template_arguments`` and ``allow_control_tokens``, as for ``chat``.
        """
        given = self._given(messages)
        if has_images(given):
            with self._host.lease() as running:  # refuses images where the model reads none
                running.encoded(given, GenerationParams.of(options))
        return self._host.opened().prompts.render(given, GenerationParams.of(options).chat, add_generation_prompt=add_generation_prompt)

    def count_tokens(self, prompt: Prompt, *, kind: TextKind | None = None, **options: Any) -> int:
        """Count of the prompt's tokens, chat template included; ``options`` as for ``render``. ``kind``: count what ``embed`` encodes for
        such a text, the model's prompt before it included."""
        if kind is not None:
            with self._host.lease() as running:
                return running.count(prompt, kind)
        return len(self.encode(prompt, **options))

    def encode(self, prompt: Prompt, **options: Any) -> list[int]:
        """The token ids of a prompt, chat template included; ``options`` as for ``render``. An image takes virtual tokens, past the
        vocabulary."""
        given, params = self._given(prompt), GenerationParams.of(options)
        if not has_images(given):
            return self._host.opened().prompts.encode(given, params.chat)
        with self._host.lease() as running:
            return running.encoded(given, params).tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, control tokens included. Raises ``RequestError`` for what is no id of the model's vocabulary."""
        tokenizer, found = self.tokenizer, token_ids(tokens)
        for token in found:
            if not 0 <= token < tokenizer.vocab_size:
                raise RequestError(f"The tokens hold {token}, and the model's ids are below {tokenizer.vocab_size}.", "tokens")
        return tokenizer.decode(found, skip_special=False)

    # Numbers

    def logits(self, tokens: Sequence[int], source: Prompt | TokenPrompt | None = None) -> npt.NDArray[np.float32]:
        """Raw logits of every position: float32 [len(tokens), vocab_size]. ``source``: of an encoder-decoder, what the target with these
        tokens, its start token included, is made from."""
        return self._host.submit(self._logits(tokens, source)).result()

    def score(self, prompt: Prompt, continuations: Sequence[str], **scheduling: Any) -> list[Score]:
        """The log probability of each continuation after the prompt, which is computed once; natural logarithms.

        ``scheduling``: ``tenant``, ``priority``, ``weight`` and ``deadline``; and ``adapter``.
        """
        return self._host.wait(self._scoring(prompt, continuations, scheduling)).result()

    def choose(self, prompt: Prompt, choices: Sequence[str], *, normalize: bool = False) -> Choice:
        """The likeliest of several continuations, with softmax over their scores; ``normalize`` compares log probabilities per token."""
        check_texts("choices", choices)
        if not choices:
            raise RequestError("choices is empty; give at least one text to choose from.")
        scores = self.score(prompt, choices)
        values = np.array([score.mean if normalize else score.logprob for score in scores], dtype=np.float64)
        weights = np.exp(values - values.max())
        probabilities = weights / weights.sum()
        index = int(probabilities.argmax())
        return Choice(index=index, text=choices[index], probabilities=tuple(float(p) for p in probabilities))

    # Tasks

    def check_text(self, text: str, *, stage: Stage, messages: Sequence[Mapping[str, Any]] = ()) -> str:
        """What the guards let pass of a text: of the arguments of a tool's call before it is run, say, or of what a tool gave back.
        ``messages``: those that the call was the answer to, so that guards know again what stands in them.

        Raises ``Blocked`` where one blocks it. Prompts and answers pass the guards by themselves.
        """
        guards, tenant = self._pipeline.guards, self._params({}).tenant
        conversation = guards.conversation(self._given(messages), self.name, tenant) if messages and guards else None
        return guards.text(text, Passage(stage=stage, model=self.name, tenant=tenant, conversation=conversation))

    def run(self, task: str, **inputs: Any) -> Any:
        """Run an installed task with this model: ``model.run("translate", text="...", target="French")``."""
        return self._pipeline.run(task, model=self.name, **inputs)

    def other(self, name: str) -> LanguageModel:
        """Another model of the pipeline, for the same client. Raises ``UnknownModel`` where there is none."""
        found = self._pipeline.model_named(name)
        return found if self._client is None else found.for_client(self._client.of_model(found.name))

    # Closing

    def close(self) -> None:
        """Fail unfinished requests, free the engine, and close the pipeline if ``load_model`` made it; calling it again does nothing."""
        self._host.close()
        if self._owns_pipeline:
            self._pipeline.close()

    @staticmethod
    def _object(schema: Any, answer: Generation) -> Any:
        if answer.finish_reason != "stop":
            raise RequestError(
                f"The answer was cut after {len(answer.tokens)} tokens, so it is no whole object; raise max_new_tokens.", "max_new_tokens"
            )
        return as_object(schema, answer.text)

    def generating(
        self, prompt: Prompt | TokenPrompt, n: int, sampling: Mapping[str, Any], charge: Charge | None = None
    ) -> Sending[Queued]:
        """The steps of queueing ``n`` continuations; ``charge``: of a client's request that came before."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise RequestError(f"n is {n!r}, and it must be a whole number of at least 1.", "n")
        form = PLAIN

        def prepare(running: Running) -> LoopCall[list[Ticket[Generation]]]:
            nonlocal form
            call = running.generations(shown, n, params)
            form = call.form
            return call

        with contextlib.ExitStack() as unsent:
            charge = charge or self._arrive(unsent)
            params = self._params(self._host.defaults.arguments(sampling))
            conversation = Conversation()
            with self._audited(charge):
                shown = self._shown(prompt, params.tenant, conversation)
            tickets = yield from self._sending(prepare, charge)
            unsent.pop_all()
        answers = [self._pipeline.guards.answer(ticket, self.name, params.tenant, conversation) for ticket in tickets]
        if charge is not None and self._pipeline.guards:
            for answer in answers:
                charge.guarded(answer)
        if (task := current_task()) is not None and (written := task.written) is not None:
            for answer in answers:
                answer.listen(lambda piece: written(piece.text, len(piece.tokens)))
        return Queued(answers, tickets, form)

    def _scoring(self, prompt: Prompt, continuations: Sequence[str], scheduling: Mapping[str, Any]) -> Sending[Ticket[list[Score]]]:
        """The steps of queueing the scoring of continuations."""
        check_texts("continuations", continuations)
        with contextlib.ExitStack() as unsent:
            charge = self._arrive(unsent)
            adapter = self._host.defaults.arguments({}).get("adapter")
            params = self._params({**({"adapter": adapter} if adapter else {}), **scheduling})
            guards, conversation = self._pipeline.guards, Conversation()
            with self._audited(charge):
                shown = guards.prompt(self._given(prompt), self.name, params.tenant, conversation)
                tails = [str(guards.prompt(text, self.name, params.tenant, conversation)) for text in continuations]
            ticket = yield from self._sending(lambda running: running.scores(shown, tails, params), charge)
            unsent.pop_all()
        return ticket

    def check_queue(self) -> None:
        """Raise ``Rejected`` where the scheduler would refuse any request now, because its queue is full; waits for nothing."""
        self._host.check_queue()

    @contextlib.contextmanager
    def _audited(self, charge: Charge | None) -> Iterator[None]:
        """Have the audit log tell that a guard blocked a client's prompt, and which."""
        try:
            yield
        except Blocked as error:
            if charge is not None and self._client is not None:
                charge.refused(self._client.resource, error)
            raise

    def _shown(self, prompt: Prompt | TokenPrompt, tenant: str, conversation: Conversation | None = None) -> Prompt | TokenPrompt:
        """What passes the guards of a prompt, which see the text of token ids."""
        guards = self._pipeline.guards
        if not isinstance(prompt, TokenPrompt):
            return guards.prompt(self._given(prompt), self.name, tenant, conversation)
        if not guards:
            return prompt
        text = self.decode(prompt.tokens)
        passed = guards.prompt(text, self.name, tenant, conversation)
        if passed == text:
            return prompt
        # The source stays: a guard of texts has not seen it.
        return passed if prompt.source is None else TokenPrompt(tuple(self.tokenizer.encode(str(passed), special=False)), prompt.source)

    def _submit(self, prompt: Prompt | TokenPrompt, sampling: Mapping[str, Any]) -> Ticket[Generation]:
        return self._submit_many(prompt, 1, sampling)[0]

    def _submit_many(self, prompt: Prompt | TokenPrompt, n: int, sampling: Mapping[str, Any]) -> list[Ticket[Generation]]:
        return list(self._host.wait(self.generating(prompt, n, sampling)).answers)

    def _params(self, given: Mapping[str, Any]) -> GenerationParams:
        if self._adapter:
            given = {"adapter": self._adapter, **given}
        return GenerationParams.of(given) if self._client is None else self._client.params(given)

    def _logits(
        self, tokens: Sequence[int], source: Prompt | TokenPrompt | None
    ) -> Callable[[Running], LoopCall[Ticket[npt.NDArray[np.float32]]]]:
        adapter = self._host.defaults.arguments({}).get("adapter") or ""
        params = GenerationParams.of({"adapter": self._adapter or adapter})
        return lambda running: running.logits(tokens, source, params)

    def _given(self, prompt: P) -> P:
        """A prompt with the messages that stand before those of every chat with this model."""
        return deferred(self._host.defaults.prompt(prompt))

    def _arrive(self, unsent: contextlib.ExitStack, action: str = "generate") -> Charge | None:
        """The charge of a client's new request, which ``unsent`` ends; None where there is no client."""
        if self._client is None:
            return None
        charge = self._client.charge(action)
        unsent.callback(charge.release)
        return charge

    def _sending(self, prepare: Callable[[Running], LoopCall[Sent]], charge: Charge | None) -> Sending[Sent]:
        """Queue what ``prepare`` makes, at ``charge``, where there is one."""
        if charge is None or self._client is None:
            return (yield from self._host.sending(prepare))
        resource = self._client.resource

        def reserved(running: Running) -> LoopCall[Sent]:
            call = prepare(running)
            charge.reserve(resource, call.cost)
            return call

        try:
            sent = yield from self._host.sending(reserved)
        except BaseException as error:
            charge.refused(resource, error)
            raise
        charge.sent(sent if isinstance(sent, list) else [sent])
        return sent

    def _submit_batch(self, prompts: Sequence[Prompt], sampling: Mapping[str, Any]) -> list[Ticket[Generation]]:
        check_prompts(prompts)
        tickets: list[Ticket[Generation]] = []
        try:
            tickets.extend(self._submit(prompt, sampling) for prompt in prompts)
        except BaseException:
            cancel_all(tickets)
            raise
        return tickets
