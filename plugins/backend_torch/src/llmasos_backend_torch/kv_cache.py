"""Keys and values of all slots, one tensor a layer, on the device."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from llmasos_backend_torch.plan import StepPlan

_FIRST_POSITIONS: Final = 256


class LayerCache:
    """Keys [rows, kv_heads, positions, key_dim] and values [rows, kv_heads, positions, value_dim] of one layer.

    If both have one shape they are views of ``both`` [rows, 2, kv_heads, positions, dim], which one operation can write.
    """

    keys: Tensor
    values: Tensor
    both: Tensor | None

    def __init__(self, kv_heads: int, key_dim: int, value_dim: int, rows: int, positions: int, like: Tensor) -> None:
        self.kv_heads, self.key_dim, self.value_dim = kv_heads, key_dim, value_dim
        self._like = like.new_empty(0)
        self._allocate(rows, positions)

    @property
    def bytes_per_token(self) -> int:
        return self.kv_heads * (self.key_dim + self.value_dim) * self._like.element_size()

    def _allocate(self, rows: int, positions: int) -> None:
        # Zeros, because attention multiplies masked values by 0, and 0 * NaN is NaN.
        if self.key_dim == self.value_dim:
            self.both = self._like.new_zeros(rows, 2, self.kv_heads, positions, self.key_dim)
            self.keys, self.values = self.both[:, 0], self.both[:, 1]
        else:
            self.both = None
            keys = self._like.new_zeros(rows, self.kv_heads, positions, self.key_dim)
            self.keys, self.values = keys, self._like.new_zeros(rows, self.kv_heads, positions, self.value_dim)

    def grow(self, rows: int, positions: int) -> None:
        """Grow to ``rows`` and ``positions``, keeping the contents."""
        keys, values = self.keys, self.values
        self._allocate(rows, positions)
        for new, old in ((self.keys, keys), (self.values, values)):
            new[: old.shape[0], :, : old.shape[2]].copy_(old)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one row to another."""
        for part in (self.keys, self.values):
            part[target, :, :length].copy_(part[source, :, :length])

    def read(self, row: int, count: int, first: int, end: int) -> tuple[Tensor, Tensor]:
        """Views of keys and values, [count, kv_heads, end - first, dim] each."""
        if self.both is not None:
            keys, values = self.both[row : row + count].narrow(3, first, end - first).unbind(1)
            return keys, values
        return self.keys[row : row + count, :, first:end], self.values[row : row + count, :, first:end]

    def write(self, plan: StepPlan, keys: Tensor, values: Tensor) -> None:
        """Write the new keys and values, [total, kv_heads, dim] each in packed order."""
        _scatter(self.keys, plan, keys)
        _scatter(self.values, plan, values)

    def write_both(self, plan: StepPlan, new: Tensor) -> None:
        """Write new keys and values together, [total, 2, kv_heads, dim]."""
        assert self.both is not None
        _scatter(self.both, plan, new)


def _scatter(target: Tensor, plan: StepPlan, new: Tensor) -> None:
    """Write new [total, ..., dim] into target [rows, ..., positions, dim]."""
    decodes = plan.decode_rows.shape[0]
    if decodes == 1 and plan.fixed_mask is None:
        run = plan.runs[0]
        target[run.row].select(-2, run.lengths[0] - 1).copy_(new[0])
    elif decodes:
        rows, positions = plan.decode_rows, plan.positions[:decodes]
        if target.dim() == 5:
            target[rows, :, :, positions] = new[:decodes]
        else:
            target[rows, :, positions] = new[:decodes]
    for chunk in plan.chunks:
        part = new[chunk.start : chunk.start + chunk.count].movedim(0, -2)
        target[chunk.row].narrow(-2, chunk.position, chunk.count).copy_(part)


class KVCache:
    """The layers' caches. Each is allocated at its layer's first write, with the shape of that write; capacity grows by doubling.

    Args:
        max_rows: slots that can be open at once.
        max_positions: tokens a slot can hold.
        spare: keep one more row than there are slots, as a target for writes that are never read.

    Attributes:
        generation: counts how often tensors were replaced by larger ones.
    """

    def __init__(self, max_rows: int, max_positions: int, *, spare: bool = False) -> None:
        self.max_rows, self.max_positions = max_rows, max_positions
        self.generation = 0
        self._spare = int(spare)
        self.layers: dict[int, LayerCache] = {}
        self._rows, self._positions = 1, min(_FIRST_POSITIONS, max_positions)

    @property
    def bytes_per_token(self) -> int:
        return sum(layer.bytes_per_token for layer in self.layers.values())

    def reserve(self, rows: int, positions: int) -> None:
        """Grow to cache rows below ``rows`` and positions below ``positions``.

        Raises torch's out-of-memory error if memory is short; every layer then keeps its contents.
        """
        self._rows = _doubled(self._rows, rows, self.max_rows)
        self._positions = _doubled(self._positions, positions, self.max_positions)
        for layer in self.layers.values():
            if layer.keys.shape[0] < self._rows + self._spare or layer.keys.shape[2] < self._positions:
                layer.grow(self._rows + self._spare, self._positions)
                self.generation += 1

    def layer(self, index: int, kv_heads: int, key_dim: int, value_dim: int, like: Tensor) -> LayerCache:
        """The cache of a layer; a new one is allocated with these sizes and the dtype and device of ``like``."""
        found = self.layers.get(index)
        if found is None:
            found = LayerCache(kv_heads, key_dim, value_dim, self._rows + self._spare, self._positions, like)
            self.layers[index] = found
        return found

    @property
    def spare_row(self) -> int:
        """The row after the currently allocated rows of the slots."""
        return self._rows

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one cache row to another, in every layer."""
        for layer in self.layers.values():
            layer.copy_row(source, target, length)

    def clear(self) -> None:
        """Free everything."""
        self.layers.clear()
        self._rows, self._positions = 1, min(_FIRST_POSITIONS, self.max_positions)


def _doubled(size: int, needed: int, limit: int) -> int:
    while size < needed:
        size *= 2
    return min(size, limit)
