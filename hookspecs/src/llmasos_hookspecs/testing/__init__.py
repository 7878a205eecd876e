"""The conformance kit: a plugin author subclasses one class, and pytest tests the plugin against the contract.

Needs pytest: install ``llmasos-hookspecs[testing]``.
"""

from llmasos_hookspecs.reference import KeyValues, ReferenceDecoder
from llmasos_hookspecs.testing.accelerator import AcceleratorConformance
from llmasos_hookspecs.testing.access import AccessConformance
from llmasos_hookspecs.testing.checkpoints import CASES, QUANTIZED_CASES, TRAIT_CASES, TinyCheckpoint, quantize, tiny_checkpoint
from llmasos_hookspecs.testing.command import CommandConformance, CommandRun, run_command
from llmasos_hookspecs.testing.command_context import EchoTask, SandboxCommandContext, ScriptedCommandModel
from llmasos_hookspecs.testing.encoder import EncoderConformance
from llmasos_hookspecs.testing.encoder_decoder import EncoderDecoderConformance
from llmasos_hookspecs.testing.encoder_decoder_engine import ReferenceEncoderDecoderEngine
from llmasos_hookspecs.testing.encoder_decoder_model import ENCODER_DECODER_CASES, ReferenceEncoderDecoder, tiny_encoder_decoder
from llmasos_hookspecs.testing.engine import ReferenceEngine
from llmasos_hookspecs.testing.format import FormatConformance
from llmasos_hookspecs.testing.guard import GuardConformance
from llmasos_hookspecs.testing.loader import LoaderConformance
from llmasos_hookspecs.testing.media import MediaConformance
from llmasos_hookspecs.testing.media_engine import ReferenceMediaEngine
from llmasos_hookspecs.testing.observer import ObserverConformance
from llmasos_hookspecs.testing.placement import PlacementConformance
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.reference_encoder import ReferenceEncoder, tiny_encoder
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext, SandboxStore, SandboxWriter, read_folder
from llmasos_hookspecs.testing.scheduler import SchedulerConformance
from llmasos_hookspecs.testing.scripted_runtime import ScriptedAnswer, ScriptedRuntime
from llmasos_hookspecs.testing.server import ServerConformance
from llmasos_hookspecs.testing.simulation import SimulatedSequence, Simulation
from llmasos_hookspecs.testing.source import SourceConformance
from llmasos_hookspecs.testing.standard import StandardTests, overrides_standard
from llmasos_hookspecs.testing.suite import SandboxModel, SuiteConformance
from llmasos_hookspecs.testing.task import TaskConformance
from llmasos_hookspecs.testing.task_model import ScriptedTaskModel
from llmasos_hookspecs.testing.tokenizer import ByteTokenizer

__all__ = [
    "CASES",
    "ENCODER_DECODER_CASES",
    "QUANTIZED_CASES",
    "TRAIT_CASES",
    "AcceleratorConformance",
    "AccessConformance",
    "ByteTokenizer",
    "CommandConformance",
    "CommandRun",
    "EchoTask",
    "EncoderConformance",
    "EncoderDecoderConformance",
    "FormatConformance",
    "GuardConformance",
    "KeyValues",
    "LoaderConformance",
    "MediaConformance",
    "ObserverConformance",
    "PlacementConformance",
    "PluginConformance",
    "PluginSandbox",
    "ReferenceDecoder",
    "ReferenceEncoder",
    "ReferenceEncoderDecoder",
    "ReferenceEncoderDecoderEngine",
    "ReferenceEngine",
    "ReferenceMediaEngine",
    "SandboxCommandContext",
    "SandboxContext",
    "SandboxModel",
    "SandboxStore",
    "SandboxWriter",
    "SchedulerConformance",
    "ScriptedAnswer",
    "ScriptedCommandModel",
    "ScriptedRuntime",
    "ScriptedTaskModel",
    "ServerConformance",
    "SimulatedSequence",
    "Simulation",
    "SourceConformance",
    "StandardTests",
    "SuiteConformance",
    "TaskConformance",
    "TinyCheckpoint",
    "overrides_standard",
    "quantize",
    "read_folder",
    "run_command",
    "tiny_checkpoint",
    "tiny_encoder",
    "tiny_encoder_decoder",
]
