"""One model of a pipeline: opened when something of it is asked for, loaded when it has to compute."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos.generation_params import GenerationParams
from llmasos.runtime.loop import EngineLoop
from llmasos.runtime.prompts import PromptEncoder
from llmasos.runtime.ticket import Ticket
from llmasos.system.config import ComponentConfig
from llmasos_hookspecs import Checkpoint, Engine, Generation, ModelClosed, Prompt, SchedulingPolicy, Score


@attrs.frozen(kw_only=True)
class OpenedModel:
    """A checkpoint whose headers are read: enough for its tokenizer and chat template.

    Attributes:
        reference: what the user named.
        source: the canonical reference it stands for.
        checkpoint: after all accelerator stages.
        prompts: text and messages to token ids.
    """

    reference: str
    source: str
    checkpoint: Checkpoint
    prompts: PromptEncoder


@attrs.frozen(kw_only=True)
class Policy:
    """A scheduling policy, with the limits that core reads from its options."""

    policy: SchedulingPolicy
    max_sequences: int
    step_tokens: int


@attrs.frozen(kw_only=True)
class RunningModel:
    """A model with its engine, its policy and the loop that runs both.

    Attributes:
        loader: label of the component, with distribution and version.
    """

    name: str
    engine: Engine
    loop: EngineLoop
    prompts: PromptEncoder
    loader: str

    def submit(self, prompt: Prompt, params: GenerationParams) -> Ticket[Generation]:
        """Queue one generation."""
        return self.loop.submit(params.request(self.name, self.prompts.encode(prompt), self.loop.context_length))

    def submit_many(self, prompt: Prompt, n: int, params: GenerationParams) -> list[Ticket[Generation]]:
        """Queue ``n`` continuations of one prompt, which share its prefill."""
        return self.loop.submit_many(params.request(self.name, self.prompts.encode(prompt), self.loop.context_length), n)

    def submit_logits(self, tokens: Sequence[int]) -> Ticket[npt.NDArray[np.float32]]:
        """Queue the computing of the logits of every position."""
        return self.loop.submit_logits(
            GenerationParams.of({}).request(self.name, [int(token) for token in tokens], self.loop.context_length)
        )

    def submit_score(self, prompt: Prompt, continuations: Sequence[str], params: GenerationParams) -> Ticket[list[Score]]:
        """Queue the scoring of continuations of one prompt."""
        head = self.prompts.encode(prompt)
        text = prompt if isinstance(prompt, str) else self.prompts.render(prompt)
        special = isinstance(prompt, str) or self.prompts.template is None
        tails = [self._tail(text, head, continuation, special) for continuation in continuations]
        return self.loop.submit_score(params.request(self.name, head, self.loop.context_length), tails)

    def _tail(self, text: str, head: list[int], continuation: str, special: bool) -> list[int]:
        """Tokens that ``continuation`` adds to ``text``, as they are where both are written together.

        Where the two would grow into one token at the border, the continuation is taken by itself, so that all share the same prompt.
        """
        whole = self.prompts.tokenizer.encode(text + continuation, special=special)
        if whole[: len(head)] == head:
            return whole[len(head) :]
        return self.prompts.tokenizer.encode(continuation, special=False)


class ModelHost:
    """Opens and loads one model once, whoever asks first, and knows who uses it.

    Attributes:
        name: its name in the pipeline.
        scheduler: what ranks its requests, or will once it is loaded.
    """

    def __init__(
        self,
        name: str,
        scheduler: ComponentConfig,
        open_model: Callable[[], OpenedModel],
        load: Callable[[OpenedModel, ComponentConfig], RunningModel],
    ) -> None:
        self.name: Final = name
        self.scheduler = scheduler
        self._open_model = open_model
        self._load = load
        self._lock = threading.RLock()
        self._opened: OpenedModel | None = None
        self._running: RunningModel | None = None
        self._leases = 0
        self._closed = False

    @property
    def state(self) -> str:
        """``closed``, ``loaded``, or ``not loaded``."""
        return "closed" if self._closed else "loaded" if self._running is not None else "not loaded"

    @property
    def busy(self) -> bool:
        """Whether somebody holds a lease, or a request is on its way."""
        running = self._running
        if self._leases:
            return True
        if running is None:
            return False
        usage = running.loop.usage()
        return bool(usage.waiting or usage.running)

    def opened(self) -> OpenedModel:
        """The model's checkpoint, tokenizer and template; fetched and accelerated first where need be."""
        with self._lock:
            self._check_open()
            if self._opened is None:
                self._opened = self._open_model()
            return self._opened

    @contextlib.contextmanager
    def lease(self) -> Iterator[RunningModel]:
        """The model, loaded, for as long as the ``with`` block runs; of many at once one loads and the others wait."""
        with self._lock:
            opened = self.opened()
            if self._running is None:
                self._running = self._load(opened, self.scheduler)
            running = self._running
            self._leases += 1
        try:
            yield running
        finally:
            with self._lock:
                self._leases -= 1

    def use_scheduler(self, scheduler: ComponentConfig, policy: Policy) -> None:
        """Go on under another scheduler, now and after every later load; nothing that waits or runs is lost."""
        with self._lock:
            self._check_open()
            self.scheduler = scheduler
            if self._running is not None:
                self._running.loop.use_policy(policy.policy, max_sequences=policy.max_sequences, step_tokens=policy.step_tokens)

    def unload(self) -> None:
        """Free the engine; the next lease loads it again."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.loop.close()

    def close(self) -> None:
        """Free the engine for good; what is on its way fails with ``ModelClosed``."""
        self._closed = True
        self.unload()

    def describe(self) -> dict[str, Any]:
        """What is known of the model without loading it, and of its engine where it is loaded."""
        facts: dict[str, Any] = {"name": self.name, "state": self.state}
        if (opened := self._opened) is not None:
            facts |= {
                "source": opened.reference,
                "canonical": opened.source,
                "path": str(opened.checkpoint.path),
                "format": opened.checkpoint.format,
                "architecture": opened.checkpoint.config.get("model_type"),
            }
        if (running := self._running) is not None:
            info = running.engine.info
            facts |= {
                "loader": running.loader,
                "scheduler": self.scheduler.use,
                "device": info.device,
                "dtype": info.dtype,
                "context_length": info.context_length,
                "vocab_size": info.vocab_size,
                "max_sequences": info.max_sequences,
                "weight_bytes": info.weight_bytes,
                "kv_bytes_per_token": info.kv_bytes_per_token,
                "notes": list(info.notes),
            }
        return facts

    def usage(self) -> dict[str, Any]:
        """Queue, KV cache and speed as plain data; just the state where it is not loaded."""
        running = self._running
        facts: dict[str, Any] = {"model": self.name, "state": self.state}
        return facts if running is None else facts | attrs.asdict(running.loop.usage())

    def _check_open(self) -> None:
        if self._closed:
            raise ModelClosed(f"The model {self.name} is closed; load it again to use it.")
