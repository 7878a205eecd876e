"""What a scheduling policy gets to see: read-only snapshots."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final, NamedTuple

import attrs
import numpy as np

from llmasos_hookspecs import Media, Request
from llmasos_hookspecs.scheduling import State

new_view: Final = tuple.__new__


class View(NamedTuple):
    """The ``SequenceView`` that a policy gets: a read-only snapshot of a sequence, with a reference to the request and nothing else.

    A tuple, because every call of ``rank`` makes one: a third of a microsecond each.
    """

    request: Request
    state: State
    computed: int
    remaining: int
    generated: int
    cached: int
    preemptions: int
    waited: float


def frozen(request: Request) -> Request:
    """A copy of the request that a policy cannot change; its media have no data."""
    sampling = request.sampling
    fields: dict[str, Any] = {}
    if not isinstance(request.tokens, tuple):
        fields["tokens"] = tuple(request.tokens)
    if request.media:
        fields["media"] = tuple(attrs.evolve(placed, media=_without_data(placed.media)) for placed in request.media)
    if sampling.logit_bias or sampling.constraint is not None:
        constraint = sampling.constraint and attrs.evolve(sampling.constraint, value=_frozen_value(sampling.constraint.value))
        fields["sampling"] = shown = attrs.evolve(sampling, constraint=constraint)
        object.__setattr__(shown, "logit_bias", MappingProxyType(dict(sampling.logit_bias)))  # its converter would make a dict of it
    return attrs.evolve(request, **fields) if fields else request


def _without_data(media: Media) -> Media:
    return attrs.evolve(media, data=np.empty(0, media.data.dtype))


def _frozen_value(value: Any) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({key: _frozen_value(each) for key, each in value.items()})
    return tuple(_frozen_value(each) for each in value) if isinstance(value, list) else value
