"""One run of an exported decoder over tokens, with the KV cache in our memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from llmasos_backend_onnx.foreign.signature import Signature
from llmasos_backend_onnx.steps import Floats, Integers, failure
from llmasos_hookspecs import CapacityExceeded, UnsupportedModel

Array = npt.NDArray[Any]

#: Values of a merged graph's input that says whether it reads its cache; ONNX Runtime binds their addresses.
_FLAGS: Final = np.array([False, True])


@attrs.frozen(kw_only=True, eq=False)
class Batch:
    """The input of one run: S tokens for each of B sequences, each with up to P cached tokens.

    Attributes:
        tokens: [B, S].
        positions: [B, S].
        mask: [B, P + S]; 0 where a sequence has padding.
    """

    tokens: Integers
    positions: Integers
    mask: Integers

    @classmethod
    def of_one(cls, tokens: Integers, held: int) -> Batch:
        """More tokens for one sequence."""
        end = held + len(tokens)
        return cls(tokens=tokens[None], positions=np.arange(held, end)[None], mask=np.ones((1, end), dtype=np.int64))


@attrs.frozen(kw_only=True)
class LogitsForm:
    """The shape of a run's logits: of the last token only or of all, and how wide."""

    last_only: bool
    vocab_size: int


class ExportedDecoder:
    """A session of one graph. ``probe`` sets ``logits``, the shape of its logits.

    Keys and values go in and out as [B, heads, tokens, dim] in contiguous memory; the present tensors may share the memory of the past ones
    if the graph writes in place.
    """

    def __init__(self, session: ort.InferenceSession, signature: Signature) -> None:
        self.signature = signature
        self._session = session
        self._form: LogitsForm | None = None

    @property
    def form(self) -> LogitsForm:
        assert self._form is not None
        return self._form

    @form.setter
    def form(self, form: LogitsForm) -> None:
        self._form = form

    def probe(self) -> None:
        """Compute a few tokens and record the shape of the logits.

        Raises:
            UnsupportedModel: the graph fails, or its outputs are not those of a decoder.
        """
        signature = self.signature
        tokens = np.arange(signature.length or 4) % 4
        feeds: dict[str, Any] = dict(self._integers(Batch.of_one(tokens, 0), count=0))
        if signature.branch:
            feeds[signature.branch] = np.zeros(1, dtype=bool)
        if signature.past:
            feeds |= {t.past: np.zeros((1, t.heads, 0, t.dim), dtype=signature.cache_dtype) for t in signature.cache}
        wanted = [signature.logits, *(tensor.present for tensor in signature.cache)]
        try:
            logits, *presents = self._session.run(wanted, feeds)
        except Exception as error:
            raise UnsupportedModel(
                f"The exported decoder does not compute a first run of {len(tokens)} tokens: {_reason(error)}."
            ) from error
        if logits.ndim != 3 or logits.shape[0] != 1 or logits.shape[1] not in (1, len(tokens)) or logits.shape[2] < 2:
            raise UnsupportedModel(
                f"The exported decoder gives logits of the shape {logits.shape} for {len(tokens)} tokens; export it again."
            )
        for tensor, present in zip(signature.cache, presents, strict=True):
            shape = (1, tensor.heads or "heads", len(tokens), tensor.dim or "dim")
            if present.ndim != 4 or any(due not in (size, "heads", "dim") for size, due in zip(present.shape, shape, strict=True)):
                raise UnsupportedModel(
                    f"The exported decoder gives {tensor.present} in the shape {present.shape} for {len(tokens)} tokens, and {shape} "
                    "is due: all tokens so far, in [batch, kv_heads, tokens, head_dim]."
                )
        self.form = LogitsForm(last_only=logits.shape[1] == 1, vocab_size=int(logits.shape[2]))

    def run(self, batch: Batch, past: Sequence[Array], present: Sequence[Array], *, keep: int) -> Floats:
        """Logits float32 [B, n, vocab] of the last n >= ``keep`` tokens; n is 1 if the graph returns only the last token's.

        Args:
            past: each cache tensor [B, heads, P, dim]; empty for a graph without past.
            present: buffers that the graph writes to; empty if they are not needed.

        Raises:
            CapacityExceeded: memory is short.
            EngineFailed: ONNX Runtime failed.
        """
        io = self._session.io_binding()
        self.bind_cache(io, past, present)
        return self.run_bound(io, batch, keep=keep)

    def bind_cache(self, io: ort.IOBinding, past: Sequence[Array], present: Sequence[Array]) -> None:
        """Bind the cache for all runs that use ``io``."""
        signature = self.signature
        if signature.past:
            for tensor, array in zip(signature.cache, past, strict=True):
                io.bind_input(tensor.past, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for tensor, array in zip(signature.cache if present else (), present, strict=True):
            io.bind_output(tensor.present, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        if signature.branch:
            flag = _FLAGS[int(past[0].shape[2] > 0) :][:1]
            io.bind_input(signature.branch, "cpu", 0, flag.dtype, flag.shape, flag.ctypes.data)

    def run_bound(self, io: ort.IOBinding, batch: Batch, *, keep: int) -> Floats:
        """Like ``run``, with the cache that is bound to ``io``."""
        rows, count = batch.tokens.shape
        signature = self.signature
        given = self._integers(batch, count=keep or 1)
        for name, array in given.items():
            io.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        kept = 1 if self.form.last_only else max(keep, 1) if signature.count else count
        try:
            logits = np.empty((rows, kept, self.form.vocab_size), dtype=signature.logits_dtype)
            io.bind_output(signature.logits, "cpu", 0, logits.dtype, logits.shape, logits.ctypes.data)
            self._session.run_with_iobinding(io)
        except MemoryError as error:
            raise CapacityExceeded(f"No memory for the logits of {rows * kept} tokens; take a smaller step.") from error
        except Exception as error:
            raise failure(_reason(error), rows * count) from error
        return logits.astype(np.float32, copy=False)

    def io_binding(self) -> ort.IOBinding:
        return self._session.io_binding()

    def _integers(self, batch: Batch, *, count: int) -> dict[str, Array]:
        """The integer inputs that this graph has, in its types."""
        signature = self.signature
        given: dict[str | None, Array] = {
            signature.input_ids: batch.tokens,
            signature.attention_mask: batch.mask,
            signature.position_ids: batch.positions,
        }
        if signature.count:
            # A scalar for transformers.js's exports, which are the ones that have it.
            given[signature.count] = np.array(count)
        return {
            name: np.ascontiguousarray(array, dtype=signature.integers[name]) if array.ndim else array.astype(signature.integers[name])
            for name, array in given.items()
            if name is not None
        }


def _reason(error: BaseException) -> str:
    """The end of the first line of ONNX Runtime's message, which says what is wrong; before it are its source files and functions."""
    line = (
        (str(error).strip() or type(error).__name__).splitlines()[0].rpartition("Status Message: ")[2].rpartition("[ONNXRuntimeError] ")[2]
    )
    return (line if len(line) <= 160 else f"{line[:157]}...").rstrip(".")
