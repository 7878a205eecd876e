"""The task contract: a small object over a neutral model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol, runtime_checkable

import attrs

from llmasos_hookspecs.checkpoint import Tokenizer
from llmasos_hookspecs.guards import Stage
from llmasos_hookspecs.media import Media

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llmasos_hookspecs.server import Event

#: What ``Task.metrics`` may name, each a way to measure answers against the expected ones.
METRICS: Final = ("classification", "translation", "text")

#: No input of a task may be called so: the verb ``llmasos task`` and ``model.run`` have arguments of these names.
RESERVED_INPUTS: Final = (
    *("task", "model", "config", "set", "loader", "scheduler", "json", "quiet", "help"),
    *("batch", "output", "workers"),
)

FinishReason = Literal["stop", "length", "cancelled"]

#: The type of a task's input that is an image: an array, a Pillow image, the bytes of a file, a ``pathlib.Path``, or a ``data:`` URL. At
#: the command line it is the name of a file; over HTTP a ``data:`` URL, as a plain text never is a path.
ImageInput = Annotated[Any, "image"]

#: A prompt is plain text, or chat messages with ``role`` and ``content``: a text, or a list of parts (``text``, ``image``).
Prompt = str | Sequence[Mapping[str, Any]]


@attrs.frozen
class TokenPrompt:
    """A prompt as token ids, of a caller that encodes texts itself. Control tokens are kept, as in plain text.

    Attributes:
        tokens: of an encoder-decoder those of its source, or with ``source`` those that the target begins with; none: as its checkpoint
            says.
        source: of an encoder-decoder, what the target is made from, as its engine takes it: the log-mel features of a sound.
    """

    tokens: tuple[int, ...]
    source: Media | None = None


@attrs.frozen(kw_only=True)
class TokenLogprob:
    """Natural log probability of one generated token, and of the likeliest alternatives in its place."""

    token: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@attrs.frozen(kw_only=True)
class PromptProgress:
    """How much of a request's prompt is computed.

    Attributes:
        total: tokens of the prompt.
        cached: tokens of it that came from the prefix cache.
        processed: tokens of it that need not be computed any more, ``cached`` among them.
        seconds: from when the request left the queue until the last of them was computed.
    """

    total: int
    cached: int
    processed: int
    seconds: float


@attrs.frozen(kw_only=True)
class Generation:
    """One finished continuation.

    ``finish_reason`` is ``stop`` (end-of-sequence token, stop string, or a constraint that is complete), ``length`` (the token limit) or
    ``cancelled``. ``cached_tokens``: prompt tokens that came from the prefix cache.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] | None = None
    stop: str | None = None


@attrs.frozen(kw_only=True)
class Score:
    """Natural log probability of a continuation after a prompt: the sum over its ``tokens`` tokens."""

    logprob: float
    tokens: int

    @property
    def mean(self) -> float:
        """Mean log probability of a token."""
        return self.logprob / max(1, self.tokens)


@attrs.frozen(kw_only=True)
class Choice:
    """The likeliest of several continuations; ``probabilities`` sum to 1, in the order of the choices."""

    index: int
    text: str
    probabilities: tuple[float, ...]


@attrs.frozen(kw_only=True)
class Ranked:
    """A document that was compared with a query: its place among the documents that were given, and its score; 1 fits best."""

    index: int
    text: str
    score: float


#: What a text is that is embedded: what is sought, or where it is sought.
TextKind = Literal["query", "passage"]


class TaskModel(Protocol):
    """The model that a task uses: text in, text out, the same on every backend.

    Keyword arguments ``sampling`` of generate, stream and batch are the fields of ``SamplingParams`` and ``max_new_tokens``; further,
    ``schema``, ``regex``, ``choices`` and ``grammar`` constrain the output. Chat messages go through the model's own chat template.
    A suite, which measures for nobody else, may give them and ``embed`` a ``tenant`` too: whose request it is. A task may not where it runs
    for a client, who is a tenant already.

    An encoder-decoder's prompts are sources, and what it generates is the target. Such a model further has ``source_length``, the tokens
    of a source at most (0 for other models); ``languages``, the codes that the keyword arguments ``source_language`` and
    ``target_language`` of a generation may have; ``has_source_languages``, whether the former has any effect; and ``prefixes``, what its
    checkpoint puts before sources of each kind of work.
    """

    @property
    def context_length(self) -> int: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def has_chat_template(self) -> bool: ...

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        """Chat messages as text, by the model's chat template. Without a template: a plain ``role: content`` transcript."""
        ...

    def count_tokens(self, prompt: Prompt, **options: Any) -> int:
        """Count of the prompt's tokens; ``options``: the ``tools`` that come with chat messages."""
        ...

    def generate(self, prompt: Prompt, **sampling: Any) -> Generation: ...

    def stream(self, prompt: Prompt, **sampling: Any) -> Iterator[str]:
        """Pieces of text as they come; joined they are the text of ``generate``."""
        ...

    def events(self, prompt: Prompt, **sampling: Any) -> Iterator[Event]:
        """What ``generate`` gives, as events of its parts: text, reasoning, and calls of ``tools``; then what it used, and why it ended.

        Chat messages may come with ``tools`` and ``tool_choice``, as for ``Runtime.generate``; the arguments of a call then follow the
        tool's JSON Schema, unless the token limit cut the answer. A call and its result go on in the messages in OpenAI's form
        (``tool_calls``, and the role ``tool``). It raises as ``generate`` does; leaving it early (``contextlib.closing``) cancels the
        request.
        """
        ...

    def check_text(self, text: str, *, stage: Stage, messages: Sequence[Mapping[str, Any]] = ()) -> str:
        """What the guards let pass of a text that comes from a tool, or goes to one. Raises ``Blocked``.

        Prompts and answers pass the guards by themselves. A task that calls a tool asks them about the arguments (``tool_call``) before,
        and about what it gave back (``tool_result``). ``messages``: those that the call was the answer to, so that a guard knows again
        what stands in them.
        """
        ...

    def batch(self, prompts: Sequence[Prompt], **sampling: Any) -> list[Generation]:
        """Many generations through continuous batching, in the order of the prompts."""
        ...

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[Score]:
        """The log probability of each continuation after the prompt, which is computed once."""
        ...

    def choose(self, prompt: Prompt, choices: Sequence[str], *, normalize: bool = False) -> Choice:
        """Softmax over the scores of the choices; ``normalize`` compares log probabilities per token."""
        ...

    def embed(
        self,
        texts: Sequence[str],
        kind: TextKind = "passage",
        *,
        normalize: bool = True,
        dimensions: int | None = None,
        truncate: bool = False,
        **scheduling: Any,
    ) -> npt.NDArray[np.float32]:
        """A vector for each text, float32 [len(texts), dimensions], of length 1 where ``normalize``; the first ``dimensions`` of it, if not
        None. ``truncate``: leave out the last tokens of a text that is too long. Raises ``UnsupportedModel`` for a model that generates."""
        ...

    def rank(self, query: str, documents: Sequence[str], *, top: int | None = None, truncate: bool = False) -> list[Ranked]:
        """The documents with their scores, the best answer to the query first; ``top``: so many. Raises as ``embed``."""
        ...

    def other(self, name: str) -> TaskModel:
        """Another model of the config by name, for the same caller: one that embeds what this one is to read. Raises ``UnknownModel``."""
        ...


@runtime_checkable
class Task(Protocol):
    """A task: typed inputs, typed output. ``inputs`` and ``output`` are attrs classes.

    A task that can answer piece by piece has ``stream(model, inputs) -> Iterator[str]`` as well. One that calls tools on its way may have
    ``events(model, inputs) -> Iterator[TaskEvent]``: its text, its calls as they begin and end, and as the last its output.

    A task may also say how its answers are measured on examples, with ``metrics``, a tuple of names out of ``METRICS``:

    - ``classification``: accuracy and F1 of labels, and the area under the ROC curve where ``probabilities`` of two labels are known;
    - ``translation``: BLEU and chrF; an input ``target``, the language's English name, decides how its words are split;
    - ``text``: exact match and token F1.

    Without it: ``("classification",)`` where the output has a ``label``, else ``("text",)``.
    """

    @property
    def inputs(self) -> type: ...
    @property
    def output(self) -> type: ...

    def run(self, model: TaskModel, inputs: Any) -> Any:
        """Run the task; returns an instance of ``output``."""
        ...
