"""A loaded model that generates text: it makes requests of what callers give, for its loop to serve."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import attrs
import numpy as np
import numpy.typing as npt

from llmasos.compose.generation_params import GenerationParams, token_ids
from llmasos.compose.images import EncodedPrompt, images_in, with_images
from llmasos.compose.prompts import PromptEncoder
from llmasos.compose.running_encoder import RunningEncoder
from llmasos.compose.serving import LoopCall, Serving
from llmasos.compose.sources import SourcePrompts, place
from llmasos_config import ComponentConfig
from llmasos_engine.ticket import Ticket
from llmasos_hookspecs import (
    ContextLengthExceeded,
    EngineInfo,
    Generation,
    Prompt,
    QueueBounds,
    Request,
    RequestError,
    SchedulingPolicy,
    Score,
    TokenPrompt,
    UnsupportedModel,
)
from llmasos_residency.prediction import Need

#: Most characters a token, on average over a text; vocabularies have longer tokens, but no text consists of them alone.
_LONGEST_TOKEN: Final = 256


@attrs.frozen(kw_only=True)
class Policy:
    """A scheduling policy, with the limits that core reads from its options. ``label`` names the plugin in messages.

    ``bounds``: of its queue; None where its options are no ``QueueBounds``.
    """

    policy: SchedulingPolicy
    max_sequences: int
    step_tokens: int
    label: str = ""
    bounds: QueueBounds | None = None


#: Called with a scheduler's config and its policy.
Switch = Callable[[ComponentConfig, Policy], None]


@attrs.frozen(kw_only=True)
class RunningModel:
    """A loaded model with its engine loop, or with its set of replicas, each of which has a loop of its own.

    Attributes:
        name: of the model.
        info: of its engine.
        loop: serves its requests.
        switch: makes it use another scheduler.
        prompts: encodes text and messages to token ids.
        loader: label of the loader, with distribution and version.
        loader_choice: how it was chosen, one sentence.
        need: the memory that the load really took.
        sources: makes the prompts of an encoder-decoder; None for other models.
    """

    name: str
    info: EngineInfo
    loop: Serving
    prompts: PromptEncoder
    loader: str
    loader_choice: str
    need: Need
    switch: Switch
    sources: SourcePrompts | None = None

    def generations(self, prompt: Prompt | TokenPrompt, n: int, params: GenerationParams) -> LoopCall[list[Ticket[Generation]]]:
        """``n`` continuations of one prompt, which share its prefill."""
        encoded = self._encoded(prompt, params)
        form, sampling = self.prompts.answers.of(prompt, encoded.text, params.chat, params.sampling)
        request = self._request(encoded, attrs.evolve(params, sampling=sampling))
        room = self._room(request, request.max_new_tokens)
        cost = room + (n - 1) * (room - min(len(request.tokens), room))
        return LoopCall(room, cost, lambda loop: [loop.submit(request)] if n == 1 else loop.submit_many(request, n), form)

    def logits(
        self, tokens: Sequence[int], source: Prompt | TokenPrompt | None, params: GenerationParams
    ) -> LoopCall[Ticket[npt.NDArray[np.float32]]]:
        """The logits of every position; of an encoder-decoder, those of a target after its ``source``."""
        target = token_ids(tokens)
        given = EncodedPrompt(target, target) if source is None else self._encoded(source, params)
        if source is not None:
            self._check_source()
        elif self.sources is not None:
            raise RequestError(f"The model {self.name} is an encoder-decoder; give the source that the tokens follow.", "source")
        request = self._request(given, params, None if source is None else target)
        room = self._room(request, 0)
        return LoopCall(room, room, lambda loop: loop.submit_logits(request))

    def scores(self, prompt: Prompt, continuations: Sequence[str], params: GenerationParams) -> LoopCall[Ticket[list[Score]]]:
        """The scores of continuations of one prompt."""
        head = self._encoded(prompt, params)
        if self.sources is not None:
            tails = [self.sources.encode_target(text) for text in continuations]
        else:
            tails = self.prompts.encode_continuations(prompt, head.text, continuations, params.chat)
        request = self._request(head, params)
        room = self._room(request, max(map(len, tails), default=0))
        return LoopCall(room, room, lambda loop: loop.submit_score(request, tails))

    def encoded(self, prompt: Prompt, params: GenerationParams) -> EncodedPrompt:
        """The tokens of a prompt, with its images at their places."""
        images = images_in(prompt, self.name, self.info)
        text = self.prompts.encode(prompt, params.chat)
        return with_images(text, images, self.info, self.loop.media_length) if images else EncodedPrompt(text, text)

    def embeddings(self, *_: Any, **__: Any) -> NoReturn:
        """As ``RunningEncoder.embeddings``, which a model that generates text cannot do."""
        self._refuse_to_encode()

    def count(self, *_: Any) -> NoReturn:
        """As ``RunningEncoder.count``."""
        self._refuse_to_encode()

    def rankings(self, *_: Any, **__: Any) -> NoReturn:
        """As ``RunningEncoder.rankings``."""
        self._refuse_to_encode()

    def facts(self) -> dict[str, Any]:
        """What it is, as plain data."""
        info = self.info
        return {
            "loader_choice": self.loader_choice,
            "device": info.device,
            "dtype": info.dtype,
            "context_length": info.context_length,
            "vocab_size": info.vocab_size,
            "max_sequences": info.max_sequences,
            "weight_bytes": info.weight_bytes,
            "kv_bytes_per_token": info.kv_bytes_per_token,
            "media_bytes": info.media_bytes,
            "notes": list(info.notes),
            "media": sorted(info.media_tokens),
            "adapters": list(info.adapters),
        }

    def use_policy(self, scheduler: ComponentConfig, make: Callable[[], Policy]) -> None:
        """Switch to another scheduler."""
        self.switch(scheduler, make())  # for replicas too: a scheduler that cannot be made is the caller's error, and no process ends by it

    def _refuse_to_encode(self) -> NoReturn:
        cure = "" if self.sources is not None else ', or load it by the loader torch with the option pooling = "last", so that it embeds'
        raise UnsupportedModel(
            f"The model {self.name} generates text, and has no embeddings of texts; name an embedding model or a reranker{cure}."
        )

    def _encoded(self, prompt: Prompt | TokenPrompt, params: GenerationParams) -> EncodedPrompt:
        self.loop.check_queue(lambda: self._at_least(prompt, params))
        if isinstance(prompt, TokenPrompt):
            if prompt.source is not None:
                self._check_source()
            tokens = token_ids(prompt.tokens)
            return EncodedPrompt(tokens, tokens, source=prompt.source)
        if self.sources is not None and not isinstance(prompt, str) and self.prompts.template is None:
            raise RequestError(
                f"The model {self.name} is an encoder-decoder without a chat template, so it cannot chat; give generate_text its source."
            )
        # Refused before it is encoded: a text so long cannot fit.
        if isinstance(prompt, str) and len(prompt) > _LONGEST_TOKEN * self.loop.context_length:
            raise ContextLengthExceeded(
                f"The prompt has {len(prompt)} characters, far more than a context of {self.loop.context_length} tokens holds; shorten it."
            )
        return self.encoded(prompt, params)

    def _check_source(self) -> None:
        """Raise ``RequestError`` where the model reads no source."""
        if self.sources is None:
            raise RequestError(f"The model {self.name} is no encoder-decoder, so it reads no source; leave it out.", "source")

    def _at_least(self, prompt: Prompt | TokenPrompt, params: GenerationParams) -> int:
        """Tokens that prompt and answer have at least, without encoding the prompt."""
        size = len(prompt.tokens) if isinstance(prompt, TokenPrompt) else self.prompts.at_least(prompt)
        return size + (params.max_new_tokens if isinstance(params.max_new_tokens, int) else 1)

    def _request(self, prompt: EncodedPrompt, params: GenerationParams, target: list[int] | None = None) -> Request:
        """The request for a prompt; of an encoder-decoder, with the prompt as its source, and what the target begins with."""
        context, room = self.loop.context_length, self.loop.room
        if self.sources is None:
            for param in ("source_language", "target_language"):
                if getattr(params, param) is not None:
                    raise RequestError(f"{param} is for encoder-decoders, and the model {self.name} is none; say it in the prompt.", param)
            return params.request(self.name, prompt.tokens, context, room, prompt.media)
        media = prompt.source or self.sources.source(prompt.tokens, params.source_language, params.target_language)
        source, placed = place(media, 0, self.info, self.loop.media_length)
        if target is None:
            target = prompt.tokens if prompt.source is not None and prompt.tokens else self.sources.target(params.target_language)
        # What a short source leaves is no room for the target.
        context = min(context, placed.length + self.info.context_length - self.info.source_length)
        never = dict.fromkeys(self.sources.never, -math.inf)
        sampling = attrs.evolve(params.sampling, logit_bias={**never, **params.sampling.logit_bias})
        params = attrs.evolve(params, sampling=sampling)
        return params.request(self.name, [*source, *target], context, min(room, context), (placed,))

    def _room(self, request: Request, new_tokens: int) -> int:
        """Tokens that the request can hold in the KV cache; one that exceeds the context is refused later, by the loop."""
        # Beams advance together, so all of them need KV memory at once; other forks of a request can run one after the other.
        return min(len(request.tokens) + new_tokens, self.loop.context_length) * max(1, request.sampling.num_beams)


#: What a loaded model is: it generates text, or makes vectors or scores of texts. Either refuses in one sentence what the other does.
Running = RunningModel | RunningEncoder
