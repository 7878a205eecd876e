"""Metrics of answers: for labels, for translations, and for short texts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import attrs

from llmasos_hookspecs import LLMasOSError, RequestError


@attrs.frozen(kw_only=True)
class LabelMetrics:
    """Precision, recall and F1 of one label, and how many examples have it."""

    precision: float
    recall: float
    f1: float
    support: int


@attrs.frozen(kw_only=True)
class ClassificationMetrics:
    """Metrics of predicted labels.

    Attributes:
        accuracy: share of examples that were right, with its standard error.
        macro_f1: mean F1 over the labels that occur among the expected ones.
        labels: the metrics of each label.
        confusion: expected label -> predicted label -> examples.
        auc: area under the ROC curve, for two labels whose probabilities are known.
    """

    accuracy: float
    accuracy_error: float
    macro_f1: float
    labels: dict[str, LabelMetrics]
    confusion: dict[str, dict[str, int]]
    auc: float | None = None


def classification_metrics(expected: Sequence[str], predicted: Sequence[str]) -> ClassificationMetrics:
    """Accuracy, F1 and the confusion table of predicted labels. Raises ``RequestError`` where there are none."""
    _check_lengths(expected, predicted)
    pairs = Counter(zip(expected, predicted, strict=True))
    names = list(dict.fromkeys([*expected, *predicted]))
    labels = {name: _label_metrics(name, pairs) for name in names}
    accuracy = sum(count for (left, right), count in pairs.items() if left == right) / len(expected)
    occurring = [labels[name].f1 for name in names if labels[name].support]
    return ClassificationMetrics(
        accuracy=accuracy,
        accuracy_error=math.sqrt(accuracy * (1 - accuracy) / len(expected)),
        macro_f1=sum(occurring) / len(occurring),
        labels=labels,
        confusion={left: {right: pairs[left, right] for right in names} for left in names if labels[left].support},
    )


def area_under_curve(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """Probability that a positive example has a higher score than a negative one, ties counting half (Mann and Whitney, 1947).

    Raises ``RequestError`` where there are not both kinds.
    """
    _check_lengths(scores, positive)
    ranked = sorted(zip(scores, positive, strict=True), key=lambda pair: pair[0])
    positives = sum(positive)
    negatives = len(ranked) - positives
    if not positives or not negatives:
        raise RequestError("The area under the curve needs examples of both kinds.")
    rank_sum, start = 0.0, 0
    while start < len(ranked):
        end = start
        while end < len(ranked) and ranked[end][0] == ranked[start][0]:
            end += 1
        mean_rank = (start + 1 + end) / 2
        rank_sum += mean_rank * sum(is_positive for _, is_positive in ranked[start:end])
        start = end
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def translation_metrics(references: Sequence[str], hypotheses: Sequence[str], *, target: str = "") -> dict[str, float]:
    """Corpus ``bleu`` and ``chrf``, each 0 to 100, as sacreBLEU computes them (Post, 2018; Popović, 2015).

    ``target`` is the English name of the language, which decides how its words are split. Raises ``LLMasOSError`` where the package
    sacrebleu is not installed.
    """
    _check_lengths(references, hypotheses)
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise LLMasOSError('Scoring translations needs sacreBLEU: pip install "llmasos-suite-quality[translation]".') from None
    split = {"chinese": "zh", "japanese": "char", "korean": "char", "thai": "char"}.get(target.strip().lower(), "13a")
    bleu = BLEU(tokenize=split).corpus_score(list(hypotheses), [list(references)])
    chrf = CHRF().corpus_score(list(hypotheses), [list(references)])
    return {"bleu": float(bleu.score), "chrf": float(chrf.score)}


def text_metrics(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """Share of ``exact`` matches and mean token ``f1``, without case, punctuation and articles (SQuAD: Rajpurkar et al., 2016)."""
    _check_lengths(references, hypotheses)
    pairs = [(_words(left), _words(right)) for left, right in zip(references, hypotheses, strict=True)]
    return {
        "exact": sum(left == right for left, right in pairs) / len(pairs),
        "f1": sum(_token_f1(left, right) for left, right in pairs) / len(pairs),
    }


def _label_metrics(name: str, pairs: Counter[tuple[str, str]]) -> LabelMetrics:
    hits = pairs[name, name]
    support = sum(count for (left, _), count in pairs.items() if left == name)
    chosen = sum(count for (_, right), count in pairs.items() if right == name)
    precision = hits / chosen if chosen else 0.0
    recall = hits / support if support else 0.0
    f1 = 2 * hits / (support + chosen) if support + chosen else 0.0
    return LabelMetrics(precision=precision, recall=recall, f1=f1, support=support)


def _token_f1(reference: list[str], hypothesis: list[str]) -> float:
    if not reference or not hypothesis:
        return float(reference == hypothesis)
    common = sum((Counter(reference) & Counter(hypothesis)).values())
    return 2 * common / (len(reference) + len(hypothesis))


def _words(text: str) -> list[str]:
    # Characters of scripts without spaces count as words.
    found = re.findall(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff]|[^\W\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff]+", text.lower())
    return [word for word in found if word not in ("a", "an", "the")]


def _check_lengths(left: Sequence[object], right: Sequence[object]) -> None:
    if not left or len(left) != len(right):
        raise RequestError(f"Metrics need as many answers as examples, and at least one; there are {len(right)} and {len(left)}.")
