"""``context.component`` reaches another component, whatever kinds the two are of."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from llmasos.system.component_calls import ComponentCalls
from llmasos.system.components import load_component
from llmasos.system.sources import resolve
from llmasos_hookspecs import ConfigError, PluginError, UnsupportedModel
from llmasos_model_store.store import Store

from .conftest import Site

TASK = """
    import attrs
    from llmasos_hookspecs import Component, hookimpl

    @attrs.frozen
    class Nothing: pass

    class Asking:
        inputs = output = Nothing

        def __init__(self, policy, name): self.policy, self.name = policy, name

        def run(self, model, inputs): return Nothing()

    @hookimpl
    def llmasos_component(): return Component(summary="Uses a scheduler.")

    @hookimpl
    def llmasos_create_task(context):
        reached = context.component("scheduler", "mine", {"max_sequences": 3})
        assert reached.component.summary == "A scheduler of the tests."
        return Asking(reached.make(), reached.label)
"""

SOURCE = """
    from pathlib import Path
    from llmasos_hookspecs import Component, hookimpl

    @hookimpl
    def llmasos_component(): return Component(summary="Another name for a path.", schemes=("other",))

    @hookimpl
    def llmasos_fetch(ref, context):
        scheme, _, rest = ref.partition(":")
        return context.component("source", "path").make(ref=rest) if scheme == "other" else None
"""


def create(site: Site, code: str) -> object:
    """What the task with that code is made as."""
    site.add("app-asking", "task", "asking", code)
    loaded = load_component(site.registry.find("task", "asking"))
    return ComponentCalls(registry=site.registry).call(loaded, "llmasos_create_task", options=None)


def test_a_component_reaches_another_with_options(site: Site) -> None:
    """The other is made by its own hook, with the options that it was asked for with and a context of its own name."""
    site.add("sched-mine", "scheduler", "mine")
    task = create(site, TASK)
    assert task.policy.options.max_sequences == 3
    assert task.policy.options.order == "new"
    assert task.policy.name == "mine"
    assert task.name == 'scheduler "mine" (sched-mine 1.0)'


def test_a_hook_with_arguments_gets_them(site: Site, tmp_path: Path, store: Store) -> None:
    """A source hands a reference on to another source."""
    (tmp_path / "model").mkdir()
    site.add("source-other", "source", "other", SOURCE)
    assert resolve(f"other:{tmp_path / 'model'}", registry=site.registry, store=store).path == tmp_path / "model"


@pytest.mark.parametrize(
    ("old", "new", "error", "sentence"),
    [
        ('"mine"', '"nine"', PluginError, 'No scheduler "nine" is installed; did you mean "mine"'),
        ('"scheduler"', '"scheduling"', PluginError, '"scheduling" is no kind of component'),
        ("max_sequences", "max_sequence", ConfigError, r"asking: scheduler mine\.max_sequence .*max_sequences"),
        ('"max_sequences": 3', '"max_sequences": 0', ConfigError, "asking: scheduler mine.max_sequences"),
        (".make()", ".make(model=1)", PluginError, r"\"asking\" used the scheduler \"mine\" .* takes \(\); this is a fault of the plugin"),
    ],
)
def test_what_cannot_be_reached_is_one_sentence(site: Site, old: str, new: str, error: type[Exception], sentence: str) -> None:
    """What is not installed, an option that is refused, and arguments that the hook does not take."""
    site.add("sched-mine", "scheduler", "mine")
    assert old in TASK
    with pytest.raises(error, match=sentence):
        create(site, TASK.replace(old, new))


LOADER = """
    from llmasos_hookspecs import Component, hookimpl
    from llmasos_hookspecs.testing import ReferenceEngine, tiny_checkpoint

    @hookimpl
    def llmasos_component(): return Component(summary="Keeps a file.")

    @hookimpl
    def llmasos_load(checkpoint, options, context):
        context.cache.mkdir(parents=True, exist_ok=True)
        (context.cache / "derived.bin").write_bytes(b"weights")
        return ReferenceEngine(tiny_checkpoint("llama"))
"""


def test_nothing_derived_from_a_sealed_model_is_kept_by_a_component_that_another_reached(site: Site) -> None:
    """Its cache is refused, as where core calls it; of a plain model it keeps what it likes."""
    site.add("backend-mine", "loader", "mine", LOADER)
    made = 'context.component("loader", "mine").make(checkpoint=SimpleNamespace(sealed=SEALED))'
    code = (
        "from types import SimpleNamespace\n"
        + textwrap.dedent(TASK[: TASK.index("        reached = ")])
        + f"    {made}\n    return Asking(None, None)\n"
    )
    create(site, code.replace("SEALED", "False"))
    site.add("app-sealed", "task", "sealed", code.replace("SEALED", "True"))
    loaded = load_component(site.registry.find("task", "sealed"))
    with pytest.raises(UnsupportedModel, match="of a sealed model nothing may be written in the clear"):
        ComponentCalls(registry=site.registry).call(loaded, "llmasos_create_task", options=None)
