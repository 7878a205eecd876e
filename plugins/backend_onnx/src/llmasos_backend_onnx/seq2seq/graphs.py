"""The three graphs of an exported encoder-decoder, by the names of their inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs
from onnx import TensorProto

from llmasos_backend_onnx.foreign.files import inside
from llmasos_backend_onnx.foreign.graph import ExportedGraph
from llmasos_hookspecs import UnsupportedModel

ENCODER: Final = "encoder_model"
FIRST: Final = "decoder_model"
LATER: Final = "decoder_with_past_model"

_PAST: Final = re.compile(r"past_key_values\.(\d+)\.(decoder|encoder)\.(key|value)")
_TYPES: Final[Mapping[int, str]] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


@attrs.frozen
class GraphFiles:
    """Where the graphs lie; all files must lie in ``root``."""

    root: Path
    encoder: Path
    first: Path
    later: Path


@attrs.frozen(kw_only=True)
class Signature:
    """The sizes of the graphs.

    Attributes:
        layers, heads, head_dim: of the decoder's keys and values.
        width: of the encoder's hidden states.
        vocab_size: of the logits; None where the graph leaves it free.
        dtype: of hidden states, keys and values.
        later_reads_states: the graph of later tokens takes the encoder's hidden states too.
    """

    layers: int
    heads: int
    head_dim: int
    width: int | None
    vocab_size: int | None
    dtype: str
    later_reads_states: bool

    def past(self, side: str) -> list[str]:
        """Names of the cache inputs of one side, ``decoder`` or ``encoder``, keys and values of each layer in turn."""
        return [f"past_key_values.{layer}.{side}.{part}" for layer in range(self.layers) for part in ("key", "value")]

    def present(self, side: str) -> list[str]:
        """Names of the outputs that hold the same after a run."""
        return [name.replace("past_key_values", "present", 1) for name in self.past(side)]


def holds_encoder(path: Path) -> bool:
    """Whether a folder holds an exported encoder beside a decoder."""
    return _folder(path) is not None


def find_graphs(path: Path) -> GraphFiles:
    """The files of an export.

    Raises:
        CheckpointError: a file is missing, or a link leads outside the folder.
        UnsupportedModel: the decoder's two graphs are merged into one.
    """
    folder = _folder(path) or path
    if (folder / "decoder_model_merged.onnx").is_file() and not (folder / f"{LATER}.onnx").is_file():
        raise UnsupportedModel(
            f"{folder} holds decoder_model_merged.onnx, and an encoder-decoder is read from {FIRST}.onnx and {LATER}.onnx; export it with "
            "--no-post-process."
        )
    return GraphFiles(path, *(inside(path, folder, f"{name}.onnx") for name in (ENCODER, FIRST, LATER)))


def read_signature(encoder: ExportedGraph, first: ExportedGraph, later: ExportedGraph) -> Signature:
    """The sizes that all three graphs agree on. Raises ``UnsupportedModel`` where they are no encoder-decoder of text."""
    _require(encoder, {"input_ids", "attention_mask"}, {"last_hidden_state"})
    past = {value.name: value for value in later.inputs if _PAST.fullmatch(value.name)}
    layers = len(past) // 4
    one = past.get("past_key_values.0.decoder.key")
    if one is None or one.shape is None or len(one.shape) != 4 or one.element not in _TYPES:
        raise UnsupportedModel(
            f"{later.path} takes no keys and values under optimum's names; export it with optimum, task text2text-generation-with-past."
        )
    heads, head_dim = one.shape[1], one.shape[3]
    width = next((value.shape[2] for value in encoder.outputs if value.shape is not None and len(value.shape) == 3), None)
    if heads is None or head_dim is None:
        raise UnsupportedModel(f"{later.path} leaves the heads of its keys free; export it with their number.")
    vocab_size = next((value.shape[-1] for value in later.outputs if value.name == "logits" and value.shape), None)
    found = Signature(
        layers=layers,
        heads=heads,
        head_dim=head_dim,
        width=width,
        vocab_size=vocab_size,
        dtype=_TYPES[one.element],
        later_reads_states="encoder_hidden_states" in {value.name for value in later.inputs},
    )
    states = {"encoder_hidden_states"}
    own, source = set(found.past("decoder")), set(found.past("encoder"))
    _require(first, {"input_ids", "encoder_attention_mask", *states}, {"logits", *found.present("decoder"), *found.present("encoder")})
    needed = {"input_ids", "encoder_attention_mask", *own, *source, *(states if found.later_reads_states else ())}
    _require(later, needed, {"logits", *found.present("decoder")})
    return found


def _require(graph: ExportedGraph, inputs: set[str], outputs: set[str]) -> None:
    """Raise ``UnsupportedModel`` where a graph takes other inputs, or lacks an output."""
    given, made = {value.name for value in graph.inputs}, {value.name for value in graph.outputs}
    wrong = sorted(given ^ inputs) or sorted(outputs - made)
    if wrong:
        raise UnsupportedModel(
            f"{graph.path} {'differs in' if given != inputs else 'lacks'} {wrong[0][:80]} from what optimum exports of an encoder-decoder "
            "of text; export it again with optimum, task text2text-generation-with-past."
        )


def _folder(path: Path) -> Path | None:
    decoders = (FIRST, LATER, "decoder_model_merged")
    for folder in (path, path / "onnx"):
        if (folder / f"{ENCODER}.onnx").is_file() and any((folder / f"{name}.onnx").is_file() for name in decoders):
            return folder
    return None
