"""What a replica is started with."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Protocol

import attrs

from llmasos_hookspecs import Host, SeatSpec

#: The distributions that a replica and its parent must have the same versions of.
_SHARED: Final = ("llmasos", "llmasos-engine", "llmasos-hookspecs", "llmasos-replicas")


class ModelSpec(Protocol):
    """What a replica is to serve, as plain data for the program that runs in its seat."""

    def to_mapping(self) -> dict[str, Any]: ...


@attrs.frozen(kw_only=True)
class WorkerSpec:
    """What a replica serves, a config with one model, and what its seat needs.

    Attributes:
        config: names the model by the place of its files on this machine.
        elsewhere: names it by a reference, with the stages that make it, for hosts where those files are not; None: they are everywhere.
        digest: of the checkpoint, which a host's files must have; empty: any.
    """

    config: ModelSpec
    seat: SeatSpec
    elsewhere: ModelSpec | None = None
    digest: str = ""


def versions() -> str:
    """What must be the same on both sides of a connection."""
    return ", ".join(f"{name} {_version(name)}" for name in _SHARED)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "without a version"


def cores_of_seat(hosts: Sequence[Host], seats: int) -> int:
    """The most cores that each of ``seats`` can have for itself, each on one of the hosts that are alive; 0: there are fewer cores."""
    cpus = [host.cpus for host in hosts if host.alive]
    each = sum(cpus) // seats
    while each and sum(count // each for count in cpus) < seats:
        each -= 1
    return each
