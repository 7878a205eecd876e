"""The neutral form of a model: what every accelerator writes and every loader reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from llmasos_hookspecs.acceleration import AccelerationResult
from llmasos_hookspecs.decoder import DecoderConfig
from llmasos_hookspecs.tensors import Tensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back; exact, stateless and safe to share between threads.

    Where the bytes of tokens, joined, are not their text, a tokenizer further has ``spelling``: None where what a token adds depends on its
    neighbours, so that only ``decode`` tells it; else an object with ``dropped: int``, the bytes of a leading space that a text loses, and
    ``opening(data: bytes) -> bytes``, the first bytes of a text as they come out.

    Of an encoder-decoder that cuts targets in another way than sources, a tokenizer further has ``target``, the ``Tokenizer`` of targets.

    A tokenizer may have ``encode_pair(first, second, *, limit) -> (tokens, types)``, for models that read two texts together: their token
    ids with what belongs around and between them, and the segment of each token, 0 or 1. Where there are more than ``limit`` tokens, if it
    is not None, the last ones of the second text are left out.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_ids(self) -> frozenset[int]: ...
    @property
    def special_tokens(self) -> Mapping[str, str]:
        """What chat templates call the special tokens: ``bos_token``, ``eos_token`` and the like -> their text. May be empty."""
        ...

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of ``text``. ``special``: add what the model's template adds around a plain text (a BOS, say)."""
        ...

    def decode(self, tokens: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of ``tokens``; bytes that are no UTF-8 become U+FFFD."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes that ``token`` stands for in the output; special tokens give their text."""
        ...

    def is_special(self, token: int) -> bool:
        """Whether ``token`` is a control token that ``decode`` skips."""
        ...


@runtime_checkable
class Checkpoint(Protocol):
    """A model on disk. Opening it reads headers only; ``tensor`` reads a tensor.

    Tensor names are Hugging Face's (``model.layers.0.self_attn.q_proj.weight``) in every format; linear weights are
    [out_features, in_features].

    A checkpoint further may have:

    - ``notes``: what a user should know of how its weights are stored, a tuple of one sentence each;
    - ``sealed``: True where its files are encrypted. Nothing that is derived from it may then be written in the clear, to whatever folder:
      contexts lend no ``cache``, and a loader builds in memory (``is_sealed`` tells it);
    - ``builds``: of one that is sealed: ``SealedBuilds``, where a loader keeps what it built, encrypted;
    - ``signer``: the public key of who signed it, where that was checked;
    - ``verify()``: reads every byte of its files, and raises ``CheckpointError`` where one is not what was written.

    Attributes:
        path: the folder or file.
        format: ``huggingface`` or ``gguf``, or ``neutral`` for another format with named tensors, which every loader takes; else
            ``onnx``, ``onnx_genai``, ``openvino``, ``saved_model``, ``keras``, ``torch_export``.
        config: the contents of ``config.json``, or its equivalent built from the file's own metadata.
        digest: hexadecimal SHA-256 of all that determines the model's output.
        manifest: the contents of ``llmasos.json``; empty where no accelerator wrote the checkpoint.
        chat_template: the jinja2 text of the chat template; None where the model has none. Of several, the one for plain chats.
    """

    @property
    def path(self) -> Path: ...
    @property
    def format(self) -> str: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def digest(self) -> str: ...
    @property
    def manifest(self) -> Mapping[str, Any]: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def decoder(self) -> DecoderConfig:
        """``config`` read as a Llama-family decoder. Raises ``UnsupportedModel`` for other architectures."""
        ...

    def names(self) -> Sequence[str]:
        """Names of all tensors. A tied output head is not listed."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header alone."""
        ...

    def tensor(self, name: str) -> Tensor:
        """The tensor as stored: a numpy array (float32, float16, ml_dtypes bfloat16; read-only, maybe memory-mapped) or a
        ``QuantizedTensor``. Raises ``CheckpointError`` where the name is unknown or the data is damaged."""
        ...

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises ``CheckpointError`` where the files hold none."""
        ...

    def text_files(self) -> Mapping[str, bytes]:
        """Tokenizer, chat template and generation config as the files of a Hugging Face folder, name -> contents: what is written beside
        changed weights. Empty where the model has none."""
        ...


def is_sealed(checkpoint: Checkpoint) -> bool:
    """Whether nothing that is derived from a checkpoint may be written in the clear."""
    return bool(getattr(checkpoint, "sealed", False))


class SealedBuilds(Protocol):
    """Keeps what loaders built of a sealed checkpoint, encrypted as it is itself, so that the next load need not build it again."""

    def get(self, key: str) -> Mapping[str, npt.NDArray[np.uint8]] | None:
        """The parts that were kept under ``key``, uint8 [n] each, of the caller's own; None where there are none, or they were changed."""
        ...

    def put(self, key: str, parts: Mapping[str, npt.NDArray[np.uint8]]) -> None:
        """Keep the parts of a build, uint8 [n] each; where that cannot be done, nothing is kept. ``key`` says all that determines them."""
        ...


def sealed_builds(checkpoint: Checkpoint) -> SealedBuilds | None:
    """Where builds of a sealed checkpoint are kept; None where there is no such place."""
    found: SealedBuilds | None = getattr(checkpoint, "builds", None) if is_sealed(checkpoint) else None
    return found


class CheckpointWriter(Protocol):
    """Writes a neutral checkpoint into a temporary folder that becomes ``output`` when the ``with`` block ends well.

    Copies tokenizer, chat template and manifest of the checkpoint it starts from, and its config unless ``config`` is set.
    """

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def set_config(self, changes: Mapping[str, Any]) -> None:
        """Change keys of ``config.json``: a new ``num_hidden_layers``, say."""
        ...

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor; a ``QuantizedTensor`` is stored in the compressed-tensors pack-quantized layout. Whether it counts
        as touched is found by comparing it with the input."""
        ...

    def skip(self, name: str, reason: str) -> None:
        """Say why a tensor that the stage could have changed was left as it was; it must still be ``add``-ed."""
        ...

    def result(self, **report: Any) -> AccelerationResult:
        """What was written, for ``llmasos_accelerate`` to return, once the block has ended. ``report``: plain data to keep in the
        manifest (losses, layers dropped)."""
        ...
