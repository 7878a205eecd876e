"""The router: which replica gets a request."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from llmasos_hookspecs import Request

#: Lengths in tokens of the prompt prefixes that the router remembers.
_LENGTHS: Final = tuple(32 * 2**power for power in range(11))
#: Most prefixes that the router remembers.
_REMEMBERED: Final = 8192


class Router:
    """Chooses the replica with fewer outstanding tokens of two drawn at random, unless another one has a prefix of the prompt cached.

    Two random choices balance the load nearly as evenly as a look at all replicas, and do not send a burst to one replica while its
    figures are out of date (Mitzenmacher: The Power of Two Choices in Randomized Load Balancing, 2001). A replica that computed the same
    prefix for the same tenant is chosen instead where its backlog is larger by fewer tokens than the prefix saves.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret hangs on it
        self._beginnings: OrderedDict[int, int] = OrderedDict()

    def choose(self, request: Request, outstanding: Mapping[int, int]) -> int:
        """The number of the replica for ``request``. ``outstanding``: replica number -> tokens it has yet to compute; not empty."""
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
        """Forget the prefixes of a replica whose cache is lost."""
        for key in [key for key, known in self._beginnings.items() if known == replica]:
            del self._beginnings[key]

    @staticmethod
    def _keys(request: Request) -> list[tuple[int, int]]:
        tokens = request.tokens
        return [(length, hash((request.tenant, tuple(tokens[:length])))) for length in _LENGTHS if length <= len(tokens)]
