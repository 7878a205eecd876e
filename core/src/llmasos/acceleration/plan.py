"""Plans stages: finds every reason why they cannot run, before a weight is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos.system.components import LoadedComponent, missing_frameworks
from llmasos.system.loader_choice import refusal
from llmasos_config import ComponentConfig
from llmasos_hookspecs import AccelerationError, Checkpoint, CheckpointError, Component, DecoderConfig, LLMasOSError, PluginError, StagePlan
from llmasos_hookspecs.guarding.edge import kind_of
from llmasos_options import find_problems, structure_options, unstructure
from llmasos_plugin_calls.bounded import UNBOUNDED, Bound, call_within

#: The order of stages: distillation repairs structural pruning, and would undo masks; quantised codes cannot be changed any more.
ORDER: Final = ("structure", "distil", "mask", "quant")


@attrs.frozen(eq=False, kw_only=True)
class PlannedStage:
    """One stage that can run.

    Attributes:
        loaded: the accelerator.
        options: its options, as its own class.
        calibration: whether it reads calibration text.
        leaves: properties of its output that later stages must know, such as ``quantized``.
        decoder: the decoder that it will write; None where it does not say, or changes nothing.
    """

    loaded: LoadedComponent
    options: Any
    calibration: bool
    leaves: Mapping[str, Any]
    decoder: DecoderConfig | None = None

    @property
    def name(self) -> str:
        """The accelerator's name in config."""
        return self.loaded.entry.name

    def to_dict(self) -> dict[str, Any]:
        """All that determines the stage's result, as plain data for the manifest and the cache key."""
        entry = self.loaded.entry
        return {"use": entry.qualified, "version": entry.version, "options": unstructure(self.options), "leaves": dict(self.leaves)}


@attrs.frozen(eq=False, kw_only=True)
class Plan:
    """Stages that can run one after the other. ``opened`` are the models that they read besides the one they change."""

    stages: tuple[PlannedStage, ...]
    opened: tuple[Checkpoint, ...] = ()


def plan_stages(
    checkpoint: Checkpoint,
    stages: Sequence[ComponentConfig],
    find: Callable[[str], LoadedComponent],
    *,
    open_checkpoint: Callable[[Path], Checkpoint],
    also: Sequence[str] = (),
    bound: Bound = UNBOUNDED,
) -> Plan:
    """Check the stages against each other and against the model, by its description alone.

    ``find`` imports the accelerator that a ``use`` names, or raises ``PluginError``. ``open_checkpoint`` opens the other models that stages
    read. ``also``: problems that are known already. ``bound``: of each question that is asked of an accelerator.

    Raises:
        AccelerationError: with every problem that was found, one sentence each.
    """
    problems = list(also)
    planned: list[PlannedStage] = []
    opened: list[Checkpoint] = []
    decoder, state, reached = _decoder(checkpoint), initial_state(checkpoint), -1
    if not stages:
        problems.append("No stage is named; name at least one accelerator.")
    for index, config in enumerate(stages):
        where = config.path or f"accelerate[{index}]"
        try:
            loaded = find(config.use)
        except LLMasOSError as error:
            problems.append(f"{where}: {error}")
            continue
        component = loaded.component
        found = _component_problems(loaded, checkpoint, bound)
        refused = find_problems(component.options, config.options, where)
        problems += [f"{where}: {sentence}" for sentence in found] + [str(problem) for problem in refused]
        plan = StagePlan()
        options: Any = None
        if not refused:
            options = structure_options(component.options, config.options, where)
            if component.plan is not None and decoder is not None and not found:
                plan = _planned(loaded, decoder, options, state, bound)
                problems += [f"{where}: {sentence}" for sentence in (*plan.problems, *_judged(plan, open_checkpoint, opened))]
        stage = plan.stage or component.stage
        if stage is not None:
            rank = ORDER.index(stage)
            if rank < reached:
                problems.append(
                    f'{where}: "{loaded.entry.name}" is a {stage} stage and comes after a {ORDER[reached]} stage; '
                    f"the order is {', '.join(ORDER)}."
                )
            reached = max(reached, rank)
        calibration = component.calibration if plan.calibration is None else plan.calibration
        if calibration and (reason := _no_text(checkpoint)):
            problems.append(f'{where}: "{loaded.entry.name}" calibrates on text, and {reason}')
        decoder = plan.decoder or decoder
        leaves = dict(plan.leaves) or _implied(component, refused=bool(refused))
        state = {**state, **leaves, "changed": True}
        planned.append(PlannedStage(loaded=loaded, options=options, calibration=calibration, leaves=leaves, decoder=plan.decoder))
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise AccelerationError(f"The acceleration plan has {count}. {' '.join(problems)}", tuple(problems))
    return Plan(stages=tuple(planned), opened=tuple(opened))


def _planned(loaded: LoadedComponent, decoder: DecoderConfig, options: Any, state: Mapping[str, Any], bound: Bound) -> StagePlan:
    """The accelerator's plan. Raises ``PluginError`` where its ``plan`` fails, or does not return in time."""
    label, make = loaded.entry.label, loaded.component.plan
    assert make is not None
    plan: Any = call_within(bound, label, "plan", lambda _: make(decoder, options, dict(state)))
    if not isinstance(plan, StagePlan):
        raise PluginError(f"The {label} returned {kind_of(plan)} from plan, and it must be a StagePlan.")
    return plan


def initial_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """The state that earlier stages left, from the checkpoint's manifest; a folder quantised by another tool counts as quantised.

    A GGUF file does not: its blocks are dequantised without loss, and the stages start from those floats.
    """
    state: dict[str, Any] = {"quantized": False, "masked": False, "changed": False}
    if not checkpoint.manifest:
        state["quantized"] = bool(checkpoint.config.get("quantization_config")) and checkpoint.format == "huggingface"
    for stage in checkpoint.manifest.get("stages", ()):
        state |= stage.get("leaves", {})
    return state


def _implied(component: Component, *, refused: bool) -> dict[str, Any]:
    """The state after a stage whose options were refused, or that has no plan, to check the stages after it."""
    kinds = {"quant": {"quantized": True}, "mask": {"masked": True}}
    return dict(kinds.get(component.stage or "", {})) if refused or component.plan is None else {}


def _judged(plan: StagePlan, open_checkpoint: Callable[[Path], Checkpoint], opened: list[Checkpoint]) -> Iterator[str]:
    """Problems with the other models that a stage reads; those that can be opened are added to ``opened``."""
    for path, judge in plan.opens.items():
        try:
            checkpoint = open_checkpoint(Path(path))
            yield from judge(checkpoint.decoder)
        except LLMasOSError as error:
            yield str(error)
        else:
            opened.append(checkpoint)


def _component_problems(loaded: LoadedComponent, checkpoint: Checkpoint, bound: Bound) -> list[str]:
    component, problems = loaded.component, []
    missing = missing_frameworks(component)
    if missing:
        problems.append(f"The {loaded.entry.label} needs {' and '.join(missing)}; pip install {' '.join(missing)}.")
    if reason := refusal(loaded, checkpoint, bound):
        problems.append(f"{reason[:1].upper()}{reason[1:]}.")
    return problems


def _decoder(checkpoint: Checkpoint) -> DecoderConfig | None:
    try:
        return checkpoint.decoder
    except CheckpointError:
        return None


def _no_text(checkpoint: Checkpoint) -> str:
    try:
        checkpoint.tokenizer()
    except LLMasOSError as error:
        return f"the model has no tokenizer to read text with ({error})"
    return ""
