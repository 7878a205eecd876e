"""The router: which replica gets a request."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

from llmasos_hookspecs import Request

#: Lengths in tokens of the prompt prefixes that the router remembers.
_LENGTHS: Final = tuple(32 * 2**power for power in range(11))
#: Most prefixes that the router remembers, and how many for each replica where that is more: some 150 bytes each.
_REMEMBERED: Final = 8192
_REMEMBERED_EACH: Final = 16


class Backlogs:
    """The tokens that each replica has yet to compute, for those that can take requests. All it does takes constant time."""

    def __init__(self, tokens: Mapping[int, int] | None = None) -> None:
        """``tokens``: by the number of the replica."""
        self._tokens = dict(tokens or {})
        self._numbers = list(self._tokens)
        self._places = {number: place for place, number in enumerate(self._numbers)}

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __contains__(self, number: int) -> bool:
        return number in self._tokens

    def __getitem__(self, number: int) -> int:
        return self._tokens[number]

    def add(self, number: int, tokens: int = 0) -> None:
        """A replica can take requests from now on."""
        if number not in self._tokens:
            self._places[number] = len(self._numbers)
            self._numbers.append(number)
        self._tokens[number] = tokens

    def remove(self, number: int) -> None:
        """A replica takes no more requests. Nothing happens where it took none."""
        if self._tokens.pop(number, None) is None:
            return
        place, last = self._places.pop(number), self._numbers.pop()
        if last != number:  # it takes the place that is free
            self._numbers[place] = last
            self._places[last] = place

    def change(self, number: int, tokens: int) -> None:
        """A replica has ``tokens`` more to compute, or fewer where they are negative. Nothing happens where it takes no requests."""
        if number in self._tokens:
            self._tokens[number] += tokens

    def drawn(self, chance: random.Random) -> list[int]:
        """Two replicas drawn at random, or as many as there are."""
        return chance.sample(self._numbers, min(2, len(self._numbers)))


class Router:
    """Chooses the replica with fewer outstanding tokens of two drawn at random, unless another one has a prefix of the prompt cached.

    Two random choices balance the load nearly as evenly as a look at all replicas, and do not send a burst to one replica while its
    figures are out of date (Mitzenmacher: The Power of Two Choices in Randomized Load Balancing, 2001). A replica that computed the same
    prefix for the same tenant is chosen instead where its backlog is larger by fewer tokens than the prefix saves.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret hangs on it
        self._beginnings: OrderedDict[int, int] = OrderedDict()

    def choose(self, request: Request, backlogs: Backlogs) -> int:
        """The number of the replica for ``request``, one of those that can take requests, of which there must be any."""
        best = min(backlogs.drawn(self._random), key=backlogs.__getitem__)
        keys = self._keys(request)
        for length, key in reversed(keys):
            known = self._beginnings.get(key)
            if known is not None and known in backlogs:
                if backlogs[known] - backlogs[best] < length:
                    best = known
                break
        for _, key in keys:
            self._beginnings[key] = best
            self._beginnings.move_to_end(key)
        while len(self._beginnings) > max(_REMEMBERED, _REMEMBERED_EACH * len(backlogs)):
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
