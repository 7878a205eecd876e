"""A component as config names it, and what stands where config names none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from llmasos.system.catalog import default_component
from llmasos.system.options import unstructure

#: What stands where config says nothing.
DEFAULT_SOURCE: Final = "smollm2"
DEFAULT_LOADER: Final = "auto"
DEFAULT_SCHEDULER: Final = default_component("scheduler")
#: Where replicas run; a model with one replica runs in this process.
DEFAULT_PLACEMENT: Final = "local"
#: The kinds with a table of their own that other components reach: tasks and verbs, say.
REACHED: Final = ("transcriber", "speaker")
#: Who may use the servers: every client on the loopback interface of this machine.
DEFAULT_ACCESS: Final = "open"


@attrs.frozen
class ComponentConfig:
    """One component as config names it.

    Attributes:
        use: a name, ``dist:name``, or ``auto`` for loaders.
        options: the other keys of its table, not yet checked against the plugin's own options.
        tune: with ``auto``: time the loaders that take a model at its first load on this machine, and take the fastest.
        path: where it stands, such as ``accelerate[1]``; not compared.
    """

    use: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    path: str = attrs.field(default="", eq=False)
    tune: bool = False

    def to_mapping(self) -> dict[str, Any]:
        return {"use": self.use, **({"tune": True} if self.tune else {}), **unstructure(self.options)}


#: What config means where it names no placement, and no access control.
USUAL_PLACEMENT: Final = ComponentConfig(DEFAULT_PLACEMENT, path="placement")
USUAL_ACCESS: Final = ComponentConfig(DEFAULT_ACCESS, path="access")


def usual_component(kind: str) -> ComponentConfig:
    """The component of a kind of ``REACHED`` where config names none. Raises ``KeyError`` for kinds that have none."""
    if kind not in REACHED:
        raise KeyError(kind)
    return ComponentConfig(default_component(kind), path=kind)
