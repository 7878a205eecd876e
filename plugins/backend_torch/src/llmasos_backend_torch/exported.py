"""A decoder exported by ``torch.export``: a program of token ids that gives logits, without a KV cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import torch
from torch import Tensor

from llmasos_backend_torch.exported_archive import check_archive
from llmasos_backend_torch.loading import engine_info
from llmasos_backend_torch.options import Options
from llmasos_backend_torch.precision import Precision
from llmasos_backend_torch.recompute import RecomputeEngine
from llmasos_hookspecs import Checkpoint, CheckpointError, ConfigError, Context, UnsupportedModel

#: Context of a program that takes any length, where no config.json names one.
_DEFAULT_CONTEXT: Final = 2048
_NOTE: Final = "An exported program has no KV cache; each step computes its whole sequence again."


@attrs.frozen
class Signature:
    """What the program takes and gives: the lengths of ``input_ids`` that it takes, whether it wants an attention mask beside them."""

    least: int
    most: int | None
    fixed: bool
    masked: bool
    vocab_size: int
    dtype: torch.dtype


def load_exported(checkpoint: Checkpoint, options: Options, context: Context) -> RecomputeEngine:
    """The engine of a ``.pt2`` file with one signature: ``input_ids`` [1, n] (, ``attention_mask`` [1, n]) -> logits [1, n, vocab].

    Raises:
        CheckpointError: the archive is damaged, or holds what could run code.
        UnsupportedModel: the program has another signature.
        ConfigError: the options ask for what an exported program cannot do.
    """
    if options.device not in ("auto", "cpu"):
        raise ConfigError("An exported program runs on the CPU here; set loader.device to 'cpu'.", "loader.device")
    path = _file(checkpoint.path)
    check_archive(path)
    with _quiet():
        try:
            program = torch.export.load(str(path))
        except Exception as error:  # torch.export has no error type for a damaged archive
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{path} cannot be read by torch {torch.__version__}: {line}") from error
    signature = _signature(program, path)
    dtype = str(signature.dtype).removeprefix("torch.")
    if options.dtype not in ("auto", dtype):
        raise ConfigError(f"{path} was exported in {dtype}, which loader.dtype = '{options.dtype}' cannot change.", "loader.dtype")
    own = checkpoint.config.get("max_position_embeddings")
    length = signature.most or (own if isinstance(own, int) and own > 0 else _DEFAULT_CONTEXT)
    info = engine_info(
        Precision(dtype, torch.device("cpu")),
        context.limits,
        vocab_size=signature.vocab_size,
        context_length=length,
        weight_bytes=sum(tensor.nbytes for tensor in program.state_dict.values()),
        kv_bytes_per_token=0,
    )
    info = attrs.evolve(info, features=frozenset({"fork"}), notes=(_NOTE,))
    return RecomputeEngine(_logits(program.module(), signature), info)


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.pt2"))
    if len(files) != 1:
        raise CheckpointError(f"{path} holds {len(files)} .pt2 files; name one of them.")
    return files[0]


def _signature(program: torch.export.ExportedProgram, path: Path) -> Signature:
    names = set(program.graph_signature.user_inputs)
    inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    outputs = {node.name: node.meta.get("val") for node in program.graph.nodes}
    logits = outputs.get(str(program.graph_signature.user_outputs[0])) if program.graph_signature.user_outputs else None
    if (
        not 1 <= len(inputs) <= 2
        or len(names) != len(inputs)
        or any(not isinstance(value, Tensor) or value.dim() != 2 or value.dtype != torch.int64 for value in inputs)
        or not isinstance(logits, Tensor)
        or logits.dim() != 3
        or not isinstance(logits.shape[-1], int)
    ):
        raise UnsupportedModel(
            f"{path} is a program with other inputs or outputs; export one of input_ids [1, n] (and attention_mask [1, n]) "
            "that gives logits [1, n, vocab]."
        )
    length = inputs[0].shape[1]
    least, most = (length, length) if isinstance(length, int) else _range(program, length)
    return Signature(least, most, isinstance(length, int), len(inputs) == 2, logits.shape[-1], logits.dtype)


def _range(program: torch.export.ExportedProgram, length: Any) -> tuple[int, int | None]:
    bounds = program.range_constraints.get(length.node.expr)
    if bounds is None:
        return 1, None
    most = int(bounds.upper) if bounds.upper.is_Integer else None
    return max(1, int(bounds.lower)), most if most is not None and most < 2**31 else None


def _logits(program: Callable[..., Any], signature: Signature) -> Callable[[Tensor], Tensor]:
    """Logits [n, vocab] of token ids [n]. What is shorter than the program takes is padded behind, where no token of a decoder looks."""

    def logits(tokens: Tensor) -> Tensor:
        count = tokens.shape[0]
        padded = torch.nn.functional.pad(tokens, (0, max(0, signature.least - count)))[None]
        given = [padded, (torch.arange(padded.shape[1]) < count).long()[None]] if signature.masked else [padded]
        found = program(*given)
        found = next(iter(found.values())) if isinstance(found, dict) else found[0] if isinstance(found, tuple | list) else found
        result: Tensor = found[0, :count]
        return result

    return logits


@contextmanager
def _quiet() -> Iterator[None]:
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
