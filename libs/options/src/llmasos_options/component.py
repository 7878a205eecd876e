"""A component as config names it, before its options are checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from llmasos_options.unstructure import unstructure


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
