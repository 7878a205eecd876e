"""What stands around an encoder: pooling, the layers after it, prompts and lengths, as sentence-transformers folders say, or plain ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeGuard

import attrs

from llmasos_checkpoint_kit.folder import inside, parse_json, read_json_if_there, read_small
from llmasos_encoder_kit.choice import MODULES, is_classifier, model_folder
from llmasos_encoder_kit.config import EncoderConfig
from llmasos_encoder_kit.options import EncoderOptions
from llmasos_encoder_kit.pooling import Step
from llmasos_encoder_kit.weights import EncoderWeights
from llmasos_hookspecs import Checkpoint, CheckpointError, Pooling, UnsupportedModel, as_float32
from llmasos_huggingface_folder.safetensors import SafetensorsFile

#: Modes as sentence-transformers names them, in the order in which it puts several side by side, with the flags of older folders.
_MODES: Final[Mapping[str, tuple[str, Pooling]]] = {
    "cls": ("pooling_mode_cls_token", "cls"),
    "max": ("pooling_mode_max_tokens", "max"),
    "mean": ("pooling_mode_mean_tokens", "mean"),
    "mean_sqrt_len_tokens": ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_length"),
    "weightedmean": ("pooling_mode_weightedmean_tokens", "weighted_mean"),
    "lasttoken": ("pooling_mode_lasttoken", "last"),
}
_ACTIVATIONS: Final = {
    "Tanh": "tanh", "Identity": "", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu", "Sigmoid": "sigmoid",
}  # fmt: skip
#: What sentence-transformers calls the prompt of each of our kinds.
_PROMPTS: Final = {"query": ("query", "search_query"), "passage": ("passage", "document", "search_document")}
_MEAN: Final = "The model's folder does not say how tokens become a vector: it is their mean, as for sentence-transformers."


@attrs.frozen(kw_only=True)
class Surroundings:
    """What comes before and after an encoder.

    Attributes:
        pooling: how hidden states become a vector; several stand side by side.
        steps: what is done with the vectors.
        ranks: the result is scores of pairs.
        prompts: before texts of each kind.
        max_length: tokens of a text, where the folder says it.
        notes: for the user.
    """

    pooling: tuple[Pooling, ...]
    steps: tuple[Step, ...] = ()
    ranks: bool = False
    prompts: Mapping[str, str] = attrs.field(factory=dict)
    max_length: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def pooling_word(self) -> Pooling:
        """``EncoderInfo.pooling``."""
        return self.pooling[0] if len(self.pooling) == 1 else "concatenated"

    def dimensions(self, hidden: int) -> int:
        """Width of the results, where hidden states are so wide."""
        width = hidden * len(self.pooling)
        for step in self.steps:
            if step.kind == "dense" and step.weight is not None and step.weight.shape[1] != width:
                raise CheckpointError(
                    f"A dense layer takes vectors of {step.weight.shape[1]} numbers, and they have {width}; get it again."
                )
            width = step.width(width)
        return width


def surroundings(checkpoint: Checkpoint, options: EncoderOptions) -> Surroundings:
    """What the folder of a checkpoint says; options override its pooling and its prompts.

    Raises:
        CheckpointError: a file is damaged, or leads outside the folder.
        UnsupportedModel: the folder asks for a module that is not computed.
    """
    folder = model_folder(checkpoint.path)
    found = _from_modules(folder) if inside(folder, MODULES).is_file() else _plain(checkpoint.config)
    settings = read_json_if_there(folder, "sentence_bert_config.json")
    length = settings.get("max_seq_length")
    if settings.get("do_lower_case") is True:
        raise UnsupportedModel(f"{folder} has texts written in small letters before its tokenizer sees them, which is not done.")
    prompts = {**_prompts(folder), **found.prompts}
    given = {"query": options.query_prompt, "passage": options.passage_prompt}
    prompts |= {kind: text for kind, text in given.items() if text is not None}
    if options.pooling != "auto":
        found = attrs.evolve(found, pooling=(options.pooling,), notes=())
    return attrs.evolve(found, prompts=prompts, max_length=length if isinstance(length, int) and length > 0 else None)


def classifier(checkpoint: Checkpoint, config: EncoderConfig, weights: EncoderWeights) -> Surroundings | None:
    """The pooling and the layers of a model that was saved with a classifier; None where it was saved without."""
    if not is_classifier(checkpoint.config):
        return None
    steps = []
    for name, activation in config.family.head:
        matrix = weights.matrix(name.replace("prefix.", weights.prefix), None, config.hidden_size)
        steps.append(Step("dense", matrix.weight, matrix.bias, activation))
    pooling: Pooling = "cls"
    if config.model_type == "modernbert":
        pooling = "mean" if checkpoint.config.get("classifier_pooling", "cls") == "mean" else "cls"
        norm = weights.norm("head.norm")
        steps.insert(1, Step("norm", norm.weight, norm.bias, eps=config.norm_eps))
    return Surroundings(pooling=(pooling,), steps=tuple(steps), ranks=True)


def _plain(config: Mapping[str, Any]) -> Surroundings:
    """A model without files of sentence-transformers; formats that know its pooling and prompts say them in the config."""
    prompts = config.get("prompts")
    texts = {kind: text for kind, text in prompts.items() if isinstance(text, str)} if isinstance(prompts, Mapping) else {}
    return Surroundings(pooling=("mean",), prompts=texts, notes=() if config.get("pooling") == "mean" else (_MEAN,))


def _from_modules(folder: Path) -> Surroundings:
    path = inside(folder, MODULES)
    listed = parse_json(read_small(path), str(path))
    if not _is_list_of_objects(listed):
        raise CheckpointError(f"{path} is no list of modules; get the model again.")
    kinds = [str(each.get("type", "")).rpartition(".")[2] for each in listed]
    if not kinds or kinds[0] != "Transformer":
        raise UnsupportedModel(f"{folder} begins with {kinds[0][:40] if kinds else 'nothing'}, and only transformers are computed.")
    if str(listed[0].get("path", "")) not in ("", ".", "./"):
        raise UnsupportedModel(f"{folder} keeps its transformer in the folder {listed[0]['path']!r}; name that folder, or save it again.")
    pooling: tuple[Pooling, ...] = ()
    steps: list[Step] = []
    for kind, module in zip(kinds[1:], listed[1:], strict=True):
        place = str(module.get("path", ""))
        if kind == "Pooling" and not pooling:
            pooling = _pooling(read_json_if_there(folder, f"{place}/config.json"), folder)
        elif kind == "Dense":
            steps.append(_dense(folder, place))
        elif kind == "LayerNorm":
            tensors = _tensors(folder, place)
            steps.append(Step("norm", as_float32(tensors.tensor("norm.weight")), as_float32(tensors.tensor("norm.bias"))))
        elif kind == "Normalize":
            steps.append(Step("unit"))
        elif kind != "Dropout":
            raise UnsupportedModel(f"{folder} has a module {kind[:40]!r}, and Pooling, Dense, LayerNorm and Normalize are computed.")
    return Surroundings(pooling=pooling or ("mean",), steps=tuple(steps), notes=() if pooling else (_MEAN,))


def _pooling(config: Mapping[str, Any], folder: Path) -> tuple[Pooling, ...]:
    if config.get("include_prompt") is False:
        raise UnsupportedModel(f"{folder} leaves the prompt out of the pooling, which is not done.")
    named = config.get("pooling_mode")
    if named is None:
        return tuple(ours for flag, ours in _MODES.values() if config.get(flag)) or ("mean",)
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not names or not all(name in _MODES for name in names):
        raise UnsupportedModel(f"{folder} has the pooling {str(named)[:60]!r}, and {', '.join(_MODES)} are computed.")
    return tuple(_MODES[name][1] for name in names)


def _dense(folder: Path, place: str) -> Step:
    config = read_json_if_there(folder, f"{place}/config.json")
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    inner = {config.get(key, "sentence_embedding") for key in ("module_input_name", "module_output_name")} - {None}
    if name not in _ACTIVATIONS or config.get("use_residual") or inner != {"sentence_embedding"}:
        raise UnsupportedModel(f"{folder} has a dense layer of another form in {place!r}, which is not computed.")
    tensors = _tensors(folder, place)
    bias = as_float32(tensors.tensor("linear.bias")) if "linear.bias" in tensors.tensors else None
    return Step("dense", as_float32(tensors.tensor("linear.weight")), bias, _ACTIVATIONS[name])


def _tensors(folder: Path, place: str) -> SafetensorsFile:
    path = inside(folder, f"{place}/model.safetensors")
    if not path.is_file():
        raise CheckpointError(f"{path} is not there, and holds the weights of a module; only safetensors are read: save the model again.")
    return SafetensorsFile(path)


def _prompts(folder: Path) -> dict[str, str]:
    settings = read_json_if_there(folder, "config_sentence_transformers.json")
    named = settings.get("prompts")
    if not isinstance(named, Mapping):
        return {}
    default = named.get(settings.get("default_prompt_name"))
    found = {kind: next((named[name] for name in names if name in named), default) for kind, names in _PROMPTS.items()}
    return {kind: text for kind, text in found.items() if isinstance(text, str) and text}


def _is_list_of_objects(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)
