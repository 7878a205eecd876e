"""Writing a neutral checkpoint: a Hugging Face folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

import numpy as np

from llmasos_checkpoint_kit.digests import file_digest
from llmasos_checkpoint_kit.folder import tag_special_floats
from llmasos_checkpoint_kit.writing import write_json
from llmasos_hookspecs import NEUTRAL_FORMATS, AccelerationError, AccelerationResult, Checkpoint, CheckpointError, QuantizedTensor, Tensor
from llmasos_hookspecs.atomic import flush
from llmasos_hookspecs.plain_json import finite
from llmasos_huggingface_folder import compressed, manifest
from llmasos_huggingface_folder.compare import same_tensor
from llmasos_huggingface_folder.shards import ShardWriter
from llmasos_huggingface_folder.stored_names import is_table
from llmasos_huggingface_folder.text_files import write_text_files

EMBEDDING: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"

#: Bytes of weights in one file; a model of more is written as shards with an index.
SHARD_BYTES: Final = 4 << 30


class CheckpointFolderWriter:
    """Implements ``CheckpointWriter``: fills a temporary folder beside ``output``, which a rename makes the checkpoint.

    Where the input is a GGUF file, tokenizer.json, tokenizer_config.json and generation_config.json are written out of its
    metadata. What the compressed-tensors layout cannot hold becomes plain float32 without loss, and ``result()`` says so under
    ``dequantized`` in its report:

    - tensors with float ``minimums``;
    - the embedding: transformers and vLLM look tokens up in plain tables only. Where the head shares it, the head is stored packed
      as ``lm_head.weight`` and the config no longer ties the two, so that the head keeps its codes.

    Args:
        checkpoint: the input, never changed.
        output: the folder to make; it must not exist, or be empty.
        stage: what the manifest says of this stage (component, options, seed); None adds no stage.
        shard_bytes: bytes of weights in one file.
        digest_of: the SHA-256 of a file, for the manifest; one that remembers saves the next reader of the folder from computing it again.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        output: Path,
        *,
        stage: Mapping[str, Any] | None = None,
        shard_bytes: int = SHARD_BYTES,
        digest_of: Callable[[Path], str] = file_digest,
    ) -> None:
        self._base = checkpoint
        self._base_names = frozenset(checkpoint.names())
        self._output = Path(output)
        self._stage = stage
        self._shard_bytes = shard_bytes
        self._digest_of = digest_of
        self._changes: dict[str, Any] = {}
        self._written: set[str] = set()
        self._schemes: dict[str, compressed.Scheme] = {}
        self._dense: set[str] = set()
        self._touched: list[str] = []
        self._skipped: dict[str, str] = {}
        self._dequantized: list[str] = []
        self._tied_head: QuantizedTensor | None = None
        self._folder: Path | None = None
        self._shards: ShardWriter | None = None
        self._done = False

    def __enter__(self) -> Self:
        if self._base.format not in NEUTRAL_FORMATS:
            raise AccelerationError(f"{self._base.path} is a {self._base.format} export, from which no neutral checkpoint can be written.")
        if self._output.exists() and (not self._output.is_dir() or any(self._output.iterdir())):
            raise AccelerationError(f"{self._output} exists already; name another folder for the output, or remove it.")
        with self._faults():
            self._output.parent.mkdir(parents=True, exist_ok=True)
            remove_stale(self._output)
            self._folder = self._output.parent / f".{self._output.name}.partial-{os.getpid()}-{uuid4().hex[:8]}"
            self._folder.mkdir()
        self._shards = ShardWriter(self._folder, self._shard_bytes, tensors=len(self._base_names))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._folder is not None
        assert self._shards is not None
        try:
            if kind is None:
                with self._faults():
                    self._finish(self._folder, self._shards)
        finally:
            if not self._done:
                self._shards.abandon()
                shutil.rmtree(self._folder, ignore_errors=True)

    def set_config(self, changes: Mapping[str, Any]) -> None:
        """Change keys of ``config.json``."""
        self._changes |= changes

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor. A ``QuantizedTensor`` is packed, where the layout holds it; see the class.

        Raises:
            AccelerationError: the name was written already, the tensor is of a type that no checkpoint holds, or the disk is full.
        """
        if self._shards is None or self._done:
            raise AccelerationError(f"Tensor {name!r} was added outside the writer's with block; add it inside.")
        if name in self._written:
            raise AccelerationError(f"Tensor {name!r} was added twice to {self._output}; add every tensor once.")
        self._written.add(name)
        if name not in self._base_names or not same_tensor(tensor, self._base.tensor(name)):
            self._touched.append(name)
        with self._faults():
            if isinstance(tensor, QuantizedTensor):
                self._add_quantized(self._shards, name, tensor)
            else:
                self._add_plain(self._shards, name, tensor)

    def skip(self, name: str, reason: str) -> None:
        """Say why a tensor that the stage could have changed was left as it was."""
        self._skipped[name] = reason

    def result(self, **report: Any) -> AccelerationResult:
        """What was written; ``report`` goes into the manifest.

        Raises:
            AccelerationError: the ``with`` block has not ended well.
        """
        if not self._done:
            raise AccelerationError(f"{self._output} is not written yet; ask for the result after the writer's with block.")
        if self._dequantized:
            report["dequantized"] = list(self._dequantized)
        if report and self._stage is not None:
            with self._faults():
                self._write_manifest(self._output, report)
        gone = sorted(self._base_names - self._written)
        return AccelerationResult(path=self._output, touched=(*self._touched, *gone), skipped=dict(self._skipped), report=report)

    def _add_plain(self, shards: ShardWriter, name: str, tensor: Any) -> None:
        array = np.asarray(tensor)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        if array.dtype.name not in ("float32", "float16", "bfloat16") and not is_table(name, array.dtype.name):
            raise AccelerationError(f"Tensor {name!r} is of type {array.dtype.name}, and weights are float32, float16 or bfloat16.")
        if array.ndim == 2 and name != EMBEDDING:
            self._dense.add(name.removesuffix(".weight"))
        shards.add({name: array})

    def _add_quantized(self, shards: ShardWriter, name: str, tensor: QuantizedTensor) -> None:
        if not name.endswith(".weight"):
            raise AccelerationError(f"Tensor {name!r} is quantised, and only weights (a name that ends in .weight) can be stored so.")
        if name == EMBEDDING and compressed.packable(tensor) and self._config().get("tie_word_embeddings"):
            self._tied_head = tensor
        if name == EMBEDDING or not compressed.packable(tensor):
            self._dequantized.append(name)
            self._add_plain(shards, name, tensor.dequantize())
            return
        self._schemes[name.removesuffix(".weight")] = compressed.Scheme.of(tensor)
        shards.add(compressed.pack(name, tensor))

    def _config(self) -> dict[str, Any]:
        config = {key: value for key, value in self._base.config.items() if key not in ("quantization_config", "compression_config")}
        return config | self._changes

    def _finish(self, folder: Path, shards: ShardWriter) -> None:
        if not self._written:
            raise AccelerationError(f"Nothing was added to {self._output}; a stage must add every tensor that it keeps.")
        config = self._config()
        if self._tied_head is not None and HEAD not in self._written:
            self._add_quantized(shards, HEAD, self._tied_head)
        if HEAD.removesuffix(".weight") in self._schemes or HEAD in self._written:
            config["tie_word_embeddings"] = False
        if self._schemes:
            head = [] if "lm_head" in self._schemes else ["lm_head"]
            config["quantization_config"] = compressed.quantization_config(self._schemes, [*self._dense, *head])
        shards.finish()
        write_json(folder / "config.json", tag_special_floats(config))
        write_text_files(self._base, folder)
        self._write_manifest(folder, {})
        flush(folder)
        if self._output.is_dir():
            self._output.rmdir()
        folder.rename(self._output)
        self._done = True
        flush(self._output.parent)

    def _write_manifest(self, folder: Path, report: Mapping[str, Any]) -> None:
        found = self._base.manifest
        own = [] if self._stage is None else [{**self._stage, "report": finite(report)}]
        files = [file.name for file in folder.iterdir() if file.name != manifest.NAME and not file.name.startswith(".")]
        base = found.get("base") or self._base.digest
        manifest.write_manifest(folder, base=base, stages=[*found.get("stages", ()), *own], files=files, digest_of=self._digest_of)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (CheckpointError, AccelerationError):
            raise
        except (OSError, TypeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise AccelerationError(f"{self._output} could not be written ({reason}); nothing of it was kept.") from error


def remove_stale(output: Path) -> None:
    """Remove temporary folders of killed writers beside ``output``."""
    for folder in output.parent.glob(f".{output.name}.partial-*"):
        process = folder.name.rpartition(".partial-")[2].partition("-")[0]
        if process.isdigit() and not _alive(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
