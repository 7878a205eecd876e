"""The contract between LLMasOS and its plugins: all that a plugin may import."""

from llmasos_hookspecs.acceleration import AccelerationResult, StagePlan
from llmasos_hookspecs.admission import QueueBounds, expected_seconds
from llmasos_hookspecs.checkpoint import Checkpoint, CheckpointWriter, Tokenizer
from llmasos_hookspecs.component import API_VERSION, GROUPS, NEUTRAL_FORMATS, Component, NoOptions
from llmasos_hookspecs.context import Context, EngineLimits, ModelStore, Progress
from llmasos_hookspecs.decoder import LLAMA_FAMILY, DecoderConfig, RopeScaling, check_tensors
from llmasos_hookspecs.engine import Engine, EngineInfo, Row
from llmasos_hookspecs.errors import (
    AccelerationError,
    Cancelled,
    CapacityExceeded,
    CheckpointError,
    ConfigError,
    ContextLengthExceeded,
    EngineFailed,
    LLMasOSError,
    ModelClosed,
    PluginError,
    Rejected,
    RequestError,
    ResourceError,
    SourceError,
    UnsupportedModel,
)
from llmasos_hookspecs.markers import PROJECT, hookimpl, hookspec
from llmasos_hookspecs.memory import MemoryEstimate
from llmasos_hookspecs.records import RequestRecord
from llmasos_hookspecs.sampling import Constraint, Draw, SamplingParams
from llmasos_hookspecs.scheduling import Admit, Charge, Reject, Request, SchedulingPolicy, SequenceView, Stats
from llmasos_hookspecs.tasks import Choice, Generation, Prompt, Score, Task, TaskModel, TokenLogprob
from llmasos_hookspecs.tensors import QuantizedTensor, Tensor, as_float32

__all__ = [
    "API_VERSION",
    "GROUPS",
    "LLAMA_FAMILY",
    "NEUTRAL_FORMATS",
    "PROJECT",
    "AccelerationError",
    "AccelerationResult",
    "Admit",
    "Cancelled",
    "CapacityExceeded",
    "Charge",
    "Checkpoint",
    "CheckpointError",
    "CheckpointWriter",
    "Choice",
    "Component",
    "ConfigError",
    "Constraint",
    "Context",
    "ContextLengthExceeded",
    "DecoderConfig",
    "Draw",
    "Engine",
    "EngineFailed",
    "EngineInfo",
    "EngineLimits",
    "Generation",
    "LLMasOSError",
    "MemoryEstimate",
    "ModelClosed",
    "ModelStore",
    "NoOptions",
    "PluginError",
    "Progress",
    "Prompt",
    "QuantizedTensor",
    "QueueBounds",
    "Reject",
    "Rejected",
    "Request",
    "RequestError",
    "RequestRecord",
    "ResourceError",
    "RopeScaling",
    "Row",
    "SamplingParams",
    "SchedulingPolicy",
    "Score",
    "SequenceView",
    "SourceError",
    "StagePlan",
    "Stats",
    "Task",
    "TaskModel",
    "Tensor",
    "TokenLogprob",
    "Tokenizer",
    "UnsupportedModel",
    "as_float32",
    "check_tensors",
    "expected_seconds",
    "hookimpl",
    "hookspec",
]
