"""Sets weights of one matrix to zero, on plain arrays: magnitude, Wanda and SparseGPT."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

#: SparseGPT chooses the mask of this many columns at once, and applies their corrections to the rest in one product.
BLOCK: Final = 128


def least(scores: Floats, share: float, pattern: str) -> Mask:
    """True for weights to remove: in every row the ``share`` with the smallest scores, or two of every four adjacent weights."""
    rows, columns = scores.shape
    width, cut = (4, 2) if pattern == "2:4" else (columns, round(share * columns))
    groups = scores.reshape(rows, columns // width, width)
    mask = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(mask, np.argpartition(groups, max(cut - 1, 0))[:, :, :cut], True, axis=2)
    return mask.reshape(rows, columns)


def magnitude(weight: Floats, share: float, pattern: str) -> Floats:
    """The matrix without its smallest weights, compared across the whole matrix (or within each group of four)."""
    scores = np.abs(weight)
    mask = least(scores, share, pattern) if pattern == "2:4" else least(scores.reshape(1, -1), share, pattern).reshape(weight.shape)
    return np.where(mask, np.float32(0), weight)


def wanda(weight: Floats, moments: Floats, share: float, pattern: str) -> Floats:
    """The matrix without the weights of the least ``|w| * ||x||``, compared within each row (Sun et al., 2024).

    ``moments``: float32 [columns], the mean over tokens of ``x ** 2``.
    """
    return np.where(least(np.abs(weight) * np.sqrt(moments), share, pattern), np.float32(0), weight)


def sparsegpt(weight: Floats, hessian: Floats, share: float, pattern: str, damping: float = 0.01) -> Floats:
    """The matrix with weights zeroed block by block, and later columns updated to compensate the error (Frantar and Alistarh, 2023).

    ``hessian``: float32 [columns, columns], the mean over tokens of ``x x^T``.
    """
    columns = weight.shape[1]
    damped = hessian.astype(np.float64)
    diagonal = np.einsum("ii->i", damped)
    diagonal += max(damping * diagonal.mean(), 1e-8)
    factor = np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(damped)).T, dtype=np.float32)
    pivots = np.diagonal(factor)
    # Transposed, so that a column of the matrix is one contiguous row here.
    left = np.ascontiguousarray(weight.T)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        if pattern == "unstructured":
            scores = np.square(left[start:end] / pivots[start:end, None])
            # Compared across the block, not in each row, because rows differ in sensitivity.
            mask = least(scores.reshape(1, -1), share, pattern).reshape(scores.shape)
        errors = np.empty_like(left[start:end])
        for column in range(start, end):
            if pattern == "2:4" and column % 4 == 0:
                four = slice(column, column + 4)
                chosen = least(np.square(left[four] / pivots[four, None]).T, share, pattern).T
            gone = mask[column - start] if pattern == "unstructured" else chosen[column % 4]
            error = np.where(gone, left[column], np.float32(0)) / pivots[column]
            left[column + 1 : end] -= factor[column, column + 1 : end, None] * error
            left[column][gone] = 0
            errors[column - start] = error
        left[end:] -= factor[start:end, end:].T @ errors
    return np.ascontiguousarray(left.T)
