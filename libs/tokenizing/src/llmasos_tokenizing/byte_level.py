"""Byte-level BPE from a vocabulary and its merges."""

from __future__ import annotations

import re
from typing import Final

from tokenizers import Tokenizer as Backend, decoders
from tokenizers.models import BPE

from llmasos_hookspecs import UnsupportedModel
from llmasos_tokenizing.pieces import BYTE_OF, spell
from llmasos_tokenizing.pretokenizers import PRE_TOKENIZERS, PreTokenizer

#: Matches a token that is spelt in the byte alphabet; a loop over all characters of a vocabulary takes as long as building the tokenizer.
_SPELT: Final = re.compile(f"[{re.escape(''.join(BYTE_OF))}]*").fullmatch


def byte_level_backend(tokens: list[str], merges: list[tuple[str, str]], pre: str, plain: frozenset[int], where: str) -> Backend:
    """A byte-level tokenizer of a vocabulary as GGUF holds it.

    ``pre`` names the cut before merging. Tokens in ``plain`` are spelt in plain text, and so may be others that some converters
    failed to spell in the byte alphabet; the latter are put right.

    Raises:
        UnsupportedModel: ``pre`` is not known; cutting in another way would give other tokens without a sign of it.
    """
    try:
        cut = PRE_TOKENIZERS[pre]
    except KeyError:
        raise UnsupportedModel(f"{where} cuts text as {pre[:40]!r}, and the ways known are {', '.join(sorted(PRE_TOKENIZERS))}.") from None
    vocab = {token if _SPELT(token) or index in plain else spell(token): index for index, token in enumerate(tokens)}
    return backend_of(vocab, merges, cut)


def backend_of(vocabulary: dict[str, int], merges: list[tuple[str, str]], cut: PreTokenizer) -> Backend:
    """A byte-level tokenizer of a vocabulary that is spelt right."""
    backend = Backend(BPE(vocab=vocabulary, merges=merges, fuse_unk=False, ignore_merges=cut.ignore_merges))
    if (normalizer := cut.normalizer()) is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = cut.build()
    backend.decoder = decoders.ByteLevel()
    return backend
