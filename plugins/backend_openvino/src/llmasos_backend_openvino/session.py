"""The compiled graph and one call of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_backend_openvino.attention import TABLES
from llmasos_backend_openvino.capped_attention import NEW
from llmasos_backend_openvino.forks import never_free_in_children
from llmasos_backend_openvino.kv_cache import BlockPool
from llmasos_backend_openvino.layout import cache_name
from llmasos_backend_openvino.rotation import RotationTable
from llmasos_backend_openvino.runtime import ov
from llmasos_hookspecs import CapacityExceeded, EngineFailed


@attrs.frozen(eq=False)
class Piece:
    """Tokens of one sequence that one call computes.

    Attributes:
        start: tokens that the sequence holds.
        blocks: of the whole sequence, with room for the tokens.
        wanted: of how many of the last tokens logits are asked for.
        long: whether the sequence is rotated as one past ``Rope.switch``.
    """

    tokens: npt.NDArray[np.int32]
    start: int
    blocks: Sequence[int]
    wanted: int
    long: bool = False


class Session:
    """Runs pieces of many sequences in one call.

    Args:
        compiled: the graph of ``build_decoder`` or of ``read_export``, compiled.
        pool: blocks in the layout of the graph.
        rotations: a table for each of the graph's ropes.
        kept: what owns memory that the graph reads.
    """

    def __init__(self, compiled: Any, pool: BlockPool, rotations: Sequence[RotationTable], kept: object = None) -> None:
        self._kept = kept
        self._request = compiled.create_infer_request()
        self._ports = {port.get_any_name(): port for port in compiled.inputs}
        self._rotations = rotations
        self._pool = pool
        names = {name for port in compiled.outputs for name in port.get_names()}
        #: Outputs of new keys and values, which the session writes into the blocks; none where the graph does so.
        self._new = [name for layer in range(len(pool.memory.tensors) // 2) for kind in NEW if (name := f"{kind}.{layer}") in names]
        for at, tensor in enumerate(pool.memory.tensors):
            self._request.set_tensor(self._ports[cache_name(at)], tensor)
        never_free_in_children(self)

    def run(self, pieces: Sequence[Piece]) -> npt.NDArray[np.float32]:
        """Write the tokens' keys and values. Returns the logits that are wanted, float32 [n, vocabulary], piece by piece; they are the
        caller's until the next run."""
        if not self._new:
            return self._run(pieces)
        found = []
        for piece in pieces:  # such a graph takes one
            found.append(self._run([piece]).copy())
            for at, name in enumerate(self._new):
                self._pool.write(at, piece.blocks, piece.start, self._request.get_tensor(name).data)
        return np.concatenate(found)

    def _run(self, pieces: Sequence[Piece]) -> npt.NDArray[np.float32]:
        inputs = self._inputs(pieces)
        count = len(inputs["tokens"])
        try:
            for name, array in inputs.items():
                self._request.set_tensor(self._ports[name], ov.Tensor(array, shared_memory=True))
            self._request.infer()
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError) or "alloc" in str(error).lower():
                raise CapacityExceeded(f"OpenVINO has no memory for a step of {count} tokens; take a smaller step.") from error
            reason = str(error).strip().splitlines()[-1].rstrip(".")
            raise EngineFailed(f"OpenVINO failed in a step of {count} tokens: {reason}.") from error
        logits: npt.NDArray[np.float32] = self._request.get_output_tensor(0).data
        return logits[: sum(piece.wanted for piece in pieces)]

    def _inputs(self, pieces: Sequence[Piece]) -> dict[str, npt.NDArray[Any]]:
        counts = np.array([len(piece.tokens) for piece in pieces], np.int32)
        ends = np.cumsum(counts, dtype=np.int32)
        positions = np.concatenate([np.arange(piece.start, piece.start + len(piece.tokens), dtype=np.int32) for piece in pieces])
        # Where nothing is wanted, one token's logits are computed and left out: not all operations take empty arrays.
        wanted = [np.arange(end - piece.wanted, end, dtype=np.int32) for end, piece in zip(ends, pieces, strict=True)]
        blocks = [piece.blocks[: self._pool.layout.blocks_for(piece.start + len(piece.tokens))] for piece in pieces]
        tables = (
            np.array([piece.start for piece in pieces], np.int32),
            np.concatenate([np.zeros(1, np.int32), ends]),
            np.array([block for each in blocks for block in each], np.int32),
            np.cumsum([0, *map(len, blocks)], dtype=np.int32),
            np.array(max(piece.start + len(piece.tokens) for piece in pieces), np.int32),
        )
        inputs: dict[str, npt.NDArray[Any]] = {
            "tokens": np.concatenate([piece.tokens for piece in pieces]),
            "wanted": np.concatenate(wanted) if any(piece.wanted for piece in pieces) else np.zeros(1, np.int32),
            **dict(zip(TABLES, tables, strict=True)),
        }
        if "positions" in self._ports:
            inputs["positions"] = positions
        long = np.repeat([piece.long for piece in pieces], counts)
        for at, rotation in enumerate(self._rotations):
            inputs[f"cos.{at}"], inputs[f"sin.{at}"] = _rotated(rotation, positions, long)
        return inputs


def _rotated(rotation: RotationTable, positions: npt.NDArray[np.int32], long: npt.NDArray[np.bool_]) -> tuple[Any, Any]:
    if not long.any():
        return rotation.rows(positions, long=False)
    if long.all():
        return rotation.rows(positions, long=True)
    both = zip(rotation.rows(positions, long=True), rotation.rows(positions, long=False), strict=True)
    cos, sin = (np.where(long[:, None, None], ours, theirs) for ours, theirs in both)
    return cos, sin
