"""What stands where config names no component."""

from __future__ import annotations

from typing import Final

from llmasos_config.catalog import default_component
from llmasos_options.component import ComponentConfig

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


#: What config means where it names no placement, and no access control.
USUAL_PLACEMENT: Final = ComponentConfig(DEFAULT_PLACEMENT, path="placement")
USUAL_ACCESS: Final = ComponentConfig(DEFAULT_ACCESS, path="access")


def usual_component(kind: str) -> ComponentConfig:
    """The component of a kind of ``REACHED`` where config names none. Raises ``KeyError`` for kinds that have none."""
    if kind not in REACHED:
        raise KeyError(kind)
    return ComponentConfig(default_component(kind), path=kind)
