"""What reads the quantised weights of a folder: the protocol of a form, and what forms share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import CheckpointError, QuantizedTensor, Tensor, UnsupportedModel
from llmasos_huggingface_folder.packing import Codes
from llmasos_huggingface_folder.safetensors import StoredTensor

Array = npt.NDArray[Any]
Headers = Mapping[str, StoredTensor]
#: Gives a stored tensor by its name in the file, None where there is none.
Read = Callable[[str], Array | None]

#: Types of 8-bit floats, which are weights only with the scales beside them.
FLOAT8: Final = ("float8_e4m3fn", "float8_e5m2")

#: Scales of activations and of a KV cache, which say nothing of the weights.
ACTIVATION_PARTS: Final = ("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point", "activation_scale")
_CACHE_SCALES: Final = (".k_scale", ".v_scale", ".q_scale", ".prob_output_scale")

#: Fewer columns than this in a group, and a scale for each takes more room than floats do.
_SMALLEST_GROUP: Final = 8


class QuantizedForm(Protocol):
    """Reads the weights of one tool's layout.

    Attributes:
        parts: module -> names of the stored tensors that make up its weight.
        notes: what a user of the model should know, one sentence each.
    """

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...

    def shape(self, module: str, read: Read) -> tuple[int, int]:
        """Rows and columns of a module's weight, from headers and a few bytes."""
        ...

    def tensor(self, module: str, read: Read) -> Tensor:
        """The weight, exactly: codes where ``QuantizedTensor`` has their grid, else float32. Raises ``CheckpointError`` where its parts do
        not fit one another."""
        ...


class Form(Protocol):
    """Makes the reader for a folder: of its ``quantization_config``, the headers of its tensors and its name for errors."""

    def __call__(self, settings: Mapping[str, Any], headers: Headers, where: str, /) -> QuantizedForm | None:
        """None where this form does not read what the settings say. Raises ``UnsupportedModel`` or ``CheckpointError``."""
        ...


class UnreadQuantization(UnsupportedModel):
    """No form at hand reads the quantised weights of a folder. ``method`` is its ``quant_method``; empty where tensors alone show it."""

    def __init__(self, message: str, method: str = "") -> None:
        super().__init__(message)
        self.method = method


def parts_of(headers: Headers, module: str, leaves: Iterable[str]) -> tuple[str, ...]:
    """Names of a module's stored tensors among ``leaves``, and of its activations' scales."""
    names = (f"{module}.{leaf}" for leaf in (*leaves, *ACTIVATION_PARTS))
    return tuple(name for name in names if name in headers)


def is_cache_scale(name: str) -> bool:
    """Whether a stored tensor scales the KV cache of the tool that wrote it."""
    return name.endswith(_CACHE_SCALES)


def damaged(where: str, module: str) -> CheckpointError:
    """The error for parts that do not fit one another."""
    return CheckpointError(f"{where} holds {module}.weight in parts that do not fit one another; get the checkpoint again.")


def in_groups(codes: Codes, scales: Array, zeros: Codes | None, order: Array | None, bits: int) -> Tensor:
    """The weights of columns that lie in groups in any order: codes where neighbours share a group, else float32.

    Args:
        codes: [rows, columns].
        scales: [rows, groups].
        zeros: [rows, groups]; None where all are ``2 ** (bits - 1)``.
        order: the group of each column, whole numbers [columns]; None where groups of equal size follow one another.
    """
    columns = codes.shape[1]
    if order is None:
        group = -(-columns // scales.shape[1])
    else:
        group = int(np.gcd.reduce(np.flatnonzero(np.diff(order)) + 1, initial=0)) or columns
        if group < min(_SMALLEST_GROUP, columns):
            offset = np.float32(1 << (bits - 1)) if zeros is None else zeros[:, order].astype(np.float32)
            floats: Array = (codes.astype(np.float32) - offset) * scales.astype(np.float32)[:, order]
            return floats
        scales, zeros = scales[:, order[::group]], None if zeros is None else zeros[:, order[::group]]
    return QuantizedTensor(
        codes=codes,
        scales=np.ascontiguousarray(scales, dtype=np.float32),
        bits=bits,
        group=group,
        zeros=None if zeros is None else np.ascontiguousarray(zeros),
    )


def unless_centred(zeros: Codes, bits: int) -> Codes | None:
    """None where every zero is ``2 ** (bits - 1)``, as of formats that store the zeros of symmetric codes too."""
    return None if bool((zeros == 1 << (bits - 1)).all()) else zeros
