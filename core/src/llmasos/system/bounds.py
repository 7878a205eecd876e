"""The bounds of plugin calls that ``[resources]`` sets, and which of them each hook has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from llmasos_model_store.store import Store, bytes_below
from llmasos_plugin_calls.bounded import FETCH_SECONDS, LOAD_SECONDS, STAGE_SECONDS, UNBOUNDED, Bound

if TYPE_CHECKING:
    from llmasos_config import ResourcesConfig

_LOAD: Final = Bound(LOAD_SECONDS, "resources.load_timeout")
_FETCH: Final = Bound(FETCH_SECONDS, "resources.fetch_timeout", progress=True)
_STAGE: Final = Bound(STAGE_SECONDS, "resources.stage_timeout", progress=True)
#: The requests of a task end at its timeout; it has a moment more to say that they did.
_TASK: Final = Bound(math.inf, "resources.task_timeout", grace=1.0)


@attrs.frozen(kw_only=True)
class Bounds:
    """The bounds of one pipeline's plugin calls.

    Attributes:
        load: of each hook that loads a model or makes an object, and of what is asked of a component before.
        fetch: of a source.
        stage: of an accelerator stage.
        task: of a task's answer, and of each piece of a streamed one.
    """

    load: Bound = _LOAD
    fetch: Bound = _FETCH
    stage: Bound = _STAGE
    task: Bound = _TASK

    @classmethod
    def of(cls, resources: ResourcesConfig) -> Bounds:
        """As config sets them."""
        return cls(
            load=attrs.evolve(_LOAD, seconds=resources.load_timeout),
            fetch=attrs.evolve(_FETCH, seconds=resources.fetch_timeout),
            stage=attrs.evolve(_STAGE, seconds=resources.stage_timeout),
            task=attrs.evolve(_TASK, seconds=math.inf if resources.task_timeout is None else resources.task_timeout),
        )

    def hook(self, name: str) -> Bound:
        """The bound of a hook. Observers are called on threads of their own, which nobody waits for."""
        if name.startswith(("llmasos_pipeline_", "llmasos_request_", "llmasos_step")):
            return UNBOUNDED
        return {"llmasos_fetch": self.fetch, "llmasos_accelerate": self.stage}.get(name, self.load)


def signs_of_progress(hook: str, arguments: Mapping[str, Any]) -> Callable[[], object] | None:
    """What changes while a hook with such arguments makes progress that it does not report: the bytes that it has written.

    A fetch that waits for another process to fetch the same model makes that one's progress.
    """
    if hook == "llmasos_accelerate":
        folder = arguments["output"].parent
        return lambda: bytes_below(folder)
    store = getattr(arguments.get("context"), "store", None)
    if hook == "llmasos_fetch" and isinstance(store, Store):
        return lambda: dict(store.unfinished())
    return None
