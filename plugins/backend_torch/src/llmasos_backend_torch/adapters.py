"""LoRA adapters beside the weights: each token of a packed batch is computed with the adapter that its row names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from llmasos_backend_torch.linear import Linear
from llmasos_backend_torch.precision import Precision
from llmasos_backend_torch.tensors import as_torch
from llmasos_hookspecs import Adapter, Row, UnsupportedModel

#: Name of an adapter, and the places of its tokens in the packed batch; None: all of them.
Share = tuple[str, Tensor | None]

_shares: Final[ContextVar[tuple[Share, ...]]] = ContextVar("shares of adapters", default=())


@contextmanager
def adapting(shares: tuple[Share, ...]) -> Iterator[None]:
    """Context in which adapted layers change the tokens of each share."""
    token = _shares.set(shares)
    try:
        yield
    finally:
        _shares.reset(token)


def shares_of(rows: Sequence[Row], starts: Sequence[int], device: torch.device) -> tuple[Share, ...]:
    """The shares of a batch; ``starts[i]``: place of the first token of ``rows[i]``."""
    places: dict[str, list[int]] = {}
    for row, start in zip(rows, starts, strict=True):
        if row.adapter:
            places.setdefault(row.adapter, []).extend(range(start, start + len(row.tokens)))
    total = sum(len(row.tokens) for row in rows)
    return tuple(
        (name, None if len(found) == total else torch.tensor(found, dtype=torch.int64, device=device)) for name, found in places.items()
    )


@attrs.frozen(eq=False)
class Part:
    """The change of one of the matrices that a layer holds: rows ``start`` to ``start + len(up)`` of its output."""

    start: int
    down: Tensor
    up: Tensor

    @property
    def nbytes(self) -> int:
        return int(self.down.nbytes + self.up.nbytes)


#: Name of an adapter -> its changes of one layer.
Parts = Mapping[str, Sequence[Part]]


def change_(out: Tensor, x: Tensor, parts: Parts) -> Tensor:
    """Add to ``out`` [tokens, out_features] what the adapters of this step make of ``x`` [tokens, in_features]; changes ``out``."""
    for name, places in _shares.get():
        for part in parts.get(name, ()):
            columns = slice(part.start, part.start + part.up.shape[0])
            if places is None:
                out[:, columns] += linear(linear(x, part.down), part.up)
            else:
                out[places, columns] += linear(linear(x[places], part.down), part.up)
    return out


class AdaptedLinear(Linear):
    """A kernel whose output the adapters of a step change."""

    def __init__(self, kernel: Linear, parts: Parts) -> None:
        self._kernel, self._parts = kernel, parts

    @property
    def nbytes(self) -> int:
        return self._kernel.nbytes + sum(part.nbytes for parts in self._parts.values() for part in parts)

    def __call__(self, x: Tensor) -> Tensor:
        return change_(self._kernel(x), x, self._parts)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        return change_(self._kernel.add(x, residual), x, self._parts)


class AdaptedModule(nn.Module):
    """The same for a layer of transformers, which keeps the name and place of the layer."""

    def __init__(self, layer: nn.Module, parts: Parts) -> None:
        super().__init__()
        self.layer = layer
        self.parts = parts

    @property
    def part_bytes(self) -> int:
        """Bytes of the adapters' matrices."""
        return sum(part.nbytes for parts in self.parts.values() for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        change_(out.view(-1, out.shape[-1]), x.reshape(-1, x.shape[-1]), self.parts)
        return out


class AdapterSet:
    """The adapters of a model, on its device; what a loader has placed is known, so that none of them is left out silently."""

    def __init__(self, adapters: Mapping[str, Adapter], precision: Precision) -> None:
        self._adapters = adapters
        self._precision = precision
        self._placed: set[tuple[str, str]] = set()

    def __bool__(self) -> bool:
        return bool(self._adapters)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._adapters)

    def parts(self, matrices: Sequence[tuple[str, int, int, Tensor | None]]) -> dict[str, list[Part]]:
        """The changes of a layer that holds these matrices, one after the other: name, rows, columns, and the order of the rows where it is
        not the stored one.

        Raises:
            UnsupportedModel: an adapter is for matrices of another size.
        """
        found: dict[str, list[Part]] = {}
        start = 0
        for name, rows, columns, order in matrices:
            for adapter in self._adapters.values():
                change = adapter.layers.get(name)
                if change is None:
                    continue
                if change.up.shape[0] != rows or change.down.shape[1] != columns:
                    raise UnsupportedModel(
                        f"The adapter {adapter.name} changes {name} as {change.up.shape[0]} x {change.down.shape[1]}, and the model has "
                        f"{rows} x {columns}; it was made for another model."
                    )
                moved = [as_torch(part, self._precision.compute).to(self._precision.device) for part in (change.down, change.up)]
                if order is not None:
                    moved[1] = moved[1][order.to(moved[1].device)]
                found.setdefault(adapter.name, []).append(Part(start, *moved))
                self._placed.add((adapter.name, name))
            start += rows
        return found

    def adapted(self, kernel: Linear, matrices: Sequence[tuple[str, int, int, Tensor | None]]) -> Linear:
        """The kernel itself where no adapter changes it."""
        parts = self.parts(matrices) if self._adapters else {}
        return AdaptedLinear(kernel, parts) if parts else kernel

    def check(self, what: str) -> None:
        """Raise ``UnsupportedModel`` where an adapter changes a layer that was not placed."""
        for adapter in self._adapters.values():
            left = [layer for layer in adapter.layers if (adapter.name, layer) not in self._placed]
            if left:
                raise UnsupportedModel(
                    f"The adapter {adapter.name} changes {left[0][:80]} ({len(left)} such), which is no linear layer within {what}; it was "
                    "made for another model, or changes the embedding or the head, which is not computed."
                )
