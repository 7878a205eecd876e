"""Options of the placement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from llmasos_hookspecs import ConfigError

_POSITIVE: Final = attrs.validators.gt(0.0)
_CHANNELS: Final = ("auto", "ray", "socket")


@attrs.frozen(kw_only=True)
class Options:
    """How to reach the cluster, what a seat takes of it, and when a seat counts as lost."""

    address: str = attrs.field(
        default="auto",
        validator=attrs.validators.min_len(1),
        metadata={"help": '"HOST:PORT" of the cluster; "auto": that of this machine; "local": one of this process, on its machine alone.'},
    )
    namespace: str = attrs.field(
        default="llmasos",
        validator=attrs.validators.min_len(1),
        metadata={"help": "The Ray namespace in which the seats have their names."},
    )
    spread: bool = attrs.field(default=True, metadata={"help": "Seats on as many nodes as there are; false: on as few as hold them."})
    cpus: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.ge(0)),
        metadata={"help": "Ray's CPUs that a seat takes; left out: its share of all there are."},
    )
    resources: Mapping[str, float] = attrs.field(
        factory=dict, metadata={"help": 'Further resources that a seat takes, by Ray\'s names, such as {GPU = 1} or {"zone-a" = 0.01}.'}
    )
    channel: str = attrs.field(
        default="auto",
        validator=attrs.validators.in_(_CHANNELS),
        metadata={
            "help": 'How messages travel: "ray", by calls of Ray; "socket", by a connection of their own, not encrypted; "auto", by such '
            "a connection to seats on this machine and by Ray to others.",
            "choices": _CHANNELS,
        },
    )
    start_timeout: float = attrs.field(
        default=120.0, validator=_POSITIVE, metadata={"help": "Seconds after which a seat that found no room on any node is given up."}
    )
    silence: float = attrs.field(
        default=10.0, validator=_POSITIVE, metadata={"help": "Seconds without a sign of life after which a seat is ended as lost."}
    )

    @resources.validator
    def _check_resources(self, _: object, value: Mapping[str, float]) -> None:
        for name, amount in value.items():
            if name in ("CPU", "memory"):
                raise ConfigError(
                    f"resources.{name} is set by {'cpus' if name == 'CPU' else 'resources.memory of the config'}; leave it out."
                )
            if not amount > 0:
                raise ConfigError(f"resources.{name} is {amount}, and it must be more than 0.")
