"""A model that lets one tenant see another's prompts is told from one that does not, by tokens and by time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import pytest

from llmasos_hookspecs import Generation, Prompt, SuiteResult, UnsupportedModel
from llmasos_hookspecs.testing import SandboxModel, ScriptedTaskModel, tiny_checkpoint
from llmasos_suite_safety.isolation import IsolationSuite, Options

OPTIONS = Options(probes=60, words=12)


class Clock:
    """Seconds that a model lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Caching(ScriptedTaskModel):
    """Keeps the prompts of each tenant; a prompt that is kept takes a tenth of the time. ``sees(owner, tenant)`` says whose prompts serve a
    tenant; ``tells``: whether it says how many tokens were kept."""

    def __init__(self, clock: Clock, sees: Any, *, tells: bool = True, context_length: int = 2048) -> None:
        super().__init__(lambda _text, _sampling: "ab cd ef", context_length=context_length)
        self.clock, self.sees, self.tells = clock, sees, tells
        self.kept: list[tuple[str, str]] = []
        self.running: list[str] = []
        self.probed_while_running = 0
        self._jitter = np.random.default_rng(3)

    def generate(self, prompt: Prompt, **sampling: Any) -> Generation:
        made = super().generate(prompt, **sampling)
        return attrs.evolve(made, cached_tokens=self._pass(str(prompt), sampling.get("tenant", "default"), made.prompt_tokens))

    def stream(self, prompt: Prompt, **sampling: Any) -> Any:
        self._pass(str(prompt), sampling["tenant"], self.count_tokens(prompt))
        self.running.append(sampling["tenant"])
        pieces = super().stream(prompt, **sampling)

        def told() -> Iterator[str]:
            try:
                yield from pieces
            finally:
                self.running.remove(sampling["tenant"])

        return told()

    def _pass(self, prompt: str, tenant: str, tokens: int) -> int:
        hit = any(text == prompt and self.sees(owner, tenant) for text, owner in self.kept)
        self.probed_while_running += bool(self.running)
        self.clock.now += (0.1 if hit else 1.0) * float(self._jitter.uniform(0.9, 1.1))
        self.kept.append((prompt, tenant))
        return tokens if hit and self.tells else 0


def measured(sees: Any, **how: Any) -> tuple[SuiteResult, Caching]:
    clock = Clock()
    model = Caching(clock, sees, **how)
    suite = IsolationSuite(OPTIONS, clock=clock)
    return suite.measure(SandboxModel(checkpoint=tiny_checkpoint("llama"), scripted=model)), model


def test_tenants_that_are_apart_are_told_so() -> None:
    """Nothing leaks, and the tenant's own prompts show that a leak would be seen."""
    found, model = measured(lambda owner, tenant: owner == tenant)
    values = {figure.name: figure.value for figure in found.figures}
    assert (values["leaked_tokens"], values["own_tokens"], values["own_distance"]) == (0.0, 1.0, 1.0)
    assert values["ttft_distance"] < 0.3
    assert values["ttft_p"] > 0.01
    assert "no tenant can tell" in found.notes[0]
    assert model.running == []
    assert model.probed_while_running == 2 * 30 + 2 * 2  # two probes in every second round, the warm-up's too


@pytest.mark.parametrize("tells", [True, False])
def test_a_cache_that_all_tenants_share_is_found(tells: bool) -> None:
    """By its tokens, and where it does not tell them by its times alone."""
    found, _ = measured(lambda *_: True, tells=tells)
    values = {figure.name: figure.value for figure in found.figures}
    assert values["leaked_tokens"] == (1.0 if tells else 0.0)
    assert values["ttft_distance"] == 1.0
    assert values["ttft_p"] < 1e-6
    assert "another tenant can tell" in found.notes[0]


def test_a_leak_to_few_tenants_is_found_by_its_tokens() -> None:
    """One probe of sixty is enough."""
    found, _ = measured(lambda owner, tenant: owner == tenant or tenant == "other 7")
    values = {figure.name: figure.value for figure in found.figures}
    assert values["leaked_tokens"] == pytest.approx(1 / 60)
    assert values["ttft_p"] > 0.01
    assert "another tenant can tell" in found.notes[0]


def test_prompts_are_new_and_fit_half_of_the_context() -> None:
    _, model = measured(lambda *_: False, context_length=64)
    prompts = {prompt for prompt, owner in model.kept if owner.startswith("third")}
    assert len(prompts) == 63
    assert not prompts & {prompt for prompt, owner in model.kept if owner.startswith("owner")}
    assert all(len(prompt) <= 40 for prompt in prompts)  # as many words as fit 32 tokens on average


class Encoder(Caching):
    """Makes vectors, and generates nothing."""

    def generate(self, prompt: Prompt, **sampling: Any) -> Generation:
        raise UnsupportedModel("The model makes vectors.")

    def embed(self, texts: Any, *rest: Any, tenant: str = "default", **how: Any) -> npt.NDArray[np.float32]:
        self._pass(texts[0], tenant, 1)
        return super().embed(texts, *rest, **how)


@pytest.mark.parametrize("shared", [False, True])
def test_an_encoder_is_held_to_the_same_rule(shared: bool) -> None:
    """It tells no cached tokens, so its times do."""
    clock = Clock()
    suite = IsolationSuite(OPTIONS, clock=clock)
    model = Encoder(clock, lambda owner, tenant: shared or owner == tenant)
    found = suite.measure(SandboxModel(checkpoint=tiny_checkpoint("llama"), scripted=model))
    values = {figure.name: figure.value for figure in found.figures}
    assert values["leaked_tokens"] == values["own_tokens"] == 0
    assert (values["ttft_p"] < 1e-6) == shared
    assert values["own_distance"] == 1.0


def test_the_times_are_drawn() -> None:
    found, _ = measured(lambda owner, tenant: owner == tenant)
    (section,) = IsolationSuite(OPTIONS).sections({"one": found})
    assert section.title == "Milliseconds to the first token, one"
    assert list(section.lines) == ["asked by another", "asked by nobody", "asked by itself"]
    assert section.lines["asked by itself"][0] == (pytest.approx(90, abs=5), 0.0)
    assert section.lines["asked by nobody"][-1] == (pytest.approx(1100, abs=20), 1.0)
