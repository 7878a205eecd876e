"""How many replicas a model may have, as config gives it."""

from __future__ import annotations

from typing import Any, Final

import attrs

from llmasos_hookspecs import ConfigError

#: Each is a process with weights of its own; no machine holds more.
MAX_REPLICAS: Final = 1024


def count_of_replicas(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A validator of attrs. Raises ``ConfigError`` for numbers out of bounds."""
    if isinstance(value, int) and not 1 <= value <= MAX_REPLICAS:
        raise ConfigError(f"{attribute.name} is {value}, and it must be from 1 to {MAX_REPLICAS}.")


def _not_less_than_min(table: ReplicaRange, _: object, value: int) -> None:
    if value < table.min:
        raise ConfigError(f"max is {value} and min is {table.min}; max must not be less.")


@attrs.frozen(kw_only=True)
class ReplicaRange:
    """How many replicas a model has, by what they have to do."""

    min: int = attrs.field(default=1, validator=count_of_replicas, metadata={"help": "Replicas that there are always."})
    max: int = attrs.field(
        validator=[count_of_replicas, _not_less_than_min],
        metadata={"help": "Replicas that there are at most; memory and cores are shared out among so many."},
    )
    queue: int = attrs.field(
        default=4,
        validator=attrs.validators.ge(1),
        metadata={"help": "Requests that may wait for each replica before another one is started."},
    )
    ttft: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.gt(0)),
        metadata={"help": "Seconds to the first token of 95 % of the requests, beyond which another replica is started."},
    )
    idle: float = attrs.field(
        default=60.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Seconds after which a replica that is not needed ends, once it has finished what it has."},
    )
