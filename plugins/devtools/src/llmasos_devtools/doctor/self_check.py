"""Checks that a loaded model computes correct logits, by comparison with a slow reference, token by token."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final, Protocol

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import NEUTRAL_FORMATS, Checkpoint, CommandModel, LLMasOSError, UnsupportedModel, as_float32

Floats = npt.NDArray[np.float32]

#: Relative error of logits up to which an engine counts as equal: the float32 rounding of a few dozen layers.
EXACT: Final = 1e-3
#: Mean divergence in nats up to which an engine that rounds (to 16 or 8 bits) computes the same model.
ROUNDED: Final = 0.02
#: Tokens of the short prompt, and of the longest that is tried where nothing in the config asks for more.
_SHORT: Final = 8
_LONG: Final = 192
#: Tokens of a prompt at most: the reference keeps no cache, and holds logits of every position.
_MOST: Final = 2048
#: Tokens that are generated after the short prompt, one by one.
_NEW: Final = 16


class Reference(Protocol):
    """A slow implementation that is taken as correct."""

    name: str

    def logits(self, tokens: Sequence[int]) -> Floats:
        """Logits of every position: float32 [len(tokens), vocab_size]."""
        ...


@attrs.frozen(kw_only=True)
class Comparison:
    """The comparison on one text.

    Attributes:
        what: describes the text.
        tokens: compared positions.
        error: norm of the difference of logits over the norm of the reference's.
        mean_kl: divergence from the reference in nats per token.
        top1: share of positions with the same likeliest token.
    """

    what: str
    tokens: int
    error: float
    mean_kl: float
    top1: float

    @property
    def verdict(self) -> str:
        """``equal``, ``equal within rounding`` or ``different``."""
        if self.error <= EXACT:
            return "equal"
        return "equal within rounding" if self.mean_kl <= ROUNDED else "different"


@attrs.frozen(kw_only=True)
class SelfCheck:
    """The result of a check.

    Attributes:
        loader: what computed the model.
        loader_choice: how it was chosen, one sentence.
        passed: no text is ``different``.
    """

    loader: str
    loader_choice: str
    dtype: str
    reference: str
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        return all(comparison.verdict != "different" for comparison in self.comparisons)


def check_model(model: CommandModel, checkpoint: Checkpoint) -> SelfCheck:
    """Compare a loaded model with the reference over short and long prompts and over tokens that it generates one by one.

    ``checkpoint``: what the model was loaded from.

    Raises:
        UnsupportedModel: there is no reference for this model here; the message says what to install.
    """
    vocab = len(model.logits([0])[0])  # which loads it: a loader that fails says so before the slow reference is made
    reference = find_reference(checkpoint)
    rng = np.random.default_rng(0)
    found = []
    for length in _lengths(checkpoint, model.context_length):
        tokens = [int(token) for token in rng.integers(0, min(vocab, checkpoint_vocab(checkpoint, vocab)), length)]
        found.append(_compare(f"a prompt of {length} tokens", model.logits(tokens), reference.logits(tokens)))
    found.append(_compare_decode(model, reference))
    facts = model.describe()
    return SelfCheck(
        loader=str(facts["loader"]),
        loader_choice=str(facts["loader_choice"]),
        dtype=str(facts["dtype"]),
        reference=reference.name,
        comparisons=tuple(found),
    )


def find_reference(checkpoint: Checkpoint) -> Reference:
    """transformers where it is installed and knows the architecture, else the contract's own decoder in numpy.

    Raises:
        UnsupportedModel: neither computes this checkpoint.
    """
    if checkpoint.format not in NEUTRAL_FORMATS:
        raise UnsupportedModel(
            f"{checkpoint.path} is {checkpoint.format}, a graph with nothing to compare it with; check the model that it was exported from."
        )
    if find_spec("torch") is not None and find_spec("transformers") is not None:
        return _Transformers(checkpoint)
    try:
        return _Numpy(checkpoint)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{error} To compare it here, pip install torch transformers.") from error


def checkpoint_vocab(checkpoint: Checkpoint, rows: int) -> int:
    """Tokens that random prompts are drawn from: those of the tokenizer, where there is one."""
    try:
        return min(rows, checkpoint.tokenizer().vocab_size)
    except LLMasOSError:
        return rows


def _lengths(checkpoint: Checkpoint, context: int) -> list[int]:
    """Prompt lengths: short, long, and past each length in the config beyond which the computation changes: sliding windows, chunks, and
    the original training context."""
    keys = ("sliding_window", "attention_chunk_size", "original_max_position_embeddings")
    config: Any = checkpoint.config
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    borders = [place.get(key) for place in (config, scaling) for key in keys]
    past = [border + border // 4 + 2 for border in borders if isinstance(border, int) and border > 0]
    return sorted({min(length, context, _MOST) for length in (_SHORT, _LONG, *past)})


def _compare_decode(model: CommandModel, reference: Reference) -> Comparison:
    """The comparison on tokens that the model generates one by one; the reference computes all of them in one pass."""
    prompt = model.tokenizer.decode(model.tokenizer.encode("The first thing to check is")[:_SHORT])
    made = model.generate(prompt, max_new_tokens=_NEW, ignore_eos=True, logprobs=1)
    head = model.tokenizer.encode(prompt)
    expected = reference.logits([*head, *made.tokens[:-1]])[len(head) - 1 :]
    logprobs = expected - expected.max(-1, keepdims=True)
    logprobs -= np.log(np.exp(logprobs).sum(-1, keepdims=True))
    places = np.arange(len(made.tokens))
    chosen = np.array([token.logprob for token in made.logprobs or ()], dtype=np.float32)
    theirs = logprobs[places, list(made.tokens)]
    likeliest = logprobs.max(-1)
    return Comparison(
        what=f"{len(made.tokens)} generated tokens",
        tokens=len(made.tokens),
        error=float(np.sqrt(np.mean((chosen - theirs) ** 2) / np.mean(logprobs**2))),
        # The loss in log probability where the greedy token is not the reference's most likely one.
        mean_kl=float(np.mean(likeliest - theirs)),
        top1=float(np.mean(theirs == likeliest)),
    )


def _compare(what: str, got: Floats, want: Floats) -> Comparison:
    got = got[:, : want.shape[1]]
    ours, theirs = (logits - _log_sum(logits) for logits in (got.astype(np.float64), want.astype(np.float64)))
    return Comparison(
        what=what,
        tokens=len(want),
        error=float(np.linalg.norm(got - want) / np.linalg.norm(want)),
        mean_kl=float((np.exp(theirs) * (theirs - ours)).sum(-1).mean()),
        top1=float((got.argmax(-1) == want.argmax(-1)).mean()),
    )


def _log_sum(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    most = logits.max(-1, keepdims=True)
    total: npt.NDArray[np.float64] = most + np.log(np.exp(logits - most).sum(-1, keepdims=True))
    return total


class _Numpy:
    name = "the reference decoder in numpy, float64"

    def __init__(self, checkpoint: Checkpoint) -> None:
        from llmasos_hookspecs.reference import ReferenceDecoder

        self._decoder = ReferenceDecoder(checkpoint)

    def logits(self, tokens: Sequence[int]) -> Floats:
        return self._decoder.logits(tokens)


class _Transformers:
    """transformers' own model in float32 with eager attention, on the dequantised weights."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        import transformers

        self.name = f"transformers {transformers.__version__}, float32"
        with _quiet():
            self._model = self._made(checkpoint).eval()

    @staticmethod
    def _made(checkpoint: Checkpoint) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        how: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
        try:
            if checkpoint.format == "huggingface" and not checkpoint.config.get("quantization_config"):
                return AutoModelForCausalLM.from_pretrained(str(checkpoint.path), local_files_only=True, use_safetensors=True, **how)
            kept = {key: value for key, value in checkpoint.config.items() if key not in ("quantization_config", "auto_map", "model_type")}
            config = AutoConfig.for_model(str(checkpoint.config.get("model_type")), **kept)
            weights = {name: torch.from_numpy(np.array(as_float32(checkpoint.tensor(name)))) for name in checkpoint.names()}
            kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
            return kind.from_pretrained(None, config=config, state_dict=weights, **how)
        except Exception as error:  # each architecture fails in its own way
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UnsupportedModel(f"transformers cannot compute {checkpoint.path} to compare it with: {reason}") from error

    def logits(self, tokens: Sequence[int]) -> Floats:
        import torch

        with torch.inference_mode():
            found: Floats = self._model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0].float().numpy()
        return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the progress bars and tables that transformers prints while it loads."""
    from transformers import utils

    told: Any = utils.logging
    log = logging.getLogger("transformers")
    level, bars = log.level, told.is_progress_bar_enabled()
    log.setLevel(logging.CRITICAL)
    told.disable_progress_bar()
    try:
        yield
    finally:
        log.setLevel(level)
        if bars:
            told.enable_progress_bar()
