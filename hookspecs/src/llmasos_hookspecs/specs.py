"""The hook specifications. pluggy is for set-up and lifecycle; no hook is called once a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmasos_hookspecs.acceleration import AccelerationResult
from llmasos_hookspecs.access import Access
from llmasos_hookspecs.checkpoint import Checkpoint, Tokenizer
from llmasos_hookspecs.commands import Command, CommandContext
from llmasos_hookspecs.component import Component
from llmasos_hookspecs.context import Context
from llmasos_hookspecs.encoder import Encoder
from llmasos_hookspecs.engine import Engine
from llmasos_hookspecs.formats import Exported
from llmasos_hookspecs.guards import Guard
from llmasos_hookspecs.markers import hookspec
from llmasos_hookspecs.memory import MemoryEstimate
from llmasos_hookspecs.placement import Placement
from llmasos_hookspecs.records import RequestRecord, RequestStarted, StepRecord
from llmasos_hookspecs.scheduling import SchedulingPolicy
from llmasos_hookspecs.server import Runtime, Server
from llmasos_hookspecs.suites import Suite
from llmasos_hookspecs.tasks import Task
from llmasos_hookspecs.voice import Speaker, Transcriber


@hookspec(firstresult=True)
def llmasos_component() -> Component | None:
    """Every plugin module: what this component is. Must not import a framework."""


@hookspec(firstresult=True)
def llmasos_fetch(ref: str, options: Any, context: Context) -> Path | None:
    """Source: bring the model that ``ref`` names and return its folder or file; None where the reference is another source's."""


@hookspec(firstresult=True)
def llmasos_open(path: Path, options: Any, context: Context) -> Checkpoint | None:
    """Format: the checkpoint at ``path``, a file or folder that a source brought; None where it is another format's. Reads headers only.
    Raises ``CheckpointError`` where the file is of this format and damaged."""


@hookspec(firstresult=True)
def llmasos_export(checkpoint: Checkpoint, output: Path, options: Any, context: Context) -> Exported | None:
    """Format, optional: write any checkpoint to ``output``, a file or folder that is not there yet; ``options`` are of
    ``Component.exports``. Core gives a temporary name and renames what was written. Raises ``UnsupportedModel`` where the format cannot
    hold the checkpoint."""


@hookspec(firstresult=True)
def llmasos_read_tokenizer(folder: Path, options: Any, context: Context) -> Tokenizer | None:
    """Format, optional: the tokenizer that the files in ``folder`` describe; None where they are another format's. Core reads
    tokenizer.json itself, and asks for other tokenizers of any checkpoint, whatever reads its weights. Raises ``CheckpointError`` where a
    file is damaged."""


@hookspec(firstresult=True)
def llmasos_load(checkpoint: Checkpoint, options: Any, context: Context) -> Engine | Encoder | None:
    """Loader: make an engine from a checkpoint that generates text, or an encoder from one that makes vectors or scores of texts; core
    tells them by their ``info``. Raises ``UnsupportedModel`` where it cannot load it."""


@hookspec(firstresult=True)
def llmasos_predict(checkpoint: Checkpoint, options: Any, context: Context) -> MemoryEstimate | None:
    """Loader, optional: predict quickly what ``llmasos_load`` with the same arguments will hold in memory, from shapes and a few tensors.
    None where it cannot; core then estimates from the size of the files. A measured load replaces either."""


@hookspec(firstresult=True)
def llmasos_accelerate(checkpoint: Checkpoint, output: Path, options: Any, context: Context) -> AccelerationResult | None:
    """Accelerator: write a changed checkpoint to ``output`` through ``context.writer``; the input is never changed."""


@hookspec(firstresult=True)
def llmasos_create_scheduler(options: Any, context: Context) -> SchedulingPolicy | None:
    """Scheduler: a policy for one model's queue."""


@hookspec(firstresult=True)
def llmasos_create_task(options: Any, context: Context) -> Task | None:
    """App task: an object with ``inputs``, ``output`` and ``run``."""


@hookspec(firstresult=True)
def llmasos_create_suite(options: Any, context: Context) -> Suite | None:
    """Suite: an object with ``measure``."""


@hookspec(firstresult=True)
def llmasos_command(options: Any, context: CommandContext) -> Command | None:
    """Command: a verb of the command line, called by the entry point's name: ``llmasos NAME``. Importing the module imports no framework;
    what the command needs is imported when it runs. Its leaves have ``--json``."""


@hookspec(firstresult=True)
def llmasos_create_placement(options: Any, context: Context) -> Placement | None:
    """Placement: where the replicas of models run."""


@hookspec(firstresult=True)
def llmasos_create_server(runtime: Runtime, options: Any, context: Context) -> Server | None:
    """Server: serves ``runtime`` once it is started; nothing listens yet when the hook returns."""


@hookspec(firstresult=True)
def llmasos_create_access(options: Any, context: Context) -> Access | None:
    """Access: who may use the servers of a pipeline, and how much."""


@hookspec(firstresult=True)
def llmasos_create_guard(options: Any, context: Context) -> Guard | None:
    """Guard: looks at the texts that go into models and come out."""


@hookspec(firstresult=True)
def llmasos_create_transcriber(options: Any, context: Context) -> Transcriber | None:
    """Transcriber: writes down what is said in recordings."""


@hookspec(firstresult=True)
def llmasos_create_speaker(options: Any, context: Context) -> Speaker | None:
    """Speaker: says texts aloud."""


@hookspec
def llmasos_pipeline_ready(pipeline: Any, options: Any, context: Context) -> None:
    """Observer: the pipeline is composed and can take requests. Observers are called on a thread of their own, one event after the other;
    events for an observer that is too slow are dropped. Errors are logged and ignored."""


@hookspec
def llmasos_request_started(record: RequestStarted, options: Any, context: Context) -> None:
    """Observer: a request has a slot, and its first tokens have been computed."""


@hookspec
def llmasos_step(record: StepRecord, options: Any, context: Context) -> None:
    """Observer: what the engine did since the record before. Sampled: a few times a second while a model computes, and when it runs out of
    work. Engines count nothing for it where no observer implements it."""


@hookspec
def llmasos_request_finished(record: RequestRecord, options: Any, context: Context) -> None:
    """Observer: a request has ended, successfully or not."""


@hookspec
def llmasos_pipeline_closed(pipeline: Any, options: Any, context: Context) -> None:
    """Observer: the pipeline has been closed; the hook has a few seconds to return."""
