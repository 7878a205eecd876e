"""SentencePiece-style BPE from a scored vocabulary, as GGUF's ``llama`` tokenizer model holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from llmasos.runtime.tokenizer.pieces import SPACE

#: No piece of a real vocabulary is longer (Gemma's runs of spaces and lines are 31); cuts of longer ones are not sought.
_LONGEST = 256


def llama_backend(tokens: list[str], merges: list[tuple[str, str]], *, prefix: bool) -> Backend:
    """Llama 2's and Mistral's: spaces are pieces' beginnings; ``prefix``: the text gets one before it."""
    backend = Backend(BPE(vocab=_vocab(tokens), merges=merges, fuse_unk=True, byte_fallback=True))
    scheme = "first" if prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1)] if prefix else steps)
    return backend


def exact_backend(tokens: list[str], merges: list[tuple[str, str]], *, prefix: bool) -> Backend:
    """``llama_backend`` as SentencePiece itself has it: a text that begins with a space gets one before it too."""
    backend = llama_backend(tokens, merges, prefix=prefix)
    spaces = normalizers.Replace(" ", SPACE)
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    return backend


def gemma_backend(tokens: list[str], merges: list[tuple[str, str]], *, unknown: str | None) -> Backend:
    """Gemma's: no space before the text, and none cut from it."""
    backend = Backend(BPE(vocab=_vocab(tokens), merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def gemma_spelling(tokens: Sequence[str]) -> list[str]:
    """Gemma's files write tokens of several spaces as spaces, where all other pieces write the stand-in."""
    return [SPACE * len(token) if " " in token and not token.strip(" ") else token for token in tokens]


def derived_merges(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges that a scored vocabulary implies.

    SentencePiece joins the two neighbours whose joint piece scores highest, the leftmost first. So every cut of a piece into two
    pieces is a merge, ordered by the piece's score; among cuts of equal score the one with the longer left, then the longer right
    half comes first, then the one of the earlier pieces, as transformers orders them.
    """
    place = _vocab(tokens)
    best: Mapping[str, float] = dict(zip(tokens, scores, strict=True))
    found: list[tuple[tuple[float, int, int], str, str]] = []
    for piece, score in best.items():
        if len(piece) > _LONGEST:
            continue
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in place and piece[i:] in place]
        if len(cuts) > 1:
            cuts.sort(key=lambda cut: (place[cut[0]], place[cut[1]]))
        found += [((score, len(left), len(right)), left, right) for left, right in cuts]
    # Stable even in reverse, so that equal keys stay in the order of the vocabulary.
    found.sort(key=lambda merge: merge[0], reverse=True)
    return [(left, right) for _, left, right in found]


def _vocab(tokens: Sequence[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}
