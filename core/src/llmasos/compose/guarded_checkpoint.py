"""A checkpoint of an installed format, whose faults name the plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import attrs
import ml_dtypes
import numpy as np

from llmasos_checkpoint_kit.decoders import read_decoder
from llmasos_hookspecs import Checkpoint, CheckpointError, DecoderConfig, PluginError, QuantizedTensor, SealedBuilds, Tensor, Tokenizer
from llmasos_hookspecs.guarding.edge import crossing, kind_of
from llmasos_huggingface_folder.checkpoint import check_layers
from llmasos_huggingface_folder.finite import FiniteTensors

#: Types that tensors may have: weights, and the tables that some models have beside them.
_TYPES: Final = frozenset({np.dtype(kind) for kind in (np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.int64)})


class GuardedCheckpoint:
    """Implements ``Checkpoint`` around one that a plugin returned.

    What the plugin raises becomes one error that names it. What it returns is checked when it is used: the types of its facts, the shape,
    dtype and finiteness of each tensor. Its arrays cannot be written to.

    Raises:
        PluginError: it returns something that a checkpoint must not.
        CheckpointError: its config is not one of a model, or it holds NaN or infinity.
    """

    def __init__(self, checkpoint: Checkpoint, label: str) -> None:
        self._checkpoint = checkpoint
        self._label = label
        self.path: Path = self._of("path", Path)
        self.format: str = self._of("format", str)
        self.config: Mapping[str, Any] = self._of("config", Mapping)
        self.manifest: Mapping[str, Any] = self._of("manifest", Mapping)
        self._names = tuple(self._call("names()", lambda: checkpoint.names(), Sequence))
        if wrong := [name for name in self._names if not isinstance(name, str)]:
            raise self._fault("names()", f"{kind_of(wrong[0])} among its names, and they must be text")
        check_layers(self.config, len(self._names), str(self.path))
        self._known = frozenset(self._names)
        self._finite = FiniteTensors(self.path)

    @cached_property
    def digest(self) -> str:
        found: str = self._of("digest", str)
        if len(found) != 64 or not set(found) <= set("0123456789abcdef"):
            raise self._fault("digest", f"{found[:80]!r}, and it must be a SHA-256 in hexadecimal")
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        found = self._optional("notes", (), tuple)
        if not all(isinstance(note, str) for note in found):
            raise self._fault("notes", "something other than sentences")
        return tuple(found)

    @property
    def sealed(self) -> bool:
        return bool(self._optional("sealed", False, bool))

    @property
    def builds(self) -> SealedBuilds | None:
        found: SealedBuilds | None = self._optional("builds", None, object)
        return found

    @property
    def signer(self) -> str | None:
        found: str | None = self._optional("signer", None, object)
        if not isinstance(found, str | None):
            raise self._fault("signer", f"{kind_of(found)}, and it must be text or None")
        return found

    def verify(self) -> None:
        """Read every byte of its files, where the format can. Raises ``CheckpointError`` where one is not what was written."""
        own = self._optional("verify", None, object)
        if own is not None:
            self._call("verify()", own)

    @property
    def chat_template(self) -> str | None:
        found: str | None = self._of("chat_template", object)
        if not isinstance(found, str | None):
            raise self._fault("chat_template", f"{kind_of(found)}, and it must be text or None")
        return found

    @cached_property
    def decoder(self) -> DecoderConfig:
        # From the config by core's own reader, so that no two formats can read one config in two ways; other files may name more ends.
        found = read_decoder(self.config, str(self.path))
        ends = self._of("decoder", DecoderConfig).eos_token_ids
        return attrs.evolve(found, eos_token_ids=tuple(dict.fromkeys((*ends, *found.eos_token_ids))))

    def names(self) -> Sequence[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        self._check_name(name)
        found = tuple(self._call(f"shape({name!r})", lambda: self._checkpoint.shape(name), Iterable))
        if not all(isinstance(size, int) and size >= 0 for size in found):
            raise self._fault(f"shape({name!r})", f"{found!r:.80}, and it must be whole numbers")
        return found

    def tensor(self, name: str) -> Tensor:
        self._check_name(name)
        found: Tensor = self._call(f"tensor({name!r})", lambda: self._checkpoint.tensor(name))
        if isinstance(found, QuantizedTensor):
            shape = tuple(found.codes.shape)
        elif isinstance(found, np.ndarray):
            shape = found.shape
            if found.dtype not in _TYPES:
                raise self._fault(f"tensor({name!r})", f"an array of {found.dtype.name}, and weights are float32, float16 or bfloat16")
            found = found.view()
            found.flags.writeable = False
        else:
            raise self._fault(f"tensor({name!r})", f"{kind_of(found)}, and it must be an array or a QuantizedTensor")
        if shape != self.shape(name):
            raise self._fault(f"tensor({name!r})", f"the shape {shape}, and its header says {self.shape(name)}")
        return self._finite.checked(name, found)

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        found: Tokenizer = self._call("tokenizer()", lambda: self._checkpoint.tokenizer())
        if not isinstance(found, Tokenizer):
            raise self._fault("tokenizer()", f"{kind_of(found)}, which is no Tokenizer")
        return found

    def text_files(self) -> Mapping[str, bytes]:
        found = self._call("text_files()", lambda: self._checkpoint.text_files(), Mapping)
        if not all(isinstance(name, str) and isinstance(data, bytes) for name, data in found.items()):
            raise self._fault("text_files()", "something other than names and bytes")
        return dict(found)

    def _check_name(self, name: str) -> None:
        if name not in self._known:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}; its names are those of Checkpoint.names().")

    def _optional(self, attribute: str, default: Any, kind: type[Any]) -> Any:
        return self._call(attribute, lambda: getattr(self._checkpoint, attribute, default), kind)

    def _of(self, attribute: str, kind: type[Any]) -> Any:
        return self._call(attribute, lambda: getattr(self._checkpoint, attribute), kind)

    def _call(self, what: str, ask: Callable[[], Any], kind: type[Any] = object) -> Any:
        with crossing(self._label, f"Checkpoint.{what}"):
            try:
                found = ask()
            except OSError as error:
                where = error.filename or "A file of the checkpoint"
                raise CheckpointError(f"{where} cannot be read ({error.strerror or error}); check it and its permissions.") from error
        if not isinstance(found, kind):
            raise self._fault(what, f"{kind_of(found)}, and it must be of the type {kind.__name__}")
        return found

    def _fault(self, what: str, found: str) -> PluginError:
        return PluginError(f"The {self._label} gave for Checkpoint.{what} {found}; this is a fault of the plugin.")
