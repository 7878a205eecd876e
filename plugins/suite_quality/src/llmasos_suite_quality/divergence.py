"""How well an engine predicts: perplexity, and divergence from a reference."""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import AccelerationError, CapacityExceeded, Engine, Progress, Row
from llmasos_suite_quality.standard_error import standard_error

#: Tokens a step: all logits of a step are in memory at once, float32 [tokens, vocab].
STEP: Final = 128

Floats = npt.NDArray[np.float32]


@attrs.frozen(kw_only=True)
class Quality:
    """Quality over windows of evaluation text. Divergences are Kullback-Leibler, reference to model, in nats per token.

    Attributes:
        perplexity: exp of the mean negative log likelihood of each window's tokens but the first.
        perplexity_error: its standard error, from the spread between windows (delta method); 0 for one window.
        mean_kl, p99_kl: mean and 99th percentile over tokens.
        mean_kl_error: standard error of the mean, from the spread between windows.
        top1: share of positions where the most likely next token is the reference's too.
        tokens: count of predictions.
        window: tokens of a window.
        reference: what the reference was computed from, such as ``float32``.
    """

    perplexity: float
    perplexity_error: float
    mean_kl: float
    mean_kl_error: float
    p99_kl: float
    top1: float
    tokens: int
    window: int
    reference: str


def measure_quality(engine: Engine, windows: npt.NDArray[np.int32], *, reference: Engine, progress: Progress | None = None) -> Quality:
    """Run token windows [windows, length] through an engine, and through the reference beside it.

    Raises:
        AccelerationError: engine and reference have different vocabularies, a window does not fit an engine's context, or logits are no
            numbers.
    """
    if reference.info.vocab_size != engine.info.vocab_size:
        raise AccelerationError(
            f"The model has a vocabulary of {engine.info.vocab_size} tokens and the one to compare it with has "
            f"{reference.info.vocab_size}; compare models with the same tokenizer."
        )
    losses, means, divergences, agreements = [], [], [], []
    for window in windows:
        loss, kl, agree = _measure_window(engine, reference, window)
        losses.append(loss)
        means.append(float(kl.mean()))
        divergences.append(kl)
        agreements.append(agree)
        if progress is not None:
            progress.advance()
    perplexity = float(np.exp(np.mean(losses)))
    compared = np.concatenate(divergences)
    return Quality(
        perplexity=perplexity,
        perplexity_error=perplexity * standard_error(losses),
        mean_kl=float(compared.mean()),
        mean_kl_error=standard_error(means),
        p99_kl=float(np.quantile(compared, 0.99)),
        top1=float(np.concatenate(agreements).mean()),
        tokens=int(windows.size),
        window=int(windows.shape[1]),
        reference=reference.info.dtype,
    )


def _measure_window(engine: Engine, reference: Engine, window: npt.NDArray[np.int32]) -> tuple[float, Floats, npt.NDArray[np.bool_]]:
    """Mean negative log likelihood; divergence and agreement of each token."""
    slots = [(engine, engine.open())]
    nll: list[Floats] = []
    kl: list[Floats] = []
    agree: list[npt.NDArray[np.bool_]] = []
    try:
        slots.append((reference, reference.open()))
        for start in range(0, len(window), STEP):
            tokens = window[start : start + STEP]
            found, expected = (_log_softmax(_logits(each, slot, tokens, start)) for each, slot in slots)
            # Each position predicts the token after it; the next token of the window's last position is not known.
            following = window[start + 1 : start + 1 + len(tokens)]
            nll.append(-found[np.arange(len(following)), following])
            kl.append((np.exp(expected) * (expected - found)).sum(axis=1))
            agree.append(found.argmax(axis=1) == expected.argmax(axis=1))
    finally:
        for each, slot in slots:
            each.close(slot)
    return float(np.concatenate(nll).mean(dtype=np.float64)), np.concatenate(kl), np.concatenate(agree)


def _logits(engine: Engine, slot: int, tokens: npt.NDArray[np.int32], position: int) -> Floats:
    size = len(tokens)
    while True:
        try:
            parts: list[Floats] = []
            for start in range(0, len(tokens), size):
                row = Row(slot, tokens[start : start + size].tolist(), position + start, "all", known=position + len(tokens))
                # Copied where there are several steps: the engine may reuse the arrays in the next step.
                parts.append(engine.step([row])[0].copy() if size < len(tokens) else engine.step([row])[0])
            return _numbers(parts[0] if len(parts) == 1 else np.concatenate(parts))
        except CapacityExceeded as error:
            engine.truncate(slot, position)
            if size == 1:
                raise AccelerationError(f"The evaluation window does not fit the engine ({error}); ask for shorter windows.") from error
            size //= 2


def _numbers(logits: Floats) -> Floats:
    # The maximum of a row with NaN is NaN. Minus infinity is allowed: a token that the model never generates.
    if not np.isfinite(logits.max(axis=1)).all():
        raise AccelerationError("The model's predictions hold NaN or infinity, so there is nothing to measure; compute it in float32.")
    return logits


def _log_softmax(logits: Floats) -> Floats:
    shifted: Floats = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
