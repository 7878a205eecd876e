"""Checkpoint tensors as torch tensors."""

from __future__ import annotations

import numpy as np
import torch

from llmasos_hookspecs import Checkpoint, CheckpointError, QuantizedTensor, Tensor as StoredTensor


def as_torch(tensor: StoredTensor, dtype: torch.dtype) -> torch.Tensor:
    """A stored weight copied into a torch tensor; an integer table keeps its dtype."""
    if isinstance(tensor, QuantizedTensor):
        return torch.from_numpy(tensor.dequantize()).to(dtype)
    array = np.array(tensor)  # a copy: the stored one is read-only and may be a file
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16).to(dtype)
    return torch.from_numpy(array) if array.dtype.kind == "i" else torch.from_numpy(array).to(dtype)


def read(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> StoredTensor:
    """A tensor of the expected shape. Raises ``CheckpointError`` if it is missing or has another shape."""
    tensor = checkpoint.tensor(name)
    if tuple(tensor.shape) != shape:
        raise CheckpointError(f"{checkpoint.path} holds {name} as {tuple(tensor.shape)}, and its config says {shape}; get the model again.")
    return tensor
