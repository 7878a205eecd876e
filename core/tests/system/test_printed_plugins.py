"""The two plugins that the design prints work word for word."""

from __future__ import annotations

import numpy as np

from llmasos.system.components import PluginSet, load_component
from llmasos.system.context import HookContext
from llmasos.system.options import structure_options
from llmasos_hookspecs import AccelerationResult, Admit, SchedulingPolicy

LIFO = """
import attrs
from llmasos_hookspecs import Admit, Component, hookimpl

@attrs.frozen
class Options:
    max_sequences: int = 8

class Lifo:
    def admit(self, request, stats): return Admit()
    def rank(self, sequence, now): return (-sequence.request.arrival,)
    def victim(self, running, needy, now): return None
    def quantum(self, sequence, budget): return budget
    def on_commit(self, charges): pass

@hookimpl
def llmasos_component(): return Component(summary="Newest first.", options=Options)

@hookimpl
def llmasos_create_scheduler(options, context): return Lifo()
"""

ROUND = """
import attrs, numpy
from llmasos_hookspecs import Component, hookimpl

@attrs.frozen
class Options: pass

def rounded(tensor): return numpy.round(tensor)

@hookimpl
def llmasos_component(): return Component(summary="Round norm weights.", options=Options)

@hookimpl
def llmasos_accelerate(checkpoint, output, options, context):
    with context.writer(checkpoint, output) as writer:      # copies config, tokenizer, manifest; atomic
        for name in checkpoint.names():
            tensor = checkpoint.tensor(name)                 # numpy array or QuantizedTensor
            writer.add(name, rounded(tensor) if "norm" in name else tensor)
    return writer.result()
"""


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


def test_the_printed_scheduler_makes_a_policy(site, home, store):
    site.add("sched-lifo", "scheduler", "lifo", LIFO)
    loaded = load_component(site.registry.find("scheduler", "lifo"))
    options = structure_options(loaded.component.options, {"max_sequences": 3}, "scheduler")
    context = HookContext(name="lifo", cache=home, store=store)
    policy = PluginSet([loaded]).call(loaded, "llmasos_create_scheduler", options=options, context=context)
    assert isinstance(policy, SchedulingPolicy)
    assert policy.admit(None, None) == Admit()
    assert loaded.component.summary == "Newest first."


def test_the_printed_accelerator_writes_what_it_rounds(site, home, store):
    site.add("accel-round", "accelerator", "round", ROUND)
    loaded = load_component(site.registry.find("accelerator", "round"))
    checkpoint, writer = Tensors(), Tensors()
    context = HookContext(name="round", cache=home, store=store, open_writer=lambda *_: writer)
    result = PluginSet([loaded]).call(loaded, "llmasos_accelerate", checkpoint=checkpoint, output=home, options=None, context=context)
    assert result.touched == ("model.norm.weight", "lm_head.weight")
    assert writer.written["model.norm.weight"].tolist() == [1.0, 1.0, 1.0]
    assert writer.written["lm_head.weight"].dtype == np.float32
    assert writer.written["lm_head.weight"].max() < 1
