"""Tests at load what an exported model computes correctly.

A graph does not state whether it is causal, masks padding, keeps the sequences of a batch independent, or how many positions it has. Each
property is tested on a few tokens, and used only if the logits equal those without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from llmasos_backend_tf.recompute import Form, Logits, Model, RecomputingEngine
from llmasos_hookspecs import CapacityExceeded, EngineFailed, EngineInfo, EngineLimits, ResourceError, UnsupportedModel

NOTE: Final = "The model keeps no KV cache, so each step computes all the tokens before it again; export a checkpoint to decode faster."
_LAST_ONLY: Final = "The model gives logits of the last token only, so scoring a text takes a run for each of its tokens."
_ALONE: Final = "The model does not compute several sequences together as it does alone, so they take turns."

#: Largest relative error |a - b| / |b| of logits that count as equal, in float32 and with narrower types. A wrong mask or position gives an
#: error of 0.1 and more.
_SAME: Final = 1e-3
_SAME_ROUNDED: Final = 0.03
#: Most tokens times bytes of weights in one trial: 4,096 tokens of a model of 1 GB.
_TRIAL_WORK: Final = 1 << 42
#: Most tokens in one trial, since attention may take their square; and most that a model of fixed sizes may ask for.
_MOST_TRIED: Final = 4096
_MOST_FIXED: Final = 1 << 17
#: What is computed in the trials, modulo the vocabulary.
TEXT: Final = (11, 4, 7, 13, 2, 9, 5, 12, 3, 8)


def load_model(model: Model, limits: EngineLimits, notes: Sequence[str], default_context: int) -> RecomputingEngine:
    """The engine of a model without a cache, within the limits. Raises as ``find_form``."""
    form, said = find_form(model, limits, notes, default_context)
    info = EngineInfo(
        vocab_size=form.vocab_size,
        context_length=form.context_length,
        max_sequences=limits.max_sequences,
        weight_bytes=model.weight_bytes,
        kv_bytes_per_token=0,
        features=frozenset({"fork", "batch"} if form.together and model.rows is None else {"fork"}),
        notes=(*said, NOTE, *([] if form.together else [_ALONE])),
    )
    return RecomputingEngine(model, form, info)


def find_form(model: Model, limits: EngineLimits, notes: Sequence[str], default_context: int) -> tuple[Form, list[str]]:
    """What a model computes correctly within the limits, and the notes about it.

    Raises:
        UnsupportedModel: it returns no logits, wrong logits for prefixes of a text, or values that are not finite.
        ResourceError: the weights alone pass the memory budget.
    """
    if limits.memory is not None and model.weight_bytes > limits.memory:
        raise ResourceError(
            f"The weights take {model.weight_bytes / 2**20:.0f} MiB, over the budget of {limits.memory / 2**20:.0f} MiB; allow more."
        )
    stated = [bound for bound in (model.length, model.context_length) if bound is not None]
    bounds = [bound for bound in (limits.context_length, *(stated or [default_context])) if bound is not None]
    form = try_out(model, min(bounds))
    said = list(notes)
    if form.context_length < min(bounds):
        said.append(f"The model computes {form.context_length} tokens at most, so its context is that long.")
    elif not stated:
        said.append(f"The model does not say how long its context is, so {form.context_length} tokens are taken at most.")
    return form, said + ([_LAST_ONLY] if form.last_only else [])


def try_out(model: Model, context: int) -> Form:
    """Test the model on up to ``context`` tokens.

    Raises:
        UnsupportedModel: as ``find_form``.
    """
    if 0 in (model.rows, model.length):
        raise UnsupportedModel(f"{model.path} takes no sequences, or sequences of no tokens; export it with open dimensions.")
    fixed = (model.rows or 1) * (model.length or 1)
    if fixed > _MOST_FIXED:
        raise UnsupportedModel(
            f"{model.path} takes {model.rows or 1} sequences of {model.length or 1} tokens always, over the {_MOST_FIXED} tokens that are "
            "computed in one run; export it with open dimensions."
        )
    trials = _Trials(model, context)
    last_only, vocab_size = trials.logits_form()
    trials.text = [token % vocab_size for token in TEXT[: min(len(TEXT), context)]]
    if model.length is None:
        alone = trials.every_length(last_only)
    else:
        if last_only and model.length > 1:
            raise UnsupportedModel(
                f"{model.path} takes {model.length} tokens always and gives logits of the last one only, which is padding for any shorter "
                "text; export it with an open length, or with the logits of all tokens."
            )
        alone = trials.run([trials.text], model.length)[0, : len(trials.text)]
    trials.causal(alone, last_only)
    padded = model.length is not None or (not last_only and trials.padding(alone))
    return Form(
        vocab_size=vocab_size,
        context_length=trials.longest(alone, last_only),
        last_only=last_only,
        padded=padded,
        together=trials.batch_independent(padded, last_only),
    )


def most_error(rounded: bool) -> float:
    """Largest relative error of logits that count as equal; ``rounded``: the model uses types narrower than float32."""
    return _SAME_ROUNDED if rounded else _SAME


def relative_error(found: Logits, expected: Logits) -> float:
    """The largest |found - expected| / |expected| of any token; infinite where their shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float((np.linalg.norm(found - expected, axis=-1) / np.maximum(np.linalg.norm(expected, axis=-1), 1e-30)).max())


class _Trials:
    """Runs of a model on a text, and comparisons of their logits."""

    def __init__(self, model: Model, context: int) -> None:
        self.text: list[int] = [0]
        self._model = model
        self._context = context
        self._limit = most_error(model.rounded)
        self._form: tuple[bool, int] | None = None  # of the logits: of the last token only, and how wide

    def run(self, sequences: Sequence[Sequence[int]], length: int) -> Logits:
        """Logits. Raises ``UnsupportedModel`` if the model fails, or returns NaN or infinity."""
        try:
            out = self._attempt(sequences, length)
        except (CapacityExceeded, EngineFailed) as error:
            raise UnsupportedModel(f"{str(error).rstrip('.')}, which was tried when it was loaded; export it again.") from error
        if not np.isfinite(out).all():
            raise UnsupportedModel(
                f"{self._model.path} gives logits that are NaN or infinite for {length} tokens; its weights are damaged, or its mask is."
            )
        return out

    def _attempt(self, sequences: Sequence[Sequence[int]], length: int) -> Logits:
        """Logits. Raises as ``Model.run``, and ``EngineFailed`` where they have another form than those of the first run."""
        out = self._model.run(sequences, length)
        if self._form is not None:
            last_only, vocab_size = self._form
            due = (1 if last_only else self._model.length or length, vocab_size)
            if out.shape[1:] != due:
                raise EngineFailed(f"{self._model.path} gives logits of the shape {out.shape} for {length} tokens, and {due} are due.")
        return out

    def logits_form(self) -> tuple[bool, int]:
        """Whether the model returns only the last token's logits, and their width."""
        length = self._model.length or min(4, self._context)
        out = self.run([[0] * length], length)
        self._form = out.shape[1] < length, out.shape[2]
        return self._form

    def every_length(self, last_only: bool) -> Logits:
        """Logits [tokens, vocab] of the text, each of the last token of a run of its own length."""
        ends = range(1, len(self.text) + 1)
        if last_only or self._context == 1:
            return np.concatenate([self.run([self.text[:end]], end)[0, -1:] for end in ends])
        whole = self.run([self.text], len(self.text))[0]
        for end in ends:
            last = self.run([self.text[:end]], end)[0, -1:]
            if not self._same(last, whole[end - 1 : end]):
                error = relative_error(last, whole[end - 1 : end])
                raise UnsupportedModel(
                    f"{self._model.path} gives other logits for a token when more tokens follow it (off by {error:.2g} "
                    f"of their size at token {end}), so it is no decoder, or was exported without its causal mask; export it again."
                )
        return whole

    def causal(self, alone: Logits, last_only: bool) -> None:
        """Check that later tokens do not change a token's logits; for fixed lengths this is the only test of the mask."""
        if last_only or self._model.length is None or len(self.text) < 2:
            return
        half = len(self.text) // 2
        found = self.run([self.text[:half]], self._model.length)[0, :half]
        if not self._same(found, alone[:half]):
            raise UnsupportedModel(
                f"{self._model.path} takes {self._model.length} tokens always, and padding changes the logits of those before it (by "
                f"{relative_error(found, alone[:half]):.2g} of their size); export it with an open length, or with a causal mask."
            )

    def padding(self, alone: Logits) -> bool:
        """Whether padding on the right does not change the logits."""
        count = max(1, len(self.text) - 3)
        try:
            found = self._attempt([self.text[:count]], min(self._context, len(self.text) + 2))[0, :count]
        except (CapacityExceeded, EngineFailed):
            return False
        return self._same(found, alone[:count])

    def batch_independent(self, padded: bool, last_only: bool) -> bool:
        """Whether two texts have the same logits in a batch as alone; required for a fixed batch size."""
        count = len(self.text) - 3 if padded and len(self.text) > 4 else len(self.text)
        texts = [self.text, [*reversed(self.text)][:count]]
        length = self._model.length or len(self.text)
        if self._model.rows == 1:
            return False
        try:
            alone = [self._attempt([text], length)[0] for text in texts]
            together = self._attempt(texts, length)
        except (CapacityExceeded, EngineFailed):
            if self._model.rows is not None:
                raise
            return False
        kept = [1 if last_only else len(text) for text in texts]
        same = all(self._same(ours[:n], theirs[:n]) for ours, theirs, n in zip(together, alone, kept, strict=True))
        if self._model.rows is not None and not same:
            raise UnsupportedModel(
                f"{self._model.path} takes {self._model.rows} sequences always, and they change one another's logits; export it with an "
                "open batch."
            )
        return same

    def longest(self, alone: Logits, last_only: bool) -> int:
        """The longest text, up to the context, that runs and agrees with the logits of its prefix.

        If a text of the context length would take minutes or gigabytes of attention scores, a shorter one is tested and the context
        trusted.
        """
        if self._model.length is not None:
            return min(self._context, self._model.length)
        tried = min(self._context, max(len(self.text), min(_MOST_TRIED, _TRIAL_WORK // max(1, self._model.weight_bytes))))
        if self._fits(tried, alone, last_only):
            return self._context
        low, high = len(self.text), tried
        while high - low > 1:
            middle = (low + high) // 2
            if self._fits(middle, alone, last_only):
                low = middle
            else:
                high = middle
        return low

    def _fits(self, length: int, alone: Logits, last_only: bool) -> bool:
        if length <= len(self.text):
            return True
        text = [*self.text, *(self.text[i % len(self.text)] for i in range(length - len(self.text)))]
        try:
            out = self._attempt([text], length)[0]
        except (CapacityExceeded, EngineFailed):
            return False
        if not np.isfinite(out).all():
            return False
        return last_only or self._same(out[: len(self.text)], alone)

    def _same(self, found: Logits, expected: Logits) -> bool:
        return relative_error(found, expected) <= self._limit  # False for NaN
