"""The two plugins that the design prints, word for word."""

from __future__ import annotations

import pytest

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


@pytest.fixture(scope="session")
def printed_scheduler() -> str:
    """The code of the scheduler ``lifo``."""
    return LIFO


@pytest.fixture(scope="session")
def printed_accelerator() -> str:
    """The code of the accelerator ``round``."""
    return ROUND
