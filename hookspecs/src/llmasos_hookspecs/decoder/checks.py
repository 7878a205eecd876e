"""Checks that a loader or an accelerator makes before it uses a ``DecoderConfig``."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

from llmasos_hookspecs.decoder.config import DecoderConfig
from llmasos_hookspecs.errors import CheckpointError, UnsupportedModel

if TYPE_CHECKING:
    from llmasos_hookspecs.checkpoint import Checkpoint

#: ``model_type`` values whose decoders are plain unless their config says otherwise; see ``DecoderConfig.traits``.
LLAMA_FAMILY: Final = ("llama", "mistral", "qwen2", "qwen3")


def beyond(config: DecoderConfig, known: Collection[str] = ()) -> str | None:
    """Which traits of a decoder are not among those that are ``known``, as the end of a sentence ("it has ..."); None where all are."""
    unknown = sorted(config.traits - set(known))
    return f"it has {', '.join(unknown)}" if unknown else None


def require_plain(checkpoint: Checkpoint, who: str, known: Collection[str] = ()) -> DecoderConfig:
    """The decoder of a checkpoint, for code that computes the plain Llama form and the traits that are ``known``.

    ``who`` begins the sentence of the error: ``The pruning stage``.

    Raises:
        UnsupportedModel: the decoder has a trait that is not known, or is of an architecture that ``DecoderConfig`` does not describe.
        CheckpointError: a size is missing or impossible.
    """
    config = checkpoint.decoder
    if reason := beyond(config, known):
        raise UnsupportedModel(f"{who} does not compute {checkpoint.path} ({config.model_type}): {reason}; choose another that does.")
    return config


def check_tensors(checkpoint: Checkpoint) -> None:
    """Check, from headers alone, that a checkpoint holds each tensor of its decoder in the right shape.

    Raises:
        UnsupportedModel: the checkpoint is of an architecture that ``DecoderConfig`` does not describe.
        CheckpointError: a tensor is missing, or has another shape than the config asks for; the message names it.
    """
    names = set(checkpoint.names())
    for name, expected in checkpoint.decoder.tensor_shapes().items():
        if name not in names:
            raise CheckpointError(f"{checkpoint.path} lacks the tensor {name}, which its config asks for; fetch the model again.")
        found = tuple(checkpoint.shape(name))
        if found != expected:
            raise CheckpointError(
                f"{checkpoint.path} holds {name} in the shape {found}, and its config asks for {expected}; fetch the model again."
            )


def unread_note(checkpoint: Checkpoint, unread: Iterable[str] | None = None) -> tuple[str, ...]:
    """One sentence for ``EngineInfo.notes`` about tensors that nothing reads, or none.

    Args:
        unread: their names; None: all that the decoder of this config does not have.
    """
    if unread is None:
        read = checkpoint.decoder.tensor_shapes()
        unread = (name for name in checkpoint.names() if name not in read)
    found = sorted(unread)
    if not found:
        return ()
    if len(found) == 1:
        return (f"The checkpoint holds {found[0][:120]}, which the model does not use; it was left out.",)
    return (f"The checkpoint holds {len(found)} tensors that the model does not use, such as {found[0][:120]}; they were left out.",)
