"""ONNX Runtime sessions over a decoder's graph and its KV cache."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from llmasos_backend_onnx.kv_cache import KVCache
from llmasos_hookspecs import CapacityExceeded, CheckpointError, ConfigError, EngineFailed

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

#: Bindings kept: one for each run of neighbouring rows that decodes together. A binding of 30 layers takes about 100 kB.
_BINDINGS: Final = 64


def open_session(model: Path, *, threads: int | None, spin: bool, provider: str = "cpu") -> ort.InferenceSession:
    """A session of the graph at ``model``. The KV cache stays in the host's memory whatever the provider.

    Raises:
        CheckpointError: ONNX Runtime cannot load it.
        ConfigError: this ONNX Runtime has no CUDA provider.
    """
    providers = ["CPUExecutionProvider"]
    if provider == "cuda":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise ConfigError(
                f'provider is "cuda", and this ONNX Runtime {ort.__version__} has no CUDA provider; pip install onnxruntime-gpu '
                "in place of onnxruntime.",
                "loader.provider",
            )
        providers.insert(0, "CUDAExecutionProvider")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised; the log would tell them twice
    options.enable_mem_pattern = False  # shapes change with every prefill; a plan for each would be kept for ever
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    # Long enough to span the time between two steps, short enough to leave the cores alone when no step follows: by default threads
    # spin for some 30 ms, against those of the other session too, which made a step that prefills and decodes 12 % slower.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
    try:
        return ort.InferenceSession(str(model), options, providers=providers)
    except Exception as error:
        raise CheckpointError(f"ONNX Runtime {ort.__version__} cannot load {model}: {_first_line(error)}.") from error


@attrs.frozen(eq=False)
class _Binding:
    """Inputs of a run, bound once and filled before every run."""

    io: ort.IOBinding
    tokens: Integers
    seqlens: npt.NDArray[np.int32]
    total: npt.NDArray[np.int32]
    wanted: Integers
    logits: Floats


class DecoderSession:
    """Runs the graph over neighbouring rows of the cache.

    Args:
        decode: a session of the graph, for one token of many rows.
        prefill: for many tokens of one row; may be the same.
    """

    def __init__(
        self, decode: ort.InferenceSession, prefill: ort.InferenceSession, cache: KVCache, cos: Floats, sin: Floats, vocab_size: int
    ) -> None:
        self._decoding = decode
        self._prefilling = prefill
        self._cache = cache
        self._tables = (cos, sin)
        self._vocab_size = vocab_size
        self._past = [value.name for value in decode.get_inputs() if value.name.startswith("past.")]
        self._bindings: OrderedDict[tuple[int, int], _Binding] = OrderedDict()

    def decode(self, row: int, tokens: Integers, lengths: npt.NDArray[np.int32]) -> Floats:
        """One more token for each of the rows from ``row`` on. Returns float32 [rows, vocab], valid until the next call for these rows.

        Args:
            tokens: [rows].
            lengths: [rows], tokens that each row holds before.
        """
        key = (row, len(tokens))
        binding = self._bindings.get(key)
        if binding is None:
            logits = np.empty((len(tokens), self._vocab_size), dtype=np.float32)
            binding = self._bind(self._decoding, row, np.zeros((len(tokens), 1), dtype=np.int64), np.arange(len(tokens)), logits)
            self._bindings[key] = binding
            if len(self._bindings) > _BINDINGS:
                self._bindings.popitem(last=False)
        else:
            self._bindings.move_to_end(key)
        binding.tokens[:, 0] = tokens
        binding.seqlens[:] = lengths
        binding.total[...] = lengths.max() + 1
        self._run(self._decoding, binding)
        return binding.logits

    def prefill(self, row: int, tokens: Integers, length: int, logits: Floats) -> None:
        """Several more tokens for one row that holds ``length``; fills ``logits`` [n, vocab] with those of the last n tokens."""
        wanted = np.arange(len(tokens) - len(logits), len(tokens))
        binding = self._bind(self._prefilling, row, tokens[None, :], wanted, logits)
        binding.seqlens[:] = length + len(tokens) - 1
        binding.total[...] = length + len(tokens)
        self._run(self._prefilling, binding)

    def close(self) -> None:
        self._bindings.clear()
        del self._decoding, self._prefilling

    def _bind(self, session: ort.InferenceSession, row: int, tokens: Integers, wanted: npt.NDArray[np.intp], logits: Floats) -> _Binding:
        io = session.io_binding()
        rows, count = tokens.shape
        places = np.empty((len(wanted), 2), dtype=np.int64)
        # Decoding wants the one token of every row, prefill some tokens of one row.
        places[:, 0], places[:, 1] = (wanted, 0) if count == 1 else (0, wanted)
        binding = _Binding(
            io=io,
            tokens=np.ascontiguousarray(tokens),
            seqlens=np.zeros(rows, dtype=np.int32),
            total=np.zeros((), dtype=np.int32),
            wanted=places,
            logits=logits,
        )
        cos, sin = self._tables
        for name, array in (
            ("input_ids", binding.tokens),
            ("seqlens", binding.seqlens),
            ("total_length", binding.total),
            ("wanted", places),
            ("cos", cos),
            ("sin", sin),
        ):
            io.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        shape = (rows, *self._cache.shape)
        for name, pointer in zip(self._past, self._cache.pointers(row), strict=True):
            io.bind_input(name, "cpu", 0, np.float32, shape, pointer)
            io.bind_output(name.replace("past", "present", 1), "cpu", 0, np.float32, shape, pointer)
        io.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        return binding

    @staticmethod
    def _run(session: ort.InferenceSession, binding: _Binding) -> None:
        try:
            session.run_with_iobinding(binding.io)
        except Exception as error:
            reason = _first_line(error)
            if "alloc" in reason.lower():
                raise CapacityExceeded(
                    f"ONNX Runtime has no memory for a step of {binding.tokens.size} tokens; take a smaller step."
                ) from error
            raise EngineFailed(f"ONNX Runtime failed in a step of {binding.tokens.size} tokens: {reason}.") from error


def _first_line(error: BaseException) -> str:
    text: Any = str(error).strip() or type(error).__name__
    return str(text).splitlines()[0].rstrip(".")
