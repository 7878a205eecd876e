"""What a stage left, checked before it is kept: what is wrong is the accelerator's fault now, and would be the download's later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs

from llmasos.acceleration.plan import PlannedStage
from llmasos_hookspecs import AccelerationError, Checkpoint, CheckpointError, DecoderConfig, LLMasOSError, PluginError, UnsupportedModel
from llmasos_huggingface_folder.finite import NotFinite, check_all

#: Tensors of one kind of fault that a message names.
_NAMED = 3


def check_stage(stage: PlannedStage, before: Checkpoint, output: Path, open_checkpoint: Callable[[Path], Checkpoint]) -> None:
    """Raises ``PluginError`` that names the accelerator where ``output`` is not what it was to write.

    That is a checkpoint that opens, with every tensor that its config asks for and no other, in its shape and of a type that weights
    have; and where the stage has a plan, the decoder that it planned. Raises ``AccelerationError`` where it holds NaN or infinity, which
    may be the options' fault.
    """
    label = stage.loaded.entry.label
    try:
        after = open_checkpoint(output)
        problem = _problem(stage, before, after)
        if not problem:
            check_all(after)
    except NotFinite as error:
        raise AccelerationError(
            f'"{stage.name}" left NaN or infinity in {error.tensor}, and nothing of it was kept; change its options, or leave it out.'
        ) from error
    except LLMasOSError as error:
        problem = f"a checkpoint that cannot be read ({error})"
    if problem:
        raise PluginError(f"The {label} wrote {problem}; nothing of it was kept, and this is a fault of the plugin.")


def _problem(stage: PlannedStage, before: Checkpoint, after: Checkpoint) -> str:
    """What is wrong, as what was written; empty where nothing is. Raises ``LLMasOSError`` for what cannot be read."""
    decoder, planned = _decoder(after), stage.decoder or _decoder(before)
    if decoder is not None and planned is not None and stage.loaded.component.plan is not None and not _alike(decoder, planned):
        return "another model than it had planned"
    wanted = {name: before.shape(name) for name in before.names()} if decoder is None else decoder.tensor_shapes()
    found = {name: after.shape(name) for name in after.names()}
    if missing := [name for name in wanted if name not in found]:
        return f"no tensor {_named(missing)}"
    if decoder is not None and (unknown := [name for name in found if name not in wanted]):
        return f"the tensor {_named(unknown)}, which its config does not ask for"
    if decoder is not None and (wrong := [name for name in wanted if found[name] != wanted[name]]):
        return f"the tensor {wrong[0]} in the shape {list(found[wrong[0]])}, and its config asks for {list(wanted[wrong[0]])}"
    packed = "quantization_config" in after.config
    for name, shape in found.items():
        if len(shape) < 2 or not packed:  # reading codes would unpack them; what they may be, opening them has checked
            after.tensor(name)
    return ""


def _alike(one: DecoderConfig, other: DecoderConfig) -> bool:
    """Whether two descriptions are of one model; a head that is quantised is written apart from its embedding."""
    return attrs.evolve(one, tie_embeddings=False) == attrs.evolve(other, tie_embeddings=False)


def _decoder(checkpoint: Checkpoint) -> DecoderConfig | None:
    try:
        return checkpoint.decoder
    except UnsupportedModel:
        return None
    except CheckpointError as error:
        raise CheckpointError(f"its config is wrong: {error}") from error


def _named(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
