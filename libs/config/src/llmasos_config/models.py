"""One model as config composes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from llmasos_config.components import DEFAULT_PLACEMENT, USUAL_PLACEMENT
from llmasos_options.component import ComponentConfig
from llmasos_replicas.replica_range import ReplicaRange

#: The name of the model that the ``[model]`` table describes.
DEFAULT_MODEL: Final = "default"


@attrs.frozen(kw_only=True)
class ModelConfig:
    """One model with all that composes it.

    Attributes:
        preset: where the values come from that config does not set; empty without one.
        replicas: how many there are at most.
        elastic: how many there are at a time; None: all of them.
    """

    name: str
    source: str
    preset: str = attrs.field(default="", eq=False)
    system: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    sampling: Mapping[str, Any] = attrs.field(factory=dict)
    chat_template: str = ""
    adapters: Mapping[str, str] = attrs.field(factory=dict)
    context_length: int | None
    allow_pickle: bool
    replicas: int = 1
    elastic: ReplicaRange | None = None
    loader: ComponentConfig
    accelerate: tuple[ComponentConfig, ...]
    scheduler: ComponentConfig
    placement: ComponentConfig = USUAL_PLACEMENT

    @property
    def reference(self) -> str:
        """What users call the model by: its preset's name, else its source."""
        return self.preset or self.source

    @property
    def placed(self) -> bool:
        """Whether the model runs in other processes, which its placement starts."""
        return self.replicas > 1 or self.placement.use != DEFAULT_PLACEMENT

    def components(self) -> Iterator[tuple[str, ComponentConfig]]:
        """Kind and config of each component that the model is composed of."""
        yield "loader", self.loader
        for stage in self.accelerate:
            yield "accelerator", stage
        yield "scheduler", self.scheduler
        if self.placed:
            yield "placement", self.placement
