"""Makes an encoder from a checkpoint."""

from __future__ import annotations

from llmasos_backend_torch.encoder.engine import EncoderModel, TorchEncoder
from llmasos_backend_torch.loading import reading
from llmasos_backend_torch.options import Options
from llmasos_backend_torch.precision import Precision, choose_precision
from llmasos_encoder_kit.choice import is_classifier
from llmasos_encoder_kit.config import EncoderConfig, read_config
from llmasos_encoder_kit.fitting import batch_tokens
from llmasos_encoder_kit.sentence import Surroundings, classifier, surroundings
from llmasos_encoder_kit.weights import EncoderWeights
from llmasos_hookspecs import Checkpoint, ConfigError, Context, EncoderInfo, UnsupportedModel


def load_encoder(checkpoint: Checkpoint, options: Options, context: Context) -> TorchEncoder:
    """The packed forward where it computes the checkpoint, else transformers' own code.

    Raises:
        UnsupportedModel: no implementation supports this model.
        CheckpointError: the checkpoint is damaged.
        ConfigError: the options cannot be met.
        ResourceError: the limits leave no room.
    """
    around = surroundings(checkpoint, options)
    precision = choose_precision(checkpoint, options, memory=context.limits.memory)
    if options.implementation != "transformers":
        try:
            config = read_config(checkpoint.config, str(checkpoint.path / "config.json"))
        except UnsupportedModel as error:
            if options.implementation == "fused":
                message = f"loader.implementation is 'fused', which does not compute this model: {error}"
                raise ConfigError(message, "loader.implementation") from error
        else:
            return _packed(checkpoint, config, around, precision, options, context)
    return _general(checkpoint, around, precision, options, context)


def _packed(
    checkpoint: Checkpoint, config: EncoderConfig, around: Surroundings, precision: Precision, options: Options, context: Context
) -> TorchEncoder:
    from llmasos_backend_torch.encoder.layers import PackedEncoder

    weights = EncoderWeights(checkpoint, config)
    around = classifier(checkpoint, config, weights) or around
    with context.progress("Loading weights", len(config.layers), "layers") as progress:
        model = PackedEncoder(weights, config, precision, progress.advance)
    inner = config.intermediate_size * (2 if config.family.gated else 1)
    # A layer holds its input, queries, keys and values, and what it attended; then the inner states of its MLP, twice when activated.
    token_bytes = (6 * config.hidden_size + 2 * inner) * precision.compute.itemsize
    masked = config.buckets or any(layer.window is not None for layer in config.layers)
    square = (config.num_heads if config.buckets else 1) * 4 if masked else 0
    length = min(config.positions, around.max_length or config.positions)
    return _encoder(
        model,
        around,
        precision,
        options,
        context,
        length=length,
        vocab_size=config.vocab_size,
        width=config.hidden_size,
        weight_bytes=model.nbytes,
        token_bytes=token_bytes,
        fixed_bytes=square * length**2,
    )


def _general(checkpoint: Checkpoint, around: Surroundings, precision: Precision, options: Options, context: Context) -> TorchEncoder:
    from llmasos_backend_torch.encoder.general import GeneralEncoder

    if precision.dtype in ("int8", "int4"):
        raise ConfigError(
            f"loader.dtype is {precision.dtype!r}, and this model is computed by transformers, in floats; leave it 'auto'.", "loader.dtype"
        )
    scores = is_classifier(checkpoint.config)
    if scores:
        around = Surroundings(pooling=("cls",), ranks=True, max_length=around.max_length)
    with reading(context, checkpoint) as advance:
        model = GeneralEncoder(checkpoint, precision, advance, scores=scores)
    config = model.model.config.get_text_config()
    positions = int(getattr(config, "max_position_embeddings", 0) or 512)
    length = min(positions, around.max_length or positions)
    hidden, inner = int(config.hidden_size), int(getattr(config, "intermediate_size", 0) or 4 * config.hidden_size)
    return _encoder(
        model,
        around,
        precision,
        options,
        context,
        length=length,
        vocab_size=int(config.vocab_size),
        width=model.width,
        weight_bytes=model.nbytes,
        token_bytes=(8 * hidden + 3 * inner) * precision.compute.itemsize,
        fixed_bytes=0,
    )


def _encoder(
    model: EncoderModel,
    around: Surroundings,
    precision: Precision,
    options: Options,
    context: Context,
    *,
    length: int,
    vocab_size: int,
    width: int,
    weight_bytes: int,
    token_bytes: int,
    fixed_bytes: int,
) -> TorchEncoder:
    length = min(length, context.limits.context_length or length)
    tokens = batch_tokens(options, context.limits, context_length=length, weight_bytes=weight_bytes + fixed_bytes, token_bytes=token_bytes)
    info = EncoderInfo(
        dimensions=around.dimensions(width),
        pooling=around.pooling_word,
        context_length=length,
        max_batch_tokens=tokens,
        vocab_size=vocab_size,
        weight_bytes=weight_bytes,
        batch_bytes=tokens * token_bytes + fixed_bytes,
        device=str(precision.device),
        dtype=precision.dtype,
        features=frozenset({"rank" if around.ranks else "embed"}),
        prompts=around.prompts,
        notes=(*around.notes, *sorted(precision.notes)),
    )
    return TorchEncoder(model, around, info)
