"""Tests at load what an exported program computes correctly.

A program does not state whether it masks later tokens, counts positions from 0, or supports every length that it declares. The tests
compare the logits of a text with those of its prefixes, at the shortest lengths, in between, and at the longest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from llmasos_backend_torch.exported.program import Signature
from llmasos_hookspecs import UnsupportedModel

#: Largest relative error of logits of the same tokens in texts of different lengths, for float32 and for narrower types. A wrong mask or
#: position gives an error of 0.1 and more.
_TOLERANCE: Final = 1e-3
_TOLERANCE_ROUNDED: Final = 0.03
_SHORT: Final = (1, 2, 3, 9)
#: The longest tested text; a longer one would take more time than the load.
_LONGEST: Final = 512


def try_program(logits: Callable[[Tensor], Tensor], signature: Signature, context: int, path: Path) -> None:
    """Test texts of 1 to ``context`` tokens.

    Raises:
        UnsupportedModel: a length fails, gives NaN, or changes the logits of tokens that came before; the message says which.
    """
    longest = min(context, _LONGEST)
    lengths = sorted({length for length in (*_SHORT, longest // 2 + 1, longest) if length <= longest})
    text = (torch.arange(longest) * 7919 + 11) % signature.vocab_size
    if signature.last_only:
        _try_last_only(logits, signature, lengths, text, path)
        return
    whole = _attempt(logits, signature, text, path)
    for length in lengths:
        found = _attempt(logits, signature, text[:length], path)
        _compare(found, whole[:length], f"{length} tokens alone and before others", path, signature)
    # Different later tokens must not change earlier logits.
    half = longest // 2
    if half:
        changed = torch.cat([text[:half], (text[half:] + 1) % signature.vocab_size])
        _compare(_attempt(logits, signature, changed, path)[:half], whole[:half], f"{half} tokens before other endings", path, signature)


def _try_last_only(logits: Callable[[Tensor], Tensor], signature: Signature, lengths: list[int], text: Tensor, path: Path) -> None:
    """Test a program that returns only the last token's logits, which cannot be compared: every length must run without padding."""
    if signature.least > 1:
        raise UnsupportedModel(
            f"{path} gives logits of the last token only and takes no fewer than {signature.least} tokens, so that a shorter text would "
            "end in padding; export it with logits of all tokens, or for any length."
        )
    for length in lengths:
        _attempt(logits, signature, text[:length], path)


def _attempt(logits: Callable[[Tensor], Tensor], signature: Signature, tokens: Tensor, path: Path) -> Tensor:
    try:
        with torch.inference_mode():
            found = logits(tokens).float()
    except Exception as error:  # a program fails in ways of its own
        reason = (" ".join(str(error).split())[:160] or type(error).__name__).rstrip(".")
        message = f"{path} fails at a text of {len(tokens)} tokens ({reason}); export it for every length from 1 to its context."
        raise UnsupportedModel(message) from error
    due = (1 if signature.last_only else len(tokens), signature.vocab_size)
    if found.shape != due:  # what the file says of its shapes need not be so
        raise UnsupportedModel(
            f"{path} gives logits of the shape {tuple(found.shape)} for a text of {len(tokens)} tokens, and {due} is due; export "
            "the model again."
        )
    if not torch.isfinite(found).all():
        raise UnsupportedModel(f"{path} gives NaN or infinite logits for a text of {len(tokens)} tokens; export the model again.")
    return found


def _compare(found: Tensor, expected: Tensor, what: str, path: Path, signature: Signature) -> None:
    errors = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)
    error = float(errors.max())
    if not error <= (_TOLERANCE if signature.dtype == torch.float32 else _TOLERANCE_ROUNDED):
        raise UnsupportedModel(
            f"{path} does not compute {what} alike (its logits are off by {error:.2g} of their size); it is no decoder that looks back "
            "only, or takes other inputs than were given."
        )
