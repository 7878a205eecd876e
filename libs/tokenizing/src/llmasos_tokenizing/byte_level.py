"""Byte-level BPE from a vocabulary and its merges."""

from __future__ import annotations

from tokenizers import Tokenizer as Backend, decoders
from tokenizers.models import BPE

from llmasos_hookspecs import UnsupportedModel
from llmasos_tokenizing.pieces import BYTE_OF, spell
from llmasos_tokenizing.pretokenizers import PRE_TOKENIZERS, PreTokenizer


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
    vocab = {
        token if index in plain or all(character in BYTE_OF for character in token) else spell(token): index
        for index, token in enumerate(tokens)
    }
    return backend_of(vocab, merges, cut)


def backend_of(vocabulary: dict[str, int], merges: list[tuple[str, str]], cut: PreTokenizer) -> Backend:
    """A byte-level tokenizer of a vocabulary that is spelt right."""
    backend = Backend(BPE(vocab=vocabulary, merges=merges, fuse_unk=False, ignore_merges=cut.ignore_merges))
    if (normalizer := cut.normalizer()) is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = cut.build()
    backend.decoder = decoders.ByteLevel()
    return backend
