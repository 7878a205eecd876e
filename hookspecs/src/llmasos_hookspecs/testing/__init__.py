"""The conformance kit: a plugin author subclasses one class, and pytest tests the plugin against the contract.

Needs pytest: install ``llmasos-hookspecs[testing]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmasos_hookspecs.lazy_names import LazyNames

if TYPE_CHECKING:
    from llmasos_hookspecs.reference import KeyValues as KeyValues, ReferenceDecoder as ReferenceDecoder
    from llmasos_hookspecs.testing.accelerator import AcceleratorConformance as AcceleratorConformance
    from llmasos_hookspecs.testing.access import AccessConformance as AccessConformance
    from llmasos_hookspecs.testing.adapters import (
        AdapterConformance as AdapterConformance,
        ReferenceAdapterEngine as ReferenceAdapterEngine,
        tiny_adapter as tiny_adapter,
    )
    from llmasos_hookspecs.testing.checkpoints import (
        CASES as CASES,
        QUANTIZED_CASES as QUANTIZED_CASES,
        TRAIT_CASES as TRAIT_CASES,
        TinyCheckpoint as TinyCheckpoint,
        quantize as quantize,
        tiny_checkpoint as tiny_checkpoint,
    )
    from llmasos_hookspecs.testing.command import (
        CommandConformance as CommandConformance,
        CommandRun as CommandRun,
        run_command as run_command,
    )
    from llmasos_hookspecs.testing.command_context import (
        EchoTask as EchoTask,
        SandboxCommandContext as SandboxCommandContext,
        ScriptedCommandModel as ScriptedCommandModel,
    )
    from llmasos_hookspecs.testing.encoder import EncoderConformance as EncoderConformance
    from llmasos_hookspecs.testing.encoder_decoder import EncoderDecoderConformance as EncoderDecoderConformance
    from llmasos_hookspecs.testing.encoder_decoder_engine import ReferenceEncoderDecoderEngine as ReferenceEncoderDecoderEngine
    from llmasos_hookspecs.testing.encoder_decoder_model import (
        ENCODER_DECODER_CASES as ENCODER_DECODER_CASES,
        ReferenceEncoderDecoder as ReferenceEncoderDecoder,
        tiny_encoder_decoder as tiny_encoder_decoder,
    )
    from llmasos_hookspecs.testing.engine import ReferenceEngine as ReferenceEngine
    from llmasos_hookspecs.testing.format import FormatConformance as FormatConformance
    from llmasos_hookspecs.testing.guard import GuardConformance as GuardConformance
    from llmasos_hookspecs.testing.loader import LoaderConformance as LoaderConformance
    from llmasos_hookspecs.testing.media import MediaConformance as MediaConformance
    from llmasos_hookspecs.testing.media_engine import (
        ReferenceImageEngine as ReferenceImageEngine,
        ReferenceMediaEngine as ReferenceMediaEngine,
        image_checkpoint as image_checkpoint,
    )
    from llmasos_hookspecs.testing.observer import ObserverConformance as ObserverConformance
    from llmasos_hookspecs.testing.placement import PlacementConformance as PlacementConformance
    from llmasos_hookspecs.testing.plugin import PluginConformance as PluginConformance
    from llmasos_hookspecs.testing.reference_encoder import ReferenceEncoder as ReferenceEncoder, tiny_encoder as tiny_encoder
    from llmasos_hookspecs.testing.sandbox import (
        PluginSandbox as PluginSandbox,
        SandboxContext as SandboxContext,
        SandboxStore as SandboxStore,
        SandboxWriter as SandboxWriter,
        read_folder as read_folder,
    )
    from llmasos_hookspecs.testing.scheduler import SchedulerConformance as SchedulerConformance
    from llmasos_hookspecs.testing.scripted_runtime import ScriptedAnswer as ScriptedAnswer, ScriptedRuntime as ScriptedRuntime
    from llmasos_hookspecs.testing.server import ServerConformance as ServerConformance
    from llmasos_hookspecs.testing.simulation import SimulatedSequence as SimulatedSequence, Simulation as Simulation
    from llmasos_hookspecs.testing.source import SourceConformance as SourceConformance
    from llmasos_hookspecs.testing.speaker import SpeakerConformance as SpeakerConformance
    from llmasos_hookspecs.testing.standard import StandardTests as StandardTests, overrides_standard as overrides_standard
    from llmasos_hookspecs.testing.suite import SandboxModel as SandboxModel, SuiteConformance as SuiteConformance
    from llmasos_hookspecs.testing.task import TaskConformance as TaskConformance
    from llmasos_hookspecs.testing.task_model import ScriptedTaskModel as ScriptedTaskModel
    from llmasos_hookspecs.testing.tokenizer import ByteTokenizer as ByteTokenizer
    from llmasos_hookspecs.testing.transcriber import TranscriberConformance as TranscriberConformance

# Imported when first used: a plugin that takes one small thing of the kit loads no pytest and no hypothesis for it.
_MODULES: Final = {
    "reference": "KeyValues ReferenceDecoder",
    "testing.accelerator": "AcceleratorConformance",
    "testing.access": "AccessConformance",
    "testing.adapters": "AdapterConformance ReferenceAdapterEngine tiny_adapter",
    "testing.checkpoints": "CASES QUANTIZED_CASES TRAIT_CASES TinyCheckpoint quantize tiny_checkpoint",
    "testing.command": "CommandConformance CommandRun run_command",
    "testing.command_context": "EchoTask SandboxCommandContext ScriptedCommandModel",
    "testing.encoder": "EncoderConformance",
    "testing.encoder_decoder": "EncoderDecoderConformance",
    "testing.encoder_decoder_engine": "ReferenceEncoderDecoderEngine",
    "testing.encoder_decoder_model": "ENCODER_DECODER_CASES ReferenceEncoderDecoder tiny_encoder_decoder",
    "testing.engine": "ReferenceEngine",
    "testing.format": "FormatConformance",
    "testing.guard": "GuardConformance",
    "testing.loader": "LoaderConformance",
    "testing.media": "MediaConformance",
    "testing.media_engine": "ReferenceImageEngine ReferenceMediaEngine image_checkpoint",
    "testing.observer": "ObserverConformance",
    "testing.placement": "PlacementConformance",
    "testing.plugin": "PluginConformance",
    "testing.reference_encoder": "ReferenceEncoder tiny_encoder",
    "testing.sandbox": "PluginSandbox SandboxContext SandboxStore SandboxWriter read_folder",
    "testing.scheduler": "SchedulerConformance",
    "testing.scripted_runtime": "ScriptedAnswer ScriptedRuntime",
    "testing.server": "ServerConformance",
    "testing.simulation": "SimulatedSequence Simulation",
    "testing.source": "SourceConformance",
    "testing.speaker": "SpeakerConformance",
    "testing.standard": "StandardTests overrides_standard",
    "testing.suite": "SandboxModel SuiteConformance",
    "testing.task": "TaskConformance",
    "testing.task_model": "ScriptedTaskModel",
    "testing.tokenizer": "ByteTokenizer",
    "testing.transcriber": "TranscriberConformance",
}

__getattr__ = LazyNames(__name__, _MODULES)
__all__ = list(__getattr__.names)


def __dir__() -> list[str]:
    return __all__
