"""What a client asks for."""

from __future__ import annotations

import json
from typing import Any

import attrs

from benchmarks.serving.prompts import prompts


@attrs.frozen(kw_only=True)
class Work:
    """Completions as streams, no two of the same prompt.

    Attributes:
        requests: how many.
        tokens: of each answer.
        first: number of the first prompt, which no other work has.
        characters: of each prompt.
        rate: requests that come in each second, whatever is answered meanwhile; 0: all at once, or as ``slots`` says.
        slots: sequences that the server runs at once; 0: nobody asks. So many are kept running where no ``rate`` is given, and the
            throughput is that while all of them are taken.
    """

    requests: int
    tokens: int
    first: int
    characters: int
    rate: float = 0.0
    slots: int = 0

    @property
    def most(self) -> int:
        """Requests that are in progress at once."""
        return self.slots if self.slots and not self.rate else self.requests

    def due(self, place: int) -> float:
        """Seconds after the beginning when a request is to be sent, if no more than ``most`` are in progress."""
        return place / self.rate if self.rate else 0.0

    def prompts(self) -> list[str]:
        return prompts(self.requests, self.first, self.characters)

    def bodies(self) -> list[bytes]:
        """The requests, as JSON."""
        fields: dict[str, Any] = {"max_tokens": self.tokens, "temperature": 0, "ignore_eos": True, "stream": True, "cache_prompt": False}
        fields["stream_options"] = {"include_usage": True}
        return [json.dumps({"prompt": prompt, **fields}).encode() for prompt in self.prompts()]
