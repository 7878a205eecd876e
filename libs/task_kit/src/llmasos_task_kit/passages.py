"""Splits documents into passages and ranks them for a question, by words (BM25) and by meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from llmasos_hookspecs import Tokenizer
from llmasos_task_kit.sentences import chunks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Scripts without spaces between words: Chinese, Japanese kana, Thai, Lao, Khmer, Burmese.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_UNSPACED}]+|[^\W{_UNSPACED}]+")
_STOP_WORDS = """
    a an and are as at be been but by did do does for from had has have how i if in into is it its me my no not of on or our she he so
    that the their them then there these they this to us was we were what when where which who whom why will with you your
"""
_ENGLISH_STOP_WORDS = frozenset(_STOP_WORDS.split())
#: How little the first ranks weigh more than those behind; the value of the paper.
_FUSION = 60


@attrs.frozen(kw_only=True)
class Passage:
    """A part of a document: ``document`` counts from 0, ``start`` is its first character there, ``score`` its BM25 score,
    or the sum of its ranks' weights where two orders were fused."""

    document: int
    start: int
    text: str
    score: float = 0.0


@attrs.frozen(eq=False)
class Vectors:
    """What texts mean: ``passages`` float32 [n, d], ``question`` float32 [d], each vector of length 1."""

    passages: npt.NDArray[np.float32]
    question: npt.NDArray[np.float32]


def split_passages(documents: Sequence[str], tokens: int, tokenizer: Tokenizer) -> list[Passage]:
    """Passages of at most ``tokens`` tokens that end at sentence ends; passages without a word are left out."""
    found: list[Passage] = []
    for index, document in enumerate(documents):
        start = 0
        for chunk in chunks(document, tokens, tokenizer):
            body = chunk.strip()
            if body:
                found.append(Passage(document=index, start=start + chunk.index(body), text=body))
            start += len(chunk)
    return found


def words(text: str) -> list[str]:
    """Lower-case words without English stop words; scripts without spaces between words give pairs of characters."""
    found: list[str] = []
    for run in _WORDS.findall(text.lower()):
        if re.match(f"[{_UNSPACED}]", run):
            found.extend(run[i : i + 2] for i in range(len(run) - 1)) if len(run) > 1 else found.append(run)
        elif run not in _ENGLISH_STOP_WORDS:
            found.append(run)
    return found


def best_passages(passages: Sequence[Passage], question: str, count: int) -> list[Passage]:
    """The ``count`` passages with the highest BM25 score for ``question`` (Robertson & Zaragoza, 2009), best first.

    Passages that share no word with the question are left out, unless none shares one: then the first ones are taken.
    """
    from bm25s import BM25

    query = words(question)
    corpus = [words(passage.text) for passage in passages]
    vocabulary = {word for passage in corpus for word in passage}
    query = [word for word in query if word in vocabulary]
    if not query:
        return list(passages[:count])
    ranking = BM25(method="lucene")
    ranking.index(corpus, show_progress=False)
    scores = ranking.get_scores(query)
    order = sorted(range(len(passages)), key=lambda index: (-float(scores[index]), index))
    return [attrs.evolve(passages[index], score=float(scores[index])) for index in order[:count] if scores[index] > 0]


def fused_passages(passages: Sequence[Passage], question: str, by_meaning: Sequence[int], count: int) -> list[Passage]:
    """The ``count`` best passages by two orders: that of BM25, and ``by_meaning``, places among the passages, the best first.

    Each order adds ``1 / (60 + rank)`` to a passage's score (reciprocal rank fusion: Cormack, Clarke & Buettcher, 2009), so that neither
    order's own scores have to be compared with the other's. Passages that share no word with the question have no rank by BM25.
    """
    places = {(passage.document, passage.start): index for index, passage in enumerate(passages)}
    shared = set(words(question))
    by_words = [
        places[passage.document, passage.start]
        for passage in best_passages(passages, question, len(passages))
        if shared & set(words(passage.text))
    ]
    scores = [0.0] * len(passages)
    for order in (by_words, by_meaning):
        for rank, index in enumerate(order, start=1):
            scores[index] += 1 / (_FUSION + rank)
    best = sorted(range(len(passages)), key=lambda index: (-scores[index], index))[:count]
    return [attrs.evolve(passages[index], score=scores[index]) for index in best]


def found_passages(passages: Sequence[Passage], question: str, count: int, vectors: Vectors | None = None) -> list[Passage]:
    """The ``count`` passages that fit a question best: by words, and by meaning too where ``vectors`` tells the passages' own and the
    question's, each of length 1. By words alone, those that share none with the question are left out."""
    if vectors is not None:
        scores = vectors.passages @ vectors.question
        order = sorted(range(len(passages)), key=lambda index: (-float(scores[index]), index))
        return fused_passages(passages, question, order, count)
    shared = set(words(question))
    return [passage for passage in best_passages(passages, question, count) if shared & set(words(passage.text))]
