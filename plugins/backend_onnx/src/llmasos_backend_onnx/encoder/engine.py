"""Encoders over ONNX Runtime: pads rows of like length, runs the graph, pools, and does what comes after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import attrs
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from llmasos_backend_onnx.steps import failure
from llmasos_encoder_kit.pooling import pool
from llmasos_encoder_kit.runs import check_rows, runs_of
from llmasos_encoder_kit.sentence import Surroundings
from llmasos_hookspecs import EncoderInfo, EncoderRow, ModelClosed

#: Tokens of one run at most, unless one text has more: activations of so many stay near the cores, and cost little memory.
_RUN_TOKENS: Final = 2048

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@attrs.frozen
class Padded:
    """Texts of a run, padded to the longest.

    Attributes:
        tokens, types: int64 [texts, longest].
        lengths: int64 [texts].
    """

    tokens: Integers
    types: Integers
    lengths: Integers

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """[texts, longest]: whether a place holds a token."""
        return np.arange(self.tokens.shape[1]) < self.lengths[:, None]


class Graph(Protocol):
    """The graph of an encoder."""

    def feed(self, padded: Padded) -> Mapping[str, npt.NDArray[Any]]:
        """Its inputs for a run."""
        ...

    def read(self, outputs: Sequence[npt.NDArray[Any]]) -> Floats:
        """The result: hidden states [texts, longest, width], or vectors [texts, width] that the graph has pooled itself."""
        ...

    @property
    def outputs(self) -> Sequence[str]:
        """The names of the outputs that ``read`` takes."""
        ...


class OnnxEncoder:
    """Implements ``Encoder``."""

    def __init__(self, session: ort.InferenceSession, graph: Graph, around: Surroundings, info: EncoderInfo) -> None:
        self.info = info
        self._session: ort.InferenceSession | None = session
        self._graph = graph
        self._around = around

    def encode(self, rows: Sequence[EncoderRow]) -> Floats:
        session = self._session
        if session is None:
            raise ModelClosed("The encoder was shut down; load the model again.")
        check_rows(rows, self.info)
        found = np.empty((len(rows), self.info.dimensions), dtype=np.float32)
        for places in runs_of(rows, min(_RUN_TOKENS, self.info.max_batch_tokens)):
            found[places] = self._vectors(session, _padded([rows[place] for place in places]))
        return found

    def shutdown(self) -> None:
        self._session = None

    def _vectors(self, session: ort.InferenceSession, padded: Padded) -> Floats:
        try:
            outputs = session.run(list(self._graph.outputs), dict(self._graph.feed(padded)))
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise failure(reason, int(padded.lengths.sum())) from error
        result = self._graph.read(outputs)
        vectors = result if result.ndim == 2 else pool(result, padded.lengths, self._around.pooling)
        for step in self._around.steps:
            vectors = step(vectors)
        return vectors


def _padded(rows: Sequence[EncoderRow]) -> Padded:
    lengths = np.array([len(row.tokens) for row in rows], dtype=np.int64)
    shape = (len(rows), int(lengths.max()))
    tokens, types = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for place, row in enumerate(rows):
        tokens[place, : len(row.tokens)] = row.tokens
        if row.types:
            types[place, : len(row.types)] = row.types
    return Padded(tokens, types, lengths)
