"""The two plugins that the design prints work word for word."""

from __future__ import annotations

import numpy as np

from llmasos.system.components import PluginSet, load_component
from llmasos.system.context import HookContext
from llmasos_hookspecs import AccelerationResult, Admit, SchedulingPolicy
from llmasos_options import structure_options


class Tensors:
    """Two tensors, and a writer that keeps what it is given."""

    def __init__(self):
        self.written = {}
        self.closed = False

    def names(self):
        return ["model.norm.weight", "lm_head.weight"]

    def tensor(self, name):
        return np.full(3, 0.7, dtype=np.float32)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True

    def add(self, name, tensor):
        self.written[name] = tensor

    def result(self, **report):
        assert self.closed
        return AccelerationResult(path=None, touched=tuple(self.written))


def test_the_printed_scheduler_makes_a_policy(site, home, store, printed_scheduler):
    site.add("sched-lifo", "scheduler", "lifo", printed_scheduler)
    loaded = load_component(site.registry.find("scheduler", "lifo"))
    options = structure_options(loaded.component.options, {"max_sequences": 3}, "scheduler")
    context = HookContext(name="lifo", cache=home, store=store)
    policy = PluginSet([loaded]).call(loaded, "llmasos_create_scheduler", options=options, context=context)
    assert isinstance(policy, SchedulingPolicy)
    assert policy.admit(None, None) == Admit()
    assert loaded.component.summary == "Newest first."


def test_the_printed_accelerator_writes_what_it_rounds(site, home, store, printed_accelerator):
    site.add("accel-round", "accelerator", "round", printed_accelerator)
    loaded = load_component(site.registry.find("accelerator", "round"))
    checkpoint, writer = Tensors(), Tensors()
    context = HookContext(name="round", cache=home, store=store, open_writer=lambda *_: writer)
    result = PluginSet([loaded]).call(loaded, "llmasos_accelerate", checkpoint=checkpoint, output=home, options=None, context=context)
    assert result.touched == ("model.norm.weight", "lm_head.weight")
    assert writer.written["model.norm.weight"].tolist() == [1.0, 1.0, 1.0]
    assert writer.written["lm_head.weight"].dtype == np.float32
    assert writer.written["lm_head.weight"].max() < 1
