"""ONNX Runtime sessions over a decoder's graph and its KV cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from llmasos_backend_onnx.graph_files import InMemory
from llmasos_backend_onnx.layout import Layout, Part
from llmasos_backend_onnx.steps import Floats, Integers, failure
from llmasos_decoder_kit.kv_cache import KVCache
from llmasos_hookspecs import CapacityExceeded, CheckpointError, ConfigError

#: Most cached bindings, one for each shape of a run. A binding of 30 layers takes about 100 kB.
_BINDINGS: Final = 32


def open_session(
    model: Path | tuple[InMemory, str],
    *,
    threads: int | None,
    spin: bool,
    provider: str = "cpu",
    library: Path | None = None,
    pool: tuple[str, int] | None = None,
) -> ort.InferenceSession:
    """A session of the graph at ``model``, or of one of those in memory. The KV cache stays in the host's memory whatever the provider.

    ``library``: the shared library of operators that the graph has beside ONNX Runtime's own. ``pool``: the entry of the session's
    configuration that has these run on a pool of their library, if all that takes long is theirs, and of how many threads. Threads that
    spin use it, so that those of several sessions, and of what else uses the pool between two runs, do not spin against each other.

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
    options.log_severity_level = 4  # errors are raised; the log would repeat them
    options.enable_mem_pattern = False  # shapes change with every prefill, and ONNX Runtime would keep a memory plan for each
    if spin and pool is not None:
        entry, count = pool
        options.add_session_config_entry(entry, str(count))
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin and pool is None else "0")
    # Long enough to span the time between two steps, short enough to leave the cores alone when no step follows: by default threads
    # spin for some 30 ms, against those of the other session too, which made a step that prefills and decodes 12 % slower.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
    try:
        if library is not None:
            options.register_custom_ops_library(str(library))
        if isinstance(model, Path):
            return ort.InferenceSession(str(model), options, providers=providers)
        built, name = model
        graph, large = built.graphs[name]
        options.add_external_initializers(list(large), [_ort_value(*built.weights[key]) for key in large])
        return _InMemorySession(built, graph, options, providers)
    except Exception as error:
        shown = model if isinstance(model, Path) else "a graph that was built in memory"
        raise CheckpointError(f"ONNX Runtime {ort.__version__} cannot load {shown}: {_first_line(error)}.") from error


class _InMemorySession(ort.InferenceSession):
    """A session of a graph in memory; it keeps the weights, which ONNX Runtime reads where they are and does not own."""

    def __init__(self, built: InMemory, graph: bytes, options: ort.SessionOptions, providers: Sequence[str]) -> None:
        self._built = built
        super().__init__(graph, options, providers=providers)


def _ort_value(kind: int, shape: tuple[int, ...], data: npt.NDArray[np.uint8]) -> ort.OrtValue:
    """A tensor of ONNX's type ``kind`` over bytes that the session shares."""
    from onnx import helper  # which a graph on disk does not need

    width = helper.tensor_dtype_to_np_dtype(kind).itemsize
    array = data.view({1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[width]).reshape(shape)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, kind)


@attrs.define(eq=False)
class _Binding:
    """Inputs of a run, bound once and filled before every run; it owns the bound arrays. Logits go to ``logits``."""

    session: ort.InferenceSession
    io: ort.IOBinding
    layout: Layout
    tokens: Integers
    seqlens: npt.NDArray[np.int32]
    total: npt.NDArray[np.int32]
    logits: Floats | None = None

    def write_to(self, logits: Floats) -> None:
        """Make the next run write its logits to ``logits``, float32 [wanted, vocab]."""
        if self.logits is None or self.logits.ctypes.data != logits.ctypes.data:
            self.io.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self.logits = logits


class DecoderSession:
    """Runs the graph over adjacent rows of the cache.

    Args:
        decode: the session for generated tokens.
        prefill: the session for prompts; may be the same.
        tables: for each phase, the inputs that hold cosines and sines and their contents, float32 [positions, H / 2].
        exact: make a token's logits bitwise identical regardless of the batch composition.
        pads: whether that takes an even number of attention positions.
        pairs: tokens are computed two at a time, whose products round otherwise than those of one; of an odd number the last is repeated.
    """

    def __init__(
        self,
        decode: ort.InferenceSession,
        prefill: ort.InferenceSession,
        cache: KVCache,
        tables: Sequence[Mapping[str, Floats]],
        vocab_size: int,
        *,
        exact: bool,
        pads: bool = True,
        pairs: bool = False,
    ) -> None:
        self._decoding = decode
        self._prefilling = prefill
        self._cache = cache
        self._tables = tables
        self._exact = exact
        self._pads = exact and pads
        self._pairs = pairs
        self._vocab_size = vocab_size
        self._past = [value.name for value in decode.get_inputs() if value.name.startswith("past.")]
        self._bindings: OrderedDict[tuple[int, int, tuple[tuple[int, int, int], ...]], _Binding] = OrderedDict()
        self._logits: Floats = np.empty((0, vocab_size), dtype=np.float32)
        self._written = 0

    def begin_step(self) -> None:
        """Begin a step: the logits of earlier runs may be overwritten from now on."""
        self._written = 0

    def decode(self, parts: Sequence[Part]) -> Floats:
        """Compute parts of one phase, in the order of their rows; if exact, each token's logits are bitwise identical to those computed
        alone.

        Returns the wanted logits, float32 [n, vocab], part by part; valid until the next ``begin_step``.
        """
        shape = _shape(parts)
        first = parts[0]
        key = (first.row, first.phase, shape)
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bind(self._decoding, first, Layout.of(shape, even_length=self._pads, even_tokens=self._pairs))
            self._bindings[key] = binding
            if len(self._bindings) > _BINDINGS:
                self._bindings.popitem(last=False)
        else:
            self._bindings.move_to_end(key)
        binding.write_to(self._space(len(binding.layout.wanted)))
        return self._run(binding, parts)

    def prefill(self, parts: Sequence[Part]) -> Floats:
        """The same for prompt tokens. The logits are bitwise identical to those of ``decode`` if it is exact and one session computes
        both."""
        layout = Layout.of(
            _shape(parts), even_length=self._pads, even_tokens=self._pairs or (self._exact and self._prefilling is not self._decoding)
        )
        binding = self._bind(self._prefilling, parts[0], layout)
        binding.write_to(self._new_space(len(layout.wanted)))
        return self._run(binding, parts)

    def close(self) -> None:
        self._bindings.clear()
        del self._decoding, self._prefilling

    def _space(self, count: int) -> Floats:
        """A buffer for the logits of ``count`` tokens in this step. All run shapes share one buffer; separate ones would take about 50
        MB."""
        if self._written + count > len(self._logits):  # logits already written in this step keep the old buffer alive
            self._logits, self._written = self._new_space(1 << (self._written + count - 1).bit_length()), 0
        space = self._logits[self._written : self._written + count]
        self._written += count
        return space

    def _new_space(self, count: int) -> Floats:
        try:
            return np.empty((count, self._vocab_size), dtype=np.float32)
        except MemoryError as error:
            raise CapacityExceeded(f"No memory for the logits of {count} tokens; ask for fewer in a step.") from error

    def _bind(self, session: ort.InferenceSession, first: Part, layout: Layout) -> _Binding:
        io = session.io_binding()
        binding = _Binding(
            session=session,
            io=io,
            layout=layout,
            tokens=np.zeros(len(layout.packed), dtype=np.int64),
            seqlens=np.zeros(layout.rows, dtype=np.int32),
            total=np.zeros((), dtype=np.int32),
        )
        for name, array in (
            ("input_ids", binding.tokens),
            ("batch", layout.batch),
            ("packed", layout.packed),
            ("queries", layout.queries),
            ("seqlens", binding.seqlens),
            ("total_length", binding.total),
            ("wanted", layout.wanted),
            *self._tables[first.phase].items(),
        ):
            io.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        shape = (layout.rows, *self._cache.shape)
        for name, pointer in zip(self._past, self._cache.pointers(first.row), strict=True):
            io.bind_input(name, "cpu", 0, np.float32, shape, pointer)
            io.bind_output(name.replace("past", "present", 1), "cpu", 0, np.float32, shape, pointer)
        return binding

    @staticmethod
    def _run(binding: _Binding, parts: Sequence[Part]) -> Floats:
        tokens, layout = binding.tokens, binding.layout
        count = 0
        for part in parts:
            tokens[count : count + len(part.tokens)] = part.tokens
            count += len(part.tokens)
        tokens[count:] = tokens[count - 1]
        first = parts[0].row
        for part in parts:
            binding.seqlens[part.row - first] = part.length + layout.queries[part.row - first] - 1
        binding.total[...] = binding.seqlens.max() + 1
        try:
            binding.session.run_with_iobinding(binding.io)
        except Exception as error:
            raise failure(_first_line(error), count) from error
        assert binding.logits is not None
        return binding.logits[: sum(part.wanted for part in parts)]


def _shape(parts: Sequence[Part]) -> tuple[tuple[int, int, int], ...]:
    first = parts[0].row
    return tuple((part.row - first, len(part.tokens), part.wanted) for part in parts)


def _first_line(error: BaseException) -> str:
    text: Any = str(error).strip() or type(error).__name__
    return str(text).splitlines()[0].rstrip(".")
