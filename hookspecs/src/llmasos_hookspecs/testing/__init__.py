"""The conformance kit: a plugin author subclasses one class, and pytest proves the plugin against the contract.

Needs pytest: install ``llmasos-hookspecs[testing]``.
"""

from llmasos_hookspecs.testing.checkpoints import CASES, QUANTIZED_CASES, TinyCheckpoint, quantize, tiny_checkpoint
from llmasos_hookspecs.testing.engine import ReferenceEngine
from llmasos_hookspecs.testing.loader import LoaderConformance
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.reference import KeyValues, ReferenceDecoder
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext, SandboxStore, SandboxWriter, read_folder
from llmasos_hookspecs.testing.scheduler import SchedulerConformance
from llmasos_hookspecs.testing.simulation import SimulatedSequence, Simulation
from llmasos_hookspecs.testing.standard import StandardTests, overrides_standard
from llmasos_hookspecs.testing.tokenizer import ByteTokenizer

__all__ = [
    "CASES",
    "QUANTIZED_CASES",
    "ByteTokenizer",
    "KeyValues",
    "LoaderConformance",
    "PluginConformance",
    "PluginSandbox",
    "ReferenceDecoder",
    "ReferenceEngine",
    "SandboxContext",
    "SandboxStore",
    "SandboxWriter",
    "SchedulerConformance",
    "SimulatedSequence",
    "Simulation",
    "StandardTests",
    "TinyCheckpoint",
    "overrides_standard",
    "quantize",
    "read_folder",
    "tiny_checkpoint",
]
