"""Which replica gets a request."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from llmasos_hookspecs import Request

#: Lengths of prompt beginnings that are remembered, in tokens.
_LENGTHS: Final = tuple(32 * 2**power for power in range(11))
#: Beginnings that are remembered.
_REMEMBERED: Final = 8192


class Router:
    """Least outstanding tokens of two replicas drawn at random, unless another one has most of the prompt in its prefix cache.

    Two draws are nearly as even as looking at all, and do not send a burst to one replica while its figures are old (Mitzenmacher: The
    Power of Two Choices in Randomized Load Balancing, 2001). A replica that computed the same beginning for the same tenant is taken
    instead while its backlog is larger by less than what it need not compute again.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret hangs on it
        self._beginnings: OrderedDict[int, int] = OrderedDict()

    def choose(self, request: Request, outstanding: Mapping[int, int]) -> int:
        """One of the replicas in ``outstanding``, which says how many tokens each has yet to compute. There must be one at least."""
        replicas = list(outstanding)
        drawn = self._random.sample(replicas, 2) if len(replicas) > 2 else replicas
        best = min(drawn, key=outstanding.__getitem__)
        keys = self._keys(request)
        for length, key in reversed(keys):
            known = self._beginnings.get(key)
            if known is not None and known in outstanding:
                if outstanding[known] - outstanding[best] < length:
                    best = known
                break
        for _, key in keys:
            self._beginnings[key] = best
            self._beginnings.move_to_end(key)
        while len(self._beginnings) > _REMEMBERED:
            self._beginnings.popitem(last=False)
        return best

    def forget(self, replica: int) -> None:
        """The replica's cache is gone."""
        for key in [key for key, known in self._beginnings.items() if known == replica]:
            del self._beginnings[key]

    @staticmethod
    def _keys(request: Request) -> list[tuple[int, int]]:
        tokens = request.tokens
        return [(length, hash((request.tenant, tuple(tokens[:length])))) for length in _LENGTHS if length <= len(tokens)]
