"""Finds the graphs of an exported decoder and the names of their inputs and outputs; refuses files outside the folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos_hookspecs import CheckpointError, UnsupportedModel

_GENAI: Final = "genai_config.json"
_MAX_CONFIG_BYTES: Final = 1 << 20
#: Files that only a model with an encoder has, and what such a model is.
_ENCODERS: Final = {
    "encoder_model": "an encoder-decoder without its decoder",
    "vision_encoder": "a vision model",
    "audio_encoder": "a speech model",
}


@attrs.frozen(kw_only=True)
class Names:
    """Names of an export's inputs and outputs, with ``%d`` for the layer; None for a pattern that is to be recognised from the graph."""

    input_ids: str = "input_ids"
    attention_mask: str = "attention_mask"
    position_ids: str = "position_ids"
    logits: str = "logits"
    past: tuple[str, str] | None = None
    present: tuple[str, str] | None = None


@attrs.frozen(kw_only=True)
class ExportFiles:
    """The graphs of a decoder.

    Attributes:
        decoder: the graph that computes tokens; with a cache, those that follow what the cache holds.
        first: the graph that computes the first tokens of a sequence, where that is another.
        root: the folder that files must lie in.
        context_length: tokens the export says it takes.
        kv_heads, head_dim: of keys and values, where the export says it.
    """

    decoder: Path
    first: Path | None = None
    root: Path
    names: Names = Names()
    context_length: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None


def inside(root: Path, folder: Path, name: object) -> Path:
    """The file that a file in ``folder`` calls ``name``.

    Raises:
        CheckpointError: the name is no plain relative one, or the file is missing or outside of ``root``. The one link outward that is
            followed is that of a Hugging Face cache, ``snapshots/<revision>/x -> ../../blobs/<digest>``.
    """
    shown = repr(name)[:80]
    parts = Path(name).parts if isinstance(name, str) and "\0" not in name else ()
    if not isinstance(name, str) or not parts or "\\" in name or Path(name).is_absolute() or ".." in parts or ":" in parts[0]:
        raise CheckpointError(f"{folder} names the file {shown}, which leads outside its folder; do not use this model.")
    path = folder / name
    try:
        there = path.is_file()
    except (OSError, ValueError) as error:  # a name that is too long or holds half a character, a folder that may not be entered
        reason = getattr(error, "strerror", None) or "it is no file name"
        raise CheckpointError(f"{folder} names the file {shown}, which cannot be opened: {reason}; get the whole folder again.") from error
    if not there:
        raise CheckpointError(f"{folder} lacks the file {shown}, which holds a part of the model; get the whole folder again.")
    real, real_root = path.resolve(), root.resolve()
    snapshot = next((place for place in (real_root, *real_root.parents) if place.parent.name == "snapshots"), None)
    if not real.is_relative_to(real_root) and not (snapshot and real.is_relative_to(snapshot.parent.parent / "blobs")):
        raise CheckpointError(f"{path} is a link that leads outside its folder; copy the file in its place if you trust it.")
    return path


def find_files(path: Path, config: Mapping[str, Any]) -> ExportFiles:
    """The decoder's files at ``path``, a folder or an ``.onnx`` file.

    Raises:
        CheckpointError: files are missing or lead outside.
        UnsupportedModel: it is not a text-only decoder, or the folder holds several graphs.
    """
    if path.is_file():
        return ExportFiles(decoder=inside(path.parent, path.parent, path.name), root=path.parent, **_sizes(config))
    if (path / _GENAI).is_file():
        return _genai_files(path)
    for folder in (path, path / "onnx"):
        found = {file.stem: file for file in sorted(folder.glob("*.onnx"))}
        if found:
            return _in_folder(path, folder, found, config)
    raise CheckpointError(f"{path} holds no .onnx file; check the path.")


def _in_folder(root: Path, folder: Path, found: Mapping[str, Path], config: Mapping[str, Any]) -> ExportFiles:
    for stem, kind in _ENCODERS.items():
        if stem in found:
            raise UnsupportedModel(f"{folder} holds {found[stem].name}: it is {kind}, which the loader onnx does not take.")

    def files(decoder: str, first: str | None = None) -> ExportFiles:
        paths = [None if stem is None else inside(root, folder, found[stem].name) for stem in (decoder, first)]
        assert paths[0] is not None
        return ExportFiles(decoder=paths[0], first=paths[1], root=root, **_sizes(config))

    for stem in ("decoder_model_merged", "model"):
        if stem in found:
            return files(stem)
    if {"decoder_model", "decoder_with_past_model"} <= set(found):
        return files("decoder_with_past_model", "decoder_model")
    if len(found) == 1:
        return files(next(iter(found)))
    names = ", ".join(file.name for file in found.values())
    raise UnsupportedModel(f"{folder} holds {names}, and none of them is model.onnx; name the one to run.")


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    return {
        "context_length": _number(config, "max_position_embeddings") or _number(config, "n_positions"),
        "kv_heads": _number(config, "num_key_value_heads") or heads,
        "head_dim": _number(config, "head_dim") or (hidden // heads if hidden and heads else None),
    }


def _genai_files(path: Path) -> ExportFiles:
    """The files of a folder for onnxruntime-genai, as onnxruntime-genai's docs/config reference describes its configuration."""
    where = path / _GENAI
    inside(path, path, _GENAI)
    model = _object(_read(where), "model", where)
    extra = sorted(part for part in ("encoder", "vision", "speech", "embedding") if part in model)
    if extra:
        raise UnsupportedModel(f"{where} describes a model with {' and '.join(extra)}, and the loader onnx takes decoders of text alone.")
    decoder = _object(model, "decoder", where)
    if decoder.get("pipeline"):
        raise UnsupportedModel(f"{where} describes a pipeline of several graphs, which only onnxruntime-genai runs; build it as one graph.")
    inputs, outputs = _object(decoder, "inputs", where), _object(decoder, "outputs", where)
    filename = _text(decoder, "filename", where)
    return ExportFiles(
        decoder=inside(path, path, filename),
        root=path,
        names=Names(
            input_ids=_text(inputs, "input_ids", where),
            attention_mask=_text(inputs, "attention_mask", where, "attention_mask"),
            position_ids=_text(inputs, "position_ids", where, "position_ids"),
            logits=_text(outputs, "logits", where, "logits"),
            past=_pair(inputs, ("past_key_names", "past_value_names"), where),
            present=_pair(outputs, ("present_key_names", "present_value_names"), where),
        ),
        context_length=_number(model, "context_length"),
        kv_heads=_number(decoder, "num_key_value_heads"),
        head_dim=_number(decoder, "head_size"),
    )


def _pair(values: Mapping[str, Any], keys: tuple[str, str], where: Path) -> tuple[str, str] | None:
    if not any(key in values for key in keys):
        return None
    first, second = (_text(values, key, where) for key in keys)
    if any(pattern.count("%d") != 1 or pattern.count("%") != 1 for pattern in (first, second)):
        raise CheckpointError(f"{where} names keys and values {first!r} and {second!r}, and each needs one %d for its layer.")
    return first, second


def _read(where: Path) -> Mapping[str, Any]:
    try:
        if where.stat().st_size > _MAX_CONFIG_BYTES:
            raise CheckpointError(f"{where} is larger than any real one; get the model again.")
        found = json.loads(where.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is no readable JSON; get the model again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{where} holds no JSON object; get the model again.")
    return found


def _object(values: Mapping[str, Any], key: str, where: Path) -> Mapping[str, Any]:
    found = values.get(key)
    if not isinstance(found, dict):
        raise CheckpointError(f"{where} has no table {key!r}; build the model again.")
    return found


def _text(values: Mapping[str, Any], key: str, where: Path, default: str | None = None) -> str:
    found = values.get(key, default)
    if not isinstance(found, str) or not found:
        raise CheckpointError(f"{where} does not say {key!r}; build the model again.")
    return found


def _number(values: Mapping[str, Any], key: str) -> int | None:
    found = values.get(key)
    return found if type(found) is int and 0 < found < 1 << 31 else None
