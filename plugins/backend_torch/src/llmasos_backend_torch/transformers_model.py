"""A checkpoint as a transformers model that runs over our slots."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.pytorch_utils import Conv1D

from llmasos_backend_torch.adapters import AdaptedModule, AdapterSet
from llmasos_backend_torch.architectures import refusal
from llmasos_backend_torch.interface import SLOTS, computing
from llmasos_backend_torch.kv_cache import KVCache
from llmasos_backend_torch.linear import Linear
from llmasos_backend_torch.plan import StepPlan
from llmasos_backend_torch.precision import Precision
from llmasos_backend_torch.tensors import as_torch
from llmasos_hookspecs import Checkpoint, CheckpointError, QuantizedTensor, Tensor as StoredTensor, UnsupportedModel, unread_note

#: Rotary embeddings whose frequencies depend on the longest sequence of the batch; ``dynamic`` ones only past the model's context.
_LENGTH_DEPENDENT = ("dynamic", "longrope")


class TransformersDecoder:
    """A model of transformers; see ``engine.Decoder``."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        ropes = _ropes(model.config)
        self.separate_rows = any(rope["rope_type"] in _LENGTH_DEPENDENT for rope in ropes)
        self._longest = LongestSequence(model)
        #: Lengths past which the rotary frequencies of every position change.
        self.switches = tuple(sorted({int(rope["original_max_position_embeddings"]) for rope in ropes if rope["rope_type"] == "longrope"}))
        self._picks_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    @property
    def nbytes(self) -> int:
        """Bytes of weights in memory."""
        return parameter_bytes(self.model)

    def forward(self, plan: StepPlan, cache: KVCache) -> Tensor:
        # If no logits are wanted one row is computed anyway, because models do not support an empty selection.
        wanted = plan.wanted if plan.wanted.shape[0] else plan.wanted.new_tensor([plan.total - 1])
        more = {"logits_to_keep": wanted} if self._picks_logits else {}
        with computing(plan, cache), self._longest.being(plan.longest):
            logits: Tensor = self.model(input_ids=plan.tokens[None], position_ids=plan.positions[None], use_cache=False, **more).logits[0]
        if not self._picks_logits:
            logits = logits[wanted]
        return logits[: plan.wanted.shape[0]]


class LongestSequence:
    """Tells a model's rotary embeddings the final length of a sequence. They choose frequencies by the largest position in the input, which
    a prefill chunk does not contain."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._length = 0
        for module in model.modules():
            kinds = getattr(module, "rope_type", None)
            if "longrope" in (kinds.values() if isinstance(kinds, Mapping) else [kinds]):
                module.register_forward_pre_hook(self._with_last_position, with_kwargs=True)
                module.register_forward_hook(self._without_last_position)

    @contextmanager
    def being(self, length: int) -> Iterator[None]:
        """Context in which sequences count as ``length`` tokens long; outside it the largest position decides."""
        self._length = length
        try:
            yield
        finally:
            self._length = 0

    def _with_last_position(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any] | None:
        if not self._length:
            return None
        x, positions, *rest = (*given, named.pop("position_ids")) if "position_ids" in named else given
        last = positions.new_full((positions.shape[0], 1), self._length - 1)
        return (x, torch.cat((positions, last), 1), *rest), named

    def _without_last_position(self, module: nn.Module, given: tuple[Any, ...], rotations: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return tuple(part[:, :-1] for part in rotations) if self._length else None


class KernelLinear(nn.Module):
    """A ``Linear`` kernel that replaces a linear layer of the model."""

    def __init__(self, kernel: Linear, in_features: int, out_features: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.in_features, self.out_features = in_features, out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)


def load_model(
    checkpoint: Checkpoint, precision: Precision, advance: Callable[[], None], mapping: Any = MODEL_FOR_CAUSAL_LM_MAPPING
) -> PreTrainedModel:
    """Build the model that config.json describes and load the checkpoint's weights; ``advance`` is called once a tensor. Unused tensors are
    named in ``precision.notes``. ``mapping``: from configs to classes of models, those of transformers' ``Auto`` classes.

    Raises:
        UnsupportedModel: transformers has no model of this architecture and kind.
        CheckpointError: tensors are missing or of another shape than the config says.
    """
    config = _config(checkpoint, mapping)
    architecture = mapping[type(config)]
    text = config.sub_configs.get("text_config")
    if text is not None and architecture.config_class is text:  # the class takes the text part only, as with AutoModelForCausalLM
        config = config.get_text_config()
    weights = {}
    for name in checkpoint.names():
        weights[name] = as_torch(checkpoint.tensor(name), precision.compute)
        advance()
    with _quiet():
        try:
            model, found = architecture.from_pretrained(
                None, config=config, state_dict=weights, dtype=precision.compute, attn_implementation="eager", output_loading_info=True,
                ignore_mismatched_sizes=True,
            )  # fmt: skip
        except Exception as error:  # each architecture fails in its own way over sizes that do not fit
            message = f"transformers {transformers.__version__} cannot build {checkpoint.path}: {_in_one_line(error)}"
            raise UnsupportedModel(message) from error
    _check_complete(checkpoint, found, without=("pooler.",) if mapping is not MODEL_FOR_CAUSAL_LM_MAPPING else ())
    precision.notes.update(unread_note(checkpoint, found.get("unexpected_keys", ())))
    return model.eval().requires_grad_(False).to(precision.device)


def use_slots(model: PreTrainedModel) -> None:
    """Make the model attend over slots from now on."""
    model.set_attn_implementation(SLOTS)


def use_kernels(model: PreTrainedModel, checkpoint: Checkpoint, precision: Precision) -> Callable[[], None]:
    """Replace the model's linear layers by our kernels; stored codes are used unchanged if a kernel can represent them.

    Returns a function that restores the layers, for models whose code reads a layer's weight itself.
    """
    names = set(checkpoint.names())
    head = model.get_output_embeddings()
    replaced: list[tuple[str, nn.Module]] = []
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear | Conv1D) or type(module).forward not in (nn.Linear.forward, Conv1D.forward):
            continue
        if isinstance(module, NonDynamicallyQuantizableLinear):  # torch's own attention reads its weight
            continue
        weight = module.weight.data if isinstance(module, nn.Linear) else module.weight.data.t()
        kernel = precision.matrix(
            [_stored(checkpoint, names, f"{name}.weight", weight)],
            None if module.bias is None else module.bias.data,
            head=module is head,
        )
        _replace(model, name, KernelLinear(kernel, weight.shape[1], weight.shape[0]))
        replaced.append((name, module))

    def undo() -> None:
        for name, module in replaced:
            _replace(model, name, module)

    return undo


def use_adapters(model: PreTrainedModel, adapters: AdapterSet) -> None:
    """Have the adapters change the outputs of the model's linear layers, those with kernels of ours too.

    Raises ``UnsupportedModel`` where one changes something else.
    """
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        sizes = _sizes(module)
        if sizes is not None and module is not head and (parts := adapters.parts([(name, *sizes, None)])):
            _replace(model, name, AdaptedModule(module, parts))
    adapters.check("a layer of the model")


def _sizes(module: nn.Module) -> tuple[int, int] | None:
    """Rows and columns of a linear layer; None for another."""
    if isinstance(module, nn.Linear | KernelLinear):
        return module.out_features, module.in_features
    return (int(module.weight.shape[1]), int(module.weight.shape[0])) if isinstance(module, Conv1D) else None


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _stored(checkpoint: Checkpoint, names: set[str], name: str, weight: Tensor) -> StoredTensor:
    if name in names:
        stored = checkpoint.tensor(name)
        if isinstance(stored, QuantizedTensor) and stored.shape == tuple(weight.shape):
            return stored
    return weight.float().cpu().contiguous().numpy()


def _config(checkpoint: Checkpoint, mapping: Any) -> PretrainedConfig:
    """The checkpoint's config as a transformers config, without keys that would make it dequantise weights or run code of the model."""
    kept = {key: value for key, value in checkpoint.config.items() if key not in ("quantization_config", "auto_map", "model_type")}
    kind = str(checkpoint.config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise UnsupportedModel(
            f"{checkpoint.path} has model_type {kind!r}, which transformers {transformers.__version__} does not know; a newer version may."
        )
    try:
        config = AutoConfig.for_model(kind, **kept)
    except Exception as error:  # each config class checks its fields in its own way
        raise CheckpointError(f"config.json of {checkpoint.path} is not one of {kind!r}: {_in_one_line(error)}") from error
    decodes = mapping is MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in mapping:
        what = "no decoder-only language model" if decodes else "no encoder of texts"
        raise UnsupportedModel(f"{checkpoint.path} has model_type {kind!r}, which is {what}.")
    if not decodes:
        return config
    if reason := refusal(checkpoint.config):
        raise UnsupportedModel(f"{checkpoint.path} is not computed: {reason}.")
    return config


def _check_complete(checkpoint: Checkpoint, found: Mapping[str, Any], without: tuple[str, ...]) -> None:
    """``without``: how the names of tensors begin that are not needed."""
    wrong = [entry[0] if isinstance(entry, tuple) else entry for entry in found.get("mismatched_keys", ())]
    if wrong:
        raise CheckpointError(f"{checkpoint.path} holds {wrong[0]} in another shape than its config says; get the model again.")
    missing = sorted(name for name in found.get("missing_keys", ()) if not name.startswith(without))
    if missing:
        raise CheckpointError(f"{checkpoint.path} lacks the tensor {missing[0]} ({len(missing)} are missing); get the model again.")


def _ropes(config: PretrainedConfig) -> list[Mapping[str, Any]]:
    """The rotary embeddings of a config: one, or one for each type of layer."""
    found = getattr(config.get_text_config(), "rope_parameters", None) or {}
    each = [found, *(value for value in found.values() if isinstance(value, Mapping))]
    return [part for part in each if "rope_type" in part]


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights in memory, each counted once."""
    seen = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    kernels = sum(module.kernel.nbytes for module in model.modules() if isinstance(module, KernelLinear))
    return sum(seen.values()) + kernels + sum(module.part_bytes for module in model.modules() if isinstance(module, AdaptedModule))


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress transformers' progress bars and tables on stderr; relevant problems are raised as errors here."""
    log = logging.getLogger("transformers")
    level, bars = log.level, transformers.utils.logging.is_progress_bar_enabled()
    log.setLevel(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        log.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
