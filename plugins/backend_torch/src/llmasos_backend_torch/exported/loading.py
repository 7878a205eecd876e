"""Loads a decoder exported by ``torch.export``: a program from token ids to logits, without a KV cache."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import torch

from llmasos_backend_torch.exported.archive import check_archive
from llmasos_backend_torch.exported.program import Signature, bind, read_signature
from llmasos_backend_torch.exported.trials import try_program
from llmasos_backend_torch.loading import engine_info
from llmasos_backend_torch.options import Options
from llmasos_backend_torch.precision import Precision
from llmasos_backend_torch.recompute import RecomputeEngine
from llmasos_hookspecs import Checkpoint, CheckpointError, ConfigError, Context, inspect_once

#: Context length of a program with a dynamic length and no config.json that states one.
_DEFAULT_CONTEXT: Final = 2048
#: What inspects an archive at first sight, and the version of its checks.
_INSPECT: Final = "llmasos_backend_torch.exported.archive:inspect"
_INSPECTION: Final = 1
_NO_CACHE: Final = "An exported program has no KV cache; each step computes its whole sequence again."
_LAST_ONLY: Final = "The program gives logits of the last token only, so scoring a text takes a run for each of its tokens."


def load_exported(checkpoint: Checkpoint, options: Options, context: Context) -> RecomputeEngine:
    """The engine of a ``.pt2`` file that returns logits for ``input_ids`` [batch, n], optionally with a mask and positions.

    Raises:
        CheckpointError: the archive is damaged, or contains anything that could run code.
        UnsupportedModel: the program has another signature, or its logits depend on later tokens.
        ConfigError: the options ask for what an exported program cannot do.
    """
    if options.device not in ("auto", "cpu"):
        raise ConfigError("An exported program runs on the CPU here; set loader.device to 'cpu'.", "loader.device")
    path = _file(checkpoint.path)
    inspect_once(context, _INSPECT, [path], version=_INSPECTION)
    _check_pickles(path, check_archive(path))
    with _quiet():
        try:
            program = torch.export.load(str(path))
        except Exception as error:  # torch.export has no error type for a damaged archive
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{path} cannot be read by torch {torch.__version__}: {line}") from error
    signature = read_signature(program, path)
    dtype = str(signature.dtype).removeprefix("torch.")
    if options.dtype not in ("auto", dtype):
        raise ConfigError(f"{path} was exported in {dtype}, which loader.dtype = '{options.dtype}' cannot change.", "loader.dtype")
    length = _context_length(signature, checkpoint.config)
    info = engine_info(
        Precision(dtype, torch.device("cpu")),
        context.limits,
        vocab_size=signature.vocab_size,
        context_length=length,
        weight_bytes=sum(tensor.nbytes for tensor in program.state_dict.values()),
        kv_bytes_per_token=0,
    )
    notes = (_NO_CACHE, *([_LAST_ONLY] if signature.last_only else []))
    info = attrs.evolve(info, features=frozenset({"fork"}), notes=notes)
    logits = bind(program, signature)
    try_program(logits, signature, info.context_length, path)
    return RecomputeEngine(logits, info, last_only=signature.last_only)


def _check_pickles(path: Path, names: tuple[str, ...]) -> None:
    """Raise ``CheckpointError`` if torch finds more than tensors in one of the archive's pickles."""
    with zipfile.ZipFile(path) as archive:
        for name in names:
            try:
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)
            except Exception as error:  # what a pickle raises is its author's choice
                raise CheckpointError(
                    f"{path} holds a pickle ({name[:80]}) of more than tensors, which could run code when read; it was not run."
                ) from error


def _context_length(signature: Signature, config: Mapping[str, Any]) -> int:
    """The smaller of the program's longest length and config.json's context length."""
    own = config.get("max_position_embeddings")
    bounds = [bound for bound in (signature.most, own) if isinstance(bound, int) and bound > 0]
    return min(bounds, default=_DEFAULT_CONTEXT)


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.pt2"))
    if len(files) != 1:
        raise CheckpointError(f"{path} holds {len(files)} .pt2 files; name one of them.")
    return files[0]


@contextmanager
def _quiet() -> Iterator[None]:
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
