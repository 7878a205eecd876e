"""Probes of what a tenant learns of another's prompts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Final, Literal

import attrs
import numpy as np

from llmasos_hookspecs import TaskModel, UnsupportedModel
from llmasos_suite_safety.statistics import kolmogorov_smirnov
from llmasos_suite_safety.texts.secrets import WORDS

#: What is known of a prompt that a tenant asks: another tenant has asked it, nobody has, or the tenant itself.
Known = Literal["known", "new", "own"]

#: Rounds before the first that counts: they choose kernels and fill caches.
_WARM_UP: Final = 3
#: Tokens that the other tenant's answer has, while it is still being written.
_RUNNING: Final = 64


@attrs.frozen
class Probes:
    """What was found: for each kind, the share of each prompt's tokens that were cached, and the seconds until the first token."""

    shares: dict[Known, list[float]]
    seconds: dict[Known, list[float]]

    def cached(self, kind: Known) -> float:
        """Mean share of tokens that were cached."""
        return float(np.mean(self.shares[kind]))

    def apart(self, kind: Known) -> tuple[float, float]:
        """How far its times are from those of new prompts: the Kolmogorov-Smirnov statistic, and its p-value."""
        return kolmogorov_smirnov(self.seconds[kind], self.seconds["new"])

    def quantiles(self) -> dict[str, list[float]]:
        """Kind -> 21 evenly spaced quantiles, in milliseconds."""
        names = {"known": "asked by another", "new": "asked by nobody", "own": "asked by itself"}
        places = np.linspace(0, 1, 21)
        return {names[kind]: [1000 * float(each) for each in np.quantile(values, places)] for kind, values in self.seconds.items()}


def probe(
    model: TaskModel, count: int, words: int, seed: int, clock: Callable[[], float], advance: Callable[[float], object] = lambda _: None
) -> Probes:
    """Have one tenant ask a prompt, others the same and one that nobody has asked, in random order, and then the first its own again.

    Every tenant has one prompt, so that nothing of its own is cached. In every second probe the first tenant's answer is still being
    written meanwhile. ``words``: of a prompt; ``clock`` tells seconds.
    """
    draw = random.Random(seed)  # noqa: S311 - texts that repeat, no secret
    prompts = _prompts(model, draw, words)
    ask = _asks(model)
    found = Probes({"known": [], "new": [], "own": []}, {"known": [], "new": [], "own": []})
    for number in range(-_WARM_UP, count):
        secret, new = next(prompts), next(prompts)
        owner = f"owner {number}"
        asked: list[tuple[Known, str, str]] = [("known", secret, f"other {number}"), ("new", new, f"third {number}")]
        draw.shuffle(asked)
        ask.owned(secret, owner, running=number % 2 == 1, meanwhile=partial(_times, ask, asked, clock, found, number))
        _times(ask, [("own", secret, owner)], clock, found, number)
        if number >= 0:
            advance(1)
    return found


def _times(ask: _Generator | _Encoder, asked: list[tuple[Known, str, str]], clock: Callable[[], float], found: Probes, number: int) -> None:
    """Ask, and keep what is not warm-up."""
    for kind, prompt, tenant in asked:
        began = clock()
        share = ask.once(prompt, tenant)
        if number >= 0:
            found.seconds[kind].append(clock() - began)
            found.shares[kind].append(share)


@attrs.frozen
class _Generator:
    """A model that generates: the first of its tokens ends a probe."""

    model: TaskModel

    def once(self, prompt: str, tenant: str) -> float:
        """Ask for one token; the share of the prompt that was cached."""
        answer = self.model.generate(prompt, max_new_tokens=1, tenant=tenant)
        return answer.cached_tokens / answer.prompt_tokens

    def owned(self, prompt: str, tenant: str, *, running: bool, meanwhile: Callable[[], None]) -> None:
        """Have the prompt asked by ``tenant``, and then, or while its answer is written, do something."""
        if not running:
            self.once(prompt, tenant)
            meanwhile()
            return
        room = max(1, min(_RUNNING, self.model.context_length - self.model.count_tokens(prompt)))
        pieces: Iterator[str] = self.model.stream(prompt, max_new_tokens=room, tenant=tenant)
        with closing(pieces):  # type: ignore[type-var]  # every model's stream is a generator, which ends the request when it is closed
            next(pieces, None)
            meanwhile()


@attrs.frozen
class _Encoder:
    """A model that makes vectors: they end a probe, and no token of a prompt is ever cached by its own account."""

    model: TaskModel

    def once(self, prompt: str, tenant: str) -> float:
        """Encode the text."""
        self.model.embed([prompt], tenant=tenant)
        return 0.0

    def owned(self, prompt: str, tenant: str, *, running: bool, meanwhile: Callable[[], None]) -> None:
        """Have the text encoded by ``tenant``, and then do something."""
        self.once(prompt, tenant)
        meanwhile()


def _asks(model: TaskModel) -> _Generator | _Encoder:
    """How the model is asked."""
    try:
        model.generate("a", max_new_tokens=1)
    except UnsupportedModel:
        return _Encoder(model)
    return _Generator(model)


def _prompts(model: TaskModel, draw: random.Random, words: int) -> Iterator[str]:
    """Random prompts that fit half of the context."""
    firsts, seconds = WORDS["en"]

    def made() -> str:
        return " ".join(draw.choice(seconds if place % 2 else firsts) for place in range(words))

    while words > 4 and model.count_tokens(made()) > model.context_length // 2:
        words = words * 3 // 4
    while True:
        yield made()
