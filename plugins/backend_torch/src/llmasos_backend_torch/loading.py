"""Makes an engine from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
import torch

from llmasos_backend_torch.adapters import AdapterSet
from llmasos_backend_torch.engine import TorchEngine
from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.options import Options
from llmasos_backend_torch.precision import Precision, choose_precision
from llmasos_backend_torch.recompute import RecomputeEngine
from llmasos_backend_torch.seq2seq.config import is_encoder_decoder
from llmasos_backend_torch.threads import release_pool
from llmasos_backend_torch.vision import reads_images
from llmasos_encoder_kit.choice import is_encoder
from llmasos_hookspecs import (
    NEUTRAL_FORMATS,
    Checkpoint,
    ConfigError,
    Context,
    Encoder,
    Engine,
    EngineInfo,
    EngineLimits,
    ResourceError,
    UnsupportedModel,
    check_tensors,
    require_plain,
    unread_note,
)

if TYPE_CHECKING:
    from llmasos_backend_torch.seq2seq.engine import Seq2SeqEngine
    from llmasos_backend_torch.vision.engine import VisionEngine


def load(checkpoint: Checkpoint, options: Options, context: Context) -> Engine | Encoder:
    """An encoder for a checkpoint of one, or of a decoder for which the options name a pooling; else the fastest engine that
    computes the checkpoint exactly: the fused forward, else transformers over our slots, else recomputation of the whole sequence at each
    step.

    Raises:
        UnsupportedModel: no implementation supports this model.
        CheckpointError: the checkpoint is damaged.
        ConfigError: the options cannot be met.
        ResourceError: the limits leave no room.
    """
    threads = options.threads or context.limits.threads
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        _check_adapters(checkpoint, options, context)
        if encodes(checkpoint, options):
            from llmasos_backend_torch.encoder.loading import load_encoder  # only their users pay for it

            return load_encoder(checkpoint, options, context)
        engine = _load(checkpoint, options, context)
    finally:
        release_pool()  # steps will come from another thread
    if options.sampling == "device" or (options.sampling == "auto" and engine.info.device != "cpu"):
        engine.info = attrs.evolve(engine.info, features=engine.info.features | {"sampling"})
    return engine


def _check_adapters(checkpoint: Checkpoint, options: Options, context: Context) -> None:
    """Raise ``UnsupportedModel`` where there are adapters for a model that is computed without them."""
    config = checkpoint.config
    decodes = checkpoint.format in NEUTRAL_FORMATS and not (is_encoder_decoder(config) or reads_images(checkpoint))
    if context.adapters and (not decodes or encodes(checkpoint, options)):
        raise UnsupportedModel(
            f"{checkpoint.path} is no plain decoder, and adapters are computed for those alone; merge one into it by the stage merge."
        )


def encodes(checkpoint: Checkpoint, options: Options) -> bool:
    """Whether an encoder is made of a checkpoint: because it is one, or because the options say how a decoder's hidden states become a
    vector.

    Raises:
        ConfigError: they say it of a model whose hidden states are not computed from a text alone.
    """
    if checkpoint.format in NEUTRAL_FORMATS and is_encoder(checkpoint):
        return True
    if options.pooling == "auto":
        return False
    if checkpoint.format not in NEUTRAL_FORMATS or is_encoder_decoder(checkpoint.config):
        what = "an encoder-decoder" if checkpoint.format in NEUTRAL_FORMATS else "an exported program"
        raise ConfigError(
            f'pooling is "{options.pooling}", and {checkpoint.path} is {what}, which gives no vectors of texts; leave it "auto", or '
            "name an embedding model.",
            "loader.pooling",
        )
    return True


def _load(checkpoint: Checkpoint, options: Options, context: Context) -> TorchEngine | RecomputeEngine | Seq2SeqEngine | VisionEngine:
    if checkpoint.format == "torch_export":
        from llmasos_backend_torch.exported.loading import load_exported

        return load_exported(checkpoint, options, context)
    precision = choose_precision(checkpoint, options, memory=context.limits.memory)
    if is_encoder_decoder(checkpoint.config):
        from llmasos_backend_torch.seq2seq.loading import load_seq2seq

        return load_seq2seq(checkpoint, options, precision, context)
    if reads_images(checkpoint):
        from llmasos_backend_torch.vision.loading import load_vision

        return load_vision(checkpoint, options, precision, context)
    if options.implementation != "transformers":
        try:
            check_fused(checkpoint)
        except UnsupportedModel as error:
            if options.implementation == "fused":
                message = f"loader.implementation is 'fused', which does not compute this model: {error}"
                raise ConfigError(message, "loader.implementation") from error
        else:
            return _load_fused(checkpoint, options, precision, context)
    from llmasos_backend_torch.general import load_general

    return load_general(checkpoint, precision, context)


def check_fused(checkpoint: Checkpoint) -> None:
    """Raise ``UnsupportedModel`` if the fused forward does not support the config."""
    require_plain(checkpoint, "The fused forward")


def _load_fused(checkpoint: Checkpoint, options: Options, precision: Precision, context: Context) -> TorchEngine:
    from llmasos_backend_torch.installed import InstalledDecoder, installed_kernels, load_installed
    from llmasos_backend_torch.llama import LlamaDecoder, load_llama

    check_tensors(checkpoint)
    decoder = checkpoint.decoder
    positions = min(decoder.context_length, context.limits.context_length or decoder.context_length)
    adapters = AdapterSet(context.adapters, precision)
    kernels = None if adapters else installed_kernels(checkpoint, options, precision)
    model: LlamaDecoder | InstalledDecoder | None = None
    if kernels is not None:
        with context.progress("Packing weights", decoder.num_layers, "layers") as progress:
            model = load_installed(checkpoint, precision, positions, kernels, progress.advance)
    if model is None:
        with context.progress("Loading weights", decoder.num_layers, "layers") as progress:
            model = load_llama(checkpoint, precision, positions, progress.advance, adapters)
    info = engine_info(
        precision,
        context.limits,
        vocab_size=decoder.vocab_size,
        context_length=decoder.context_length,
        weight_bytes=model.nbytes,
        kv_bytes_per_token=model.kv_bytes_per_token(),
    )
    info = attrs.evolve(
        info,
        dtype="int4" if isinstance(model, InstalledDecoder) else info.dtype,
        features=info.features | {"embeddings"},
        hidden_size=model.hidden_size,
        adapters=adapters.names,
        notes=(*info.notes, *unread_note(checkpoint)),
    )
    # A captured program has its layers without adapters.
    if isinstance(model, InstalledDecoder) or adapters or (not options.compile and precision.device.type != "cuda"):
        return TorchEngine(model, KVCache(info.max_sequences, info.context_length), info)
    from llmasos_backend_torch.static_decode import StaticDecoder, compiled, cuda_graph, or_plain

    static = StaticDecoder(model, compiled if options.compile else or_plain(cuda_graph))
    return TorchEngine(static, KVCache(info.max_sequences, info.context_length, spare=True), info)


def engine_info(
    precision: Precision,
    limits: EngineLimits,
    *,
    vocab_size: int,
    context_length: int,
    weight_bytes: int,
    kv_bytes_per_token: int,
    media_bytes: int = 0,
) -> EngineInfo:
    """The engine's sizes: the model's, reduced to the limits. Raises ``ResourceError`` if nothing fits."""
    info = EngineInfo(
        vocab_size=vocab_size,
        context_length=min(context_length, limits.context_length or context_length),
        max_sequences=limits.max_sequences,
        weight_bytes=weight_bytes,
        kv_bytes_per_token=kv_bytes_per_token,
        device=str(precision.device),
        dtype=precision.dtype,
        notes=tuple(sorted(precision.notes)),
        media_bytes=media_bytes,
    )
    if limits.memory is None:
        return info
    room = limits.memory - info.fixed_bytes
    fits = room // (kv_bytes_per_token * limits.max_sequences) if kv_bytes_per_token else (info.context_length if room >= 0 else 0)
    if fits < 1:
        raise ResourceError(
            f"The weights take {weight_bytes} bytes and one token of each of {limits.max_sequences} sequences "
            f"{kv_bytes_per_token * limits.max_sequences}, and the limit is {limits.memory}; allow more memory, or load int8 or int4."
        )
    return attrs.evolve(info, context_length=min(info.context_length, fits))


@contextmanager
def reading(context: Context, checkpoint: Checkpoint) -> Iterator[Callable[[], None]]:
    """A progress display while the checkpoint's tensors are read."""
    with context.progress("Loading weights", len(checkpoint.names()), "tensors") as progress:
        yield progress.advance
