"""The sampling fields that tasks with free text share."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class SamplingInputs:
    """Sampling parameters; the defaults are greedy, so the same input gives the same text."""

    max_new_tokens: int = attrs.field(default=256, metadata={"help": "Tokens to generate at most."})
    temperature: float = attrs.field(default=0.0, metadata={"help": "0 is greedy; higher is more varied."})
    top_p: float = attrs.field(default=1.0, metadata={"help": "Sample from the most probable tokens with this total probability."})
    top_k: int = attrs.field(default=0, metadata={"help": "Sample from this many of the most probable tokens; 0: from all."})
    repetition_penalty: float = attrs.field(default=1.0, metadata={"help": "Above 1 makes tokens already seen less likely."})
    seed: int | None = attrs.field(default=None, metadata={"help": "Makes a sampled text reproducible."})

    def sampling(self) -> dict[str, Any]:
        """The keyword arguments of ``TaskModel.generate`` for these fields, but for ``max_new_tokens``."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed,
        }
