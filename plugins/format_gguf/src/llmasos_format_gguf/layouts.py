"""How a tensor of Hugging Face's and the GGUF tensors that hold it differ: order of rows, an added 1, experts, fused halves.

Each layout goes both ways, so that what is read is what was written. One that only moves rows keeps codes and scales as they are
stored; one that does arithmetic or moves columns gives floats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import QuantizedTensor, Tensor, as_float32

Shape = tuple[int, ...]
Config = Mapping[str, Any]


class Layout(Protocol):
    """From GGUF to Hugging Face and back. Parts stand in the order of the table's names; shapes are numpy's: ``shape`` that of what
    ``read`` makes of tensors of ``shapes``, ``written`` those of what ``write`` makes."""

    def shape(self, shapes: Sequence[Shape]) -> Shape: ...
    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]: ...
    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor: ...
    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]: ...


@attrs.frozen
class Same:
    """The tensor as it is."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0]

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        return (shape,)

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        return parts[0]

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        return (tensor,)


class RowOrder(Protocol):
    """Which row of GGUF's stands where in Hugging Face's."""

    def order(self, rows: int, config: Config) -> npt.NDArray[np.intp]: ...


@attrs.frozen
class RowsMoved:
    """The same rows in another order."""

    by: RowOrder

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0]

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        return (shape,)

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        return take_rows(parts[0], self.by.order(parts[0].shape[0], config))

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        return (take_rows(tensor, np.argsort(self.by.order(tensor.shape[0], config))),)


@attrs.frozen
class ColumnsMoved:
    """The same columns in another order."""

    by: RowOrder

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0]

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        return (shape,)

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        return _plain(parts[0])[..., self.by.order(parts[0].shape[-1], config)]

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        return (_plain(tensor)[..., np.argsort(self.by.order(tensor.shape[-1], config))],)


@attrs.frozen
class Both:
    """Two differences at once, of one tensor; what is written is written by the first, then by the second."""

    first: Layout
    second: Layout

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return self.first.shape([self.second.shape(shapes)])

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        return self.second.written(self.first.written(shape, config)[0], config)

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        return self.first.read([self.second.read(parts, config)], config)

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        return self.second.write(self.first.write(tensor, config)[0], config)


@attrs.frozen
class Interleaved:
    """The order of queries and keys whose rotated halves llama.cpp interleaves.

    Where it rotates neighbouring elements of a head, and transformers an element and its counterpart half a head away, the converter
    interleaves the two halves of each head. ``heads`` is the config's key for their number.
    """

    heads: str

    def order(self, rows: int, config: Config) -> npt.NDArray[np.intp]:
        heads = _count(config, self.heads, rows, 2)
        return np.arange(rows, dtype=np.intp).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(rows)


@attrs.frozen
class Grouped:
    """The order of queries, keys and values fused group by group, which llama.cpp stores as all queries, all keys, all values.

    A group is ``heads / groups`` heads of queries with one head of keys and one of values; where ``groups`` is the key of the heads
    themselves, each has its own (BLOOM, GPT-NeoX), else as many share them as the config says (Falcon).
    """

    heads: str
    groups: str

    def order(self, rows: int, config: Config) -> npt.NDArray[np.intp]:
        heads = _count(config, self.heads, rows, 1)
        groups = _count(config, self.groups, heads, 1)
        queries = heads // groups
        if rows % (groups * (queries + 2)):
            raise ValueError(f"{rows} rows cannot be {heads} heads in {groups} groups")
        width = rows // (groups * (queries + 2))
        place = np.arange(rows, dtype=np.intp).reshape(-1, width)
        q, k, v = place[:heads].reshape(groups, queries, width), place[heads : heads + groups], place[heads + groups :]
        return np.concatenate([q, k[:, None], v[:, None]], axis=1).reshape(rows)


@attrs.frozen
class PlusOne:
    """Norms that transformers multiplies by ``1 + weight``: llama.cpp stores the sum."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0]

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        return (shape,)

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        return as_float32(parts[0]) - np.float32(1)

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        return (as_float32(tensor) + np.float32(1),)


@attrs.frozen
class Transposed:
    """Weights that Hugging Face stores [inputs, outputs]: GPT-2's, and each expert of GPT-OSS. Biases are as they are."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return _turned(shapes[0])

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        return (_turned(shape),)

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        return parts[0] if len(parts[0].shape) < 2 else _plain(parts[0]).swapaxes(-1, -2)

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        return (self.read([tensor], config),)


@attrs.frozen
class OneRow:
    """A matrix of one row, which GGUF stores as a vector."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return (1, shapes[0][-1])

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        return ((shape[-1],),)

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        return parts[0] if isinstance(parts[0], QuantizedTensor) else np.asarray(parts[0]).reshape(1, -1)

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        return (as_float32(tensor).reshape(-1),)


@attrs.frozen
class OneColumn:
    """A vector that GGUF stores as a matrix of one column."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0][:1]

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        return ((*shape, 1),)

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        return _plain(parts[0]).reshape(-1)

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        return (_plain(tensor).reshape(-1, 1),)


@attrs.frozen
class NegativeExponent:
    """Logarithms of decay rates, of which GGUF stores the rates, which are negative; ``column``: a vector as a matrix of one column."""

    column: bool = False

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0][:1] if self.column else shapes[0]

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        return ((*shape, 1) if self.column else shape,)

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        rates = as_float32(parts[0])
        if not (rates < 0).all():
            raise ValueError("a decay rate is not below 0")
        logarithms = np.log(-rates)
        return logarithms.reshape(-1) if self.column else logarithms

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        rates = -np.exp(as_float32(tensor))
        return (rates.reshape(-1, 1) if self.column else rates,)


@attrs.frozen
class Depthwise:
    """A convolution with one filter a channel, whose axis of length 1 GGUF leaves out. Biases are as they are."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0] if len(shapes[0]) < 2 else (shapes[0][0], 1, shapes[0][1])

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        return (shape if len(shape) < 3 else (shape[0], shape[2]),)

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        return parts[0] if len(parts[0].shape) < 2 else _plain(parts[0])[:, None]

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        return (tensor if len(tensor.shape) < 3 else _plain(tensor)[:, 0],)


@attrs.frozen
class InGroups:
    """A vector that GGUF stores as one row a group; ``groups`` is the config's key for their number."""

    groups: str

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return (shapes[0][0] * shapes[0][-1],) if len(shapes[0]) > 1 else shapes[0]

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        groups = _count(config, self.groups, shape[0], 1)
        return ((groups, shape[0] // groups),)

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        return _plain(parts[0]).reshape(-1)

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        return (_plain(tensor).reshape(_count(config, self.groups, tensor.shape[0], 1), -1),)


@attrs.frozen
class Multiplied:
    """Weights that GGUF stores multiplied by numbers of the config, a key each, and its index after a dot; what is read is as it is.

    ``parts`` is the key of numbers for parts of the rows, which ``widths`` says how many rows each of them has by products of keys.
    """

    by: tuple[str, ...]
    parts: str = ""
    widths: tuple[tuple[str, ...], ...] = ()

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0]

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        return (shape,)

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        return parts[0]

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        factor = math.prod(self._number(config, key) for key in self.by)
        rows = np.full((tensor.shape[0], *[1] * (len(tensor.shape) - 1)), factor, np.float32)
        start = 0
        for index, keys in enumerate(self.widths):
            width = math.prod(config[key] for key in keys)
            rows[start : start + width] *= np.float32(self._number(config, f"{self.parts}.{index}"))
            start += width
        return (tensor,) if (rows == 1).all() else (as_float32(tensor) * rows,)

    @staticmethod
    def _number(config: Config, key: str) -> float:
        name, _, index = key.partition(".")
        found = config.get(name)
        if index and found is not None:
            found = found[int(index)] if isinstance(found, (list, tuple)) and len(found) > int(index) else "nothing"
        if found is None:
            return 1.0
        if not isinstance(found, (int, float)) or not math.isfinite(found):
            raise ValueError(f"{key} = {str(found)[:40]} is no number to multiply by")
        return float(found)


@attrs.frozen
class Halves:
    """Two projections that Hugging Face stores as one, first all rows of the one, then those of the other; GGUF stores them apart."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return (*shapes[0][:-2], 2 * shapes[0][-2], shapes[0][-1])

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        half = (*shape[:-2], shape[-2] // 2, shape[-1])
        return half, half

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        first, second = (_plain(part) for part in parts)
        return np.concatenate([first, second], axis=-2)

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        half = tensor.shape[-2] // 2
        if isinstance(tensor, QuantizedTensor):
            return tensor.take_rows(slice(None, half)), tensor.take_rows(slice(half, None))
        return tensor[..., :half, :], tensor[..., half:, :]


@attrs.frozen
class HalvesOfColumns:
    """Two projections that Hugging Face stores as one, [inputs, outputs] with the outputs of the one before those of the other; GGUF stores
    them apart, transposed."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        return (*shapes[0][:-2], shapes[0][-1], 2 * shapes[0][-2])

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        part = (*shape[:-2], shape[-1] // 2, shape[-2])
        return part, part

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        return np.concatenate([_plain(part).swapaxes(-1, -2) for part in parts], axis=-1)

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        turned, half = _plain(tensor).swapaxes(-1, -2), tensor.shape[-1] // 2
        return turned[..., :half, :], turned[..., half:, :]


@attrs.frozen
class AlternatingColumns:
    """Two projections whose outputs take turns along the last axis, as GPT-OSS has them; GGUF stores them apart, transposed where they
    are matrices."""

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        shape = shapes[0] if len(shapes[0]) < 3 else (shapes[0][0], shapes[0][2], shapes[0][1])
        return (*shape[:-1], 2 * shape[-1])

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        half = (*shape[:-1], shape[-1] // 2)
        part = half if len(half) < 3 else (half[0], half[2], half[1])
        return part, part

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        turned = [_plain(part) if len(part.shape) < 3 else _plain(part).swapaxes(-1, -2) for part in parts]
        return np.stack(turned, axis=-1).reshape(*turned[0].shape[:-1], -1)

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        array = _plain(tensor)
        parts = (array[..., 0::2], array[..., 1::2])
        return parts if array.ndim < 3 else tuple(part.swapaxes(-1, -2) for part in parts)


@attrs.frozen
class LatentKeysAndValues:
    """The matrix that makes every head's keys and values of a latent vector, row by row; GGUF stores the two apart, one matrix a head,
    those of the keys transposed.

    ``heads`` and ``keys`` are the config's keys for the number of heads and the width of the part of a key that is not rotated.
    """

    heads: str
    keys: str

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        (heads, rank, keys), (_, values, _) = shapes[0][-3:], shapes[1][-3:]
        return (heads * (keys + values), rank)

    def written(self, shape: Shape, config: Config) -> tuple[Shape, ...]:
        heads, keys = self._sizes(shape[0], config)
        return (heads, shape[1], keys), (heads, shape[0] // heads - keys, shape[1])

    def read(self, parts: Sequence[Tensor], config: Config) -> Tensor:
        keys, values = (_plain(part) for part in parts)
        return np.concatenate([keys.swapaxes(1, 2), values], axis=1).reshape(-1, values.shape[-1])

    def write(self, tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
        heads, keys = self._sizes(tensor.shape[0], config)
        by_head = _plain(tensor).reshape(heads, -1, tensor.shape[1])
        return by_head[:, :keys].swapaxes(1, 2), by_head[:, keys:]

    def _sizes(self, rows: int, config: Config) -> tuple[int, int]:
        heads, keys = _count(config, self.heads, rows, 2), config.get(self.keys)
        if not isinstance(keys, int) or not 0 < keys < rows // heads:
            raise ValueError(f"{rows // heads} rows a head cannot hold {self.keys} = {keys!r} of keys")
        return heads, keys


def take_rows(tensor: Tensor, index: npt.NDArray[np.intp]) -> Tensor:
    """The rows that ``index`` names; codes and scales move together."""
    return tensor.take_rows(index) if isinstance(tensor, QuantizedTensor) else np.asarray(tensor)[index]


def _turned(shape: Shape) -> Shape:
    return shape if len(shape) < 2 else (*shape[:-2], shape[-1], shape[-2])


def _plain(tensor: Tensor) -> npt.NDArray[Any]:
    return tensor.dequantize() if isinstance(tensor, QuantizedTensor) else np.asarray(tensor)


def _count(config: Config, key: str, total: int, least: int) -> int:
    """The config's number under ``key``, by which ``total`` is divisible with at least ``least`` a share."""
    found = config.get(key)
    if not isinstance(found, int) or found < 1 or total % (found * least):
        raise ValueError(f"{total} rows cannot be shared by {key} = {found!r}")
    return found
