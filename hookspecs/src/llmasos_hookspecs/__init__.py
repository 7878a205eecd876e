"""The contract between LLMasOS and its plugins: all that a plugin may import.

A name is imported with its module when it is first used: a plugin that needs a hook marker and an error imports no numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmasos_hookspecs.lazy_names import LazyNames

if TYPE_CHECKING:
    from llmasos_hookspecs.acceleration import AccelerationResult as AccelerationResult, StagePlan as StagePlan
    from llmasos_hookspecs.access import (
        PERMISSIONS as PERMISSIONS,
        Access as Access,
        AuditEvent as AuditEvent,
        Credentials as Credentials,
        KeyRegister as KeyRegister,
        Limits as Limits,
        Permission as Permission,
        Principal as Principal,
        PromptAccess as PromptAccess,
        Quota as Quota,
        Remaining as Remaining,
        Reservation as Reservation,
    )
    from llmasos_hookspecs.adapters import Adapter as Adapter, LowRank as LowRank
    from llmasos_hookspecs.administration import Administration as Administration, Record as Record
    from llmasos_hookspecs.admission import QueueBounds as QueueBounds, expected_seconds as expected_seconds
    from llmasos_hookspecs.apart import ApartLimits as ApartLimits, inspect_once as inspect_once
    from llmasos_hookspecs.checkpoint import (
        Checkpoint as Checkpoint,
        CheckpointWriter as CheckpointWriter,
        SealedBuilds as SealedBuilds,
        Tokenizer as Tokenizer,
        is_sealed as is_sealed,
        sealed_builds as sealed_builds,
    )
    from llmasos_hookspecs.commands import (
        Command as Command,
        CommandContext as CommandContext,
        CommandModel as CommandModel,
        CommandTask as CommandTask,
        ComponentEntry as ComponentEntry,
    )
    from llmasos_hookspecs.component import (
        API_VERSION as API_VERSION,
        NEUTRAL_FORMATS as NEUTRAL_FORMATS,
        Component as Component,
        NoOptions as NoOptions,
    )
    from llmasos_hookspecs.context import (
        WORKING as WORKING,
        Context as Context,
        EngineLimits as EngineLimits,
        ModelStore as ModelStore,
        Progress as Progress,
        ReachedComponent as ReachedComponent,
    )
    from llmasos_hookspecs.decoder import (
        DECODER_FAMILIES as DECODER_FAMILIES,
        LLAMA_FAMILY as LLAMA_FAMILY,
        DecoderConfig as DecoderConfig,
        DecoderLayer as DecoderLayer,
        Part as Part,
        Rope as Rope,
        RopeScaling as RopeScaling,
        TensorNames as TensorNames,
        beyond as beyond,
        check_tensors as check_tensors,
        require_plain as require_plain,
        unread_note as unread_note,
    )
    from llmasos_hookspecs.encoder import Encoder as Encoder, EncoderInfo as EncoderInfo, EncoderRow as EncoderRow, Pooling as Pooling
    from llmasos_hookspecs.engine import Engine as Engine, EngineInfo as EngineInfo, MediaEngine as MediaEngine, Row as Row
    from llmasos_hookspecs.errors import (
        AccelerationError as AccelerationError,
        ApartError as ApartError,
        Blocked as Blocked,
        Cancelled as Cancelled,
        CapacityExceeded as CapacityExceeded,
        CheckpointError as CheckpointError,
        ConfigError as ConfigError,
        ContextLengthExceeded as ContextLengthExceeded,
        EngineFailed as EngineFailed,
        LLMasOSError as LLMasOSError,
        ModelClosed as ModelClosed,
        NotAllowed as NotAllowed,
        NotAuthenticated as NotAuthenticated,
        PluginError as PluginError,
        QuotaExceeded as QuotaExceeded,
        Rejected as Rejected,
        RequestError as RequestError,
        ResourceError as ResourceError,
        SourceError as SourceError,
        UnknownModel as UnknownModel,
        UnsupportedModel as UnsupportedModel,
    )
    from llmasos_hookspecs.formats import Exported as Exported
    from llmasos_hookspecs.guards import (
        STAGES as STAGES,
        Allow as Allow,
        Block as Block,
        Conversation as Conversation,
        Guard as Guard,
        GuardStream as GuardStream,
        Passage as Passage,
        Replace as Replace,
        Stage as Stage,
        StreamingGuard as StreamingGuard,
        Verdict as Verdict,
    )
    from llmasos_hookspecs.kinds import GROUPS as GROUPS, KINDS as KINDS, Kind as Kind
    from llmasos_hookspecs.markers import PROJECT as PROJECT, hookimpl as hookimpl, hookspec as hookspec
    from llmasos_hookspecs.media import (
        SOURCE as SOURCE,
        Media as Media,
        PlacedMedia as PlacedMedia,
        media_digest as media_digest,
        virtual_tokens as virtual_tokens,
    )
    from llmasos_hookspecs.memory import MemoryEstimate as MemoryEstimate
    from llmasos_hookspecs.placement import Host as Host, Placement as Placement, Seat as Seat, SeatSpec as SeatSpec, run_entry as run_entry
    from llmasos_hookspecs.records import (
        GuardRecord as GuardRecord,
        RequestRecord as RequestRecord,
        RequestStarted as RequestStarted,
        StepRecord as StepRecord,
    )
    from llmasos_hookspecs.reports import (
        FigureColumn as FigureColumn,
        Measurement as Measurement,
        Report as Report,
        Results as Results,
        figure_columns as figure_columns,
        figure_table as figure_table,
        results_to_dict as results_to_dict,
    )
    from llmasos_hookspecs.sampling import Constraint as Constraint, Draw as Draw, SamplingParams as SamplingParams
    from llmasos_hookspecs.scheduling import (
        Admit as Admit,
        Charge as Charge,
        Reject as Reject,
        Request as Request,
        SchedulingPolicy as SchedulingPolicy,
        SequenceView as SequenceView,
        Stats as Stats,
    )
    from llmasos_hookspecs.server import (
        Answer as Answer,
        Endpoint as Endpoint,
        ErrorEvent as ErrorEvent,
        Event as Event,
        FinishEvent as FinishEvent,
        ModelFacts as ModelFacts,
        PartEvent as PartEvent,
        ReasoningEvent as ReasoningEvent,
        Runtime as Runtime,
        Server as Server,
        TaskFacts as TaskFacts,
        TextEvent as TextEvent,
        ToolCallEvent as ToolCallEvent,
        UsageEvent as UsageEvent,
        is_loopback as is_loopback,
    )
    from llmasos_hookspecs.suites import (
        Better as Better,
        Figure as Figure,
        MeasuredModel as MeasuredModel,
        Section as Section,
        Suite as Suite,
        SuiteResult as SuiteResult,
    )
    from llmasos_hookspecs.task_events import TaskCall as TaskCall, TaskEvent as TaskEvent, TaskOutput as TaskOutput
    from llmasos_hookspecs.tasks import (
        METRICS as METRICS,
        RESERVED_INPUTS as RESERVED_INPUTS,
        Choice as Choice,
        Generation as Generation,
        ImageInput as ImageInput,
        Prompt as Prompt,
        PromptProgress as PromptProgress,
        Ranked as Ranked,
        Score as Score,
        Task as Task,
        TaskModel as TaskModel,
        TextKind as TextKind,
        TokenLogprob as TokenLogprob,
        TokenPrompt as TokenPrompt,
    )
    from llmasos_hookspecs.tensors import (
        QuantizedTensor as QuantizedTensor,
        Tensor as Tensor,
        as_float32 as as_float32,
        is_finite as is_finite,
    )
    from llmasos_hookspecs.virtual_path import FileTree as FileTree, VirtualPath as VirtualPath, virtual_folder as virtual_folder
    from llmasos_hookspecs.voice import (
        Segment as Segment,
        Speaker as Speaker,
        Transcriber as Transcriber,
        Transcription as Transcription,
    )

_MODULES: Final = {
    "acceleration": "AccelerationResult StagePlan",
    "adapters": "Adapter LowRank",
    "access": "PERMISSIONS Access AuditEvent Credentials KeyRegister Limits Permission Principal PromptAccess Quota Remaining Reservation",
    "administration": "Administration Record",
    "admission": "QueueBounds expected_seconds",
    "apart": "ApartLimits inspect_once",
    "checkpoint": "Checkpoint CheckpointWriter SealedBuilds Tokenizer is_sealed sealed_builds",
    "commands": "Command CommandContext CommandModel CommandTask ComponentEntry",
    "component": "API_VERSION NEUTRAL_FORMATS Component NoOptions",
    "context": "WORKING Context EngineLimits ModelStore Progress ReachedComponent",
    "decoder": (
        "DECODER_FAMILIES LLAMA_FAMILY DecoderConfig DecoderLayer Part Rope RopeScaling TensorNames beyond check_tensors "
        "require_plain unread_note"
    ),
    "encoder": "Encoder EncoderInfo EncoderRow Pooling",
    "engine": "Engine EngineInfo MediaEngine Row",
    "errors": (
        "AccelerationError ApartError Blocked Cancelled CapacityExceeded CheckpointError ConfigError ContextLengthExceeded "
        "EngineFailed LLMasOSError ModelClosed NotAllowed NotAuthenticated PluginError QuotaExceeded Rejected RequestError "
        "ResourceError SourceError UnknownModel UnsupportedModel"
    ),
    "formats": "Exported",
    "guards": "STAGES Allow Block Conversation Guard GuardStream Passage Replace Stage StreamingGuard Verdict",
    "kinds": "GROUPS KINDS Kind",
    "markers": "PROJECT hookimpl hookspec",
    "media": "SOURCE Media PlacedMedia media_digest virtual_tokens",
    "memory": "MemoryEstimate",
    "placement": "Host Placement Seat SeatSpec run_entry",
    "records": "GuardRecord RequestRecord RequestStarted StepRecord",
    "reports": "FigureColumn Measurement Report Results figure_columns figure_table results_to_dict",
    "sampling": "Constraint Draw SamplingParams",
    "scheduling": "Admit Charge Reject Request SchedulingPolicy SequenceView Stats",
    "server": (
        "Answer Endpoint ErrorEvent Event FinishEvent ModelFacts PartEvent ReasoningEvent Runtime Server TaskFacts TextEvent ToolCallEvent "
        "UsageEvent is_loopback"
    ),
    "suites": "Better Figure MeasuredModel Section Suite SuiteResult",
    "task_events": "TaskCall TaskEvent TaskOutput",
    "tasks": (
        "METRICS RESERVED_INPUTS Choice Generation ImageInput Prompt PromptProgress Ranked Score Task TaskModel TextKind TokenLogprob "
        "TokenPrompt"
    ),
    "tensors": "QuantizedTensor Tensor as_float32 is_finite",
    "virtual_path": "FileTree VirtualPath virtual_folder",
    "voice": "Segment Speaker Transcriber Transcription",
}

__getattr__ = LazyNames(__name__, _MODULES)
__all__ = list(__getattr__.names)


def __dir__() -> list[str]:
    return __all__
