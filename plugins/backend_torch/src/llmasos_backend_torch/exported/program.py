"""The signature of an exported program: inputs bound by name, and supported shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from llmasos_hookspecs import UnsupportedModel

#: Common names of decoder inputs -> their meaning.
_ROLES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("input_ids", "ids", "tokens", "token_ids", "input", "inputs", "idx", "x"), "tokens"),
    **dict.fromkeys(("attention_mask", "mask", "padding_mask"), "mask"),
    **dict.fromkeys(("position_ids", "positions", "input_pos", "cache_position", "pos"), "positions"),
}
_INTEGERS: Final = (torch.int64, torch.int32)
#: The cure in messages about programs with another signature.
_CURE: Final = (
    "export one of input_ids [1, n] (and attention_mask [1, n], position_ids [1, n]) that gives logits [1, n, vocab], n a torch.export.Dim."
)


@attrs.frozen
class Input:
    """One input: its meaning (``tokens``, ``mask`` or ``positions``), its dtype, and whether it is [n] rather than [batch, n]."""

    role: str
    dtype: torch.dtype
    flat: bool


@attrs.frozen(kw_only=True)
class Signature:
    """The signature of a program.

    Attributes:
        inputs: in the order of the program's own, keyword arguments among them.
        least, most: range of the number of tokens; ``most`` is None without an upper bound.
        batch: smallest number of sequences.
        last_only: it returns logits of the last token only.
        vocab_size, dtype: of the logits.
    """

    inputs: tuple[Input, ...]
    least: int
    most: int | None
    batch: int
    last_only: bool
    vocab_size: int
    dtype: torch.dtype

    @property
    def fixed(self) -> bool:
        """Whether it takes exactly one number of tokens."""
        return self.least == self.most


def read_signature(program: torch.export.ExportedProgram, path: Path) -> Signature:
    """Raise ``UnsupportedModel`` if the program is not a decoder that returns logits, or has an unknown input."""
    nodes = {node.name: node for node in program.graph.nodes}
    values = {name: nodes[name].meta.get("val") for name in program.graph_signature.user_inputs if isinstance(name, str) and name in nodes}
    if len(values) != len(program.graph_signature.user_inputs) or not values:
        raise _other(path, "takes something else than tensors")
    inputs = tuple(_input(name, value, alone=len(values) == 1, path=path) for name, value in values.items())
    roles = [each.role for each in inputs]
    if roles.count("tokens") != 1 or len(set(roles)) < len(roles):
        raise _other(path, f"takes {', '.join(values)}, of which just one must be token ids")
    tokens = list(values.values())[roles.index("tokens")]
    outputs = program.graph_signature.user_outputs
    logits = nodes[str(outputs[0])].meta.get("val") if outputs and str(outputs[0]) in nodes else None
    if (
        not isinstance(logits, Tensor)
        or logits.dim() not in (2, 3)
        or not isinstance(logits.shape[-1], int)
        or not logits.is_floating_point()
    ):
        raise _other(path, "gives no logits")
    length, batch = tokens.shape[1], tokens.shape[0]
    least, most = (length, length) if isinstance(length, int) else _bounds(program, length)
    last_only = logits.dim() == 2 or (isinstance(logits.shape[1], int) and logits.shape[1] == 1 and (least, most) != (1, 1))
    return Signature(
        inputs=inputs,
        least=least,
        most=most,
        batch=batch if isinstance(batch, int) else _bounds(program, batch)[0],
        last_only=last_only,
        vocab_size=logits.shape[-1],
        dtype=logits.dtype,
    )


def bind(program: torch.export.ExportedProgram, signature: Signature) -> Callable[[Tensor], Tensor]:
    """A function from token ids [n] to logits [n, vocab_size], or [1, vocab_size] if the program returns only the last token's.

    A sequence shorter than the program's smallest length is padded on the right, which causal attention does not see. If the program needs
    several sequences, the sequence is repeated.
    """
    # Guards in the file would run as code, so they are dropped; the tests at load check the same conditions.
    module = program.module(check_guards=False)
    spec = program.call_spec.in_spec

    def logits(tokens: Tensor) -> Tensor:
        count = tokens.shape[0]
        padded = torch.nn.functional.pad(tokens, (0, max(0, signature.least - count)))
        places = torch.arange(padded.shape[0])
        given = {"tokens": padded, "mask": places < count, "positions": places}
        values = [_shaped(given[each.role].to(each.dtype), each, signature.batch) for each in signature.inputs]
        arguments, named = pytree.tree_unflatten(values, spec)
        found: Any = module(*arguments, **named)
        found = pytree.tree_leaves(found)[0]
        result: Tensor = found[:1] if found.dim() == 2 else found[0, -1:] if signature.last_only else found[0, :count]
        return result

    return logits


def _shaped(value: Tensor, given: Input, batch: int) -> Tensor:
    return value if given.flat else value[None].expand(batch, -1).contiguous()


def _input(name: str, value: Any, *, alone: bool, path: Path) -> Input:
    role = "tokens" if alone else _ROLES.get(name)
    if role is None:
        raise _other(path, f"takes {name!r}, which is not known")
    allowed = (*_INTEGERS, torch.bool) if role == "mask" else _INTEGERS
    axes = (1, 2) if role == "positions" else (2,)
    if not isinstance(value, Tensor) or value.dtype not in allowed or value.dim() not in axes:
        shown = f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}" if isinstance(value, Tensor) else type(value).__name__
        raise _other(path, f"takes {name} as {shown}")
    return Input(role, value.dtype, value.dim() == 1)


def _bounds(program: torch.export.ExportedProgram, size: Any) -> tuple[int, int | None]:
    bounds = program.range_constraints.get(size.node.expr)
    if bounds is None:
        return 1, None
    most = int(bounds.upper) if bounds.upper.is_Integer else None
    return max(1, int(bounds.lower)), most if most is not None and most < 2**31 else None


def _other(path: Path, what: str) -> UnsupportedModel:
    return UnsupportedModel(f"{path} is a program that {what}; {_CURE}")
