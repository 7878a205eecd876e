"""The paged KV cache: keys and values in blocks of tokens, which slots allocate as they grow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from llmasos_hookspecs import DecoderConfig

#: Tokens in a block.
BLOCK = 64


class KVPool:
    """For each layer a variable float32 [blocks * 2 * kv_heads, BLOCK, head_dim]: of each block the keys and then the values.

    Block 0 belongs to no slot: padded rows write to it and read from it. A head's part of a block is one row, so that gathering a sequence
    gives [heads, tokens, head_dim] without a transposition. The variables are read only by gather operations: TensorFlow copies the whole
    variable if it is read densely after a scatter.
    """

    def __init__(self, config: DecoderConfig, limit: int) -> None:
        self._heads = 2 * config.num_kv_heads
        self._limit = limit + 1
        shape = (2 * self._heads, BLOCK, config.head_dim)
        grows = tf.TensorShape([None, BLOCK, config.head_dim])
        self.layers = [tf.Variable(tf.zeros(shape), shape=grows, trainable=False) for _ in range(config.num_layers)]
        self._blocks = 2
        self._free = [1]

    def take(self, count: int) -> list[int]:
        """Allocate blocks for a slot; the variables grow by doubling. Raises ``MemoryError`` if the limit is reached."""
        while len(self._free) < count:
            self._grow(min(2 * self._blocks, self._limit))
        return [self._free.pop() for _ in range(count)]

    def give_back(self, blocks: list[int]) -> None:
        self._free.extend(blocks)

    def copy(self, sources: list[int], targets: list[int]) -> None:
        """Copy whole blocks."""
        rows = tf.constant(self.head_rows(np.array([sources])).reshape(-1))
        into = tf.constant(self.head_rows(np.array([targets])).reshape(-1, 1))
        for variable in self.layers:
            variable.scatter_nd_update(into, tf.gather(variable, rows))

    def head_rows(self, table: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Rows int32 [n, 2 * kv_heads, blocks] of the variables for block numbers [n, blocks]."""
        return (table[:, None, :] * self._heads + np.arange(self._heads)[None, :, None]).astype(np.int32)

    def free(self) -> None:
        self.layers = []

    def _grow(self, blocks: int) -> None:
        if blocks <= self._blocks:
            raise MemoryError
        more = (blocks - self._blocks) * self._heads
        for variable in self.layers:
            variable.assign(tf.pad(variable.read_value(), [[0, more], [0, 0], [0, 0]]))
        self._free.extend(range(self._blocks, blocks))
        self._blocks = blocks
