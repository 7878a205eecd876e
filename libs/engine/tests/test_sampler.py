"""The sampler against transformers' logits processors, and against itself."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import settings

from llmasos_engine import cuts
from llmasos_engine.cuts import Weights, kept, largest, narrowed
from llmasos_engine.draws import uniform
from llmasos_engine.sampler import SamplingState, log_probability, sample
from llmasos_hookspecs import SamplingParams
from llmasos_hookspecs.testing.drawing import acceptable_tokens

#: On each change 30, with `make test-long` 200.
ROWS = 200 if settings.default.max_examples >= 500 else 30
VOCAB = 1531  # a prime: no block divides it


def rows(seed: int, count: int = ROWS, vocab: int = VOCAB) -> np.ndarray:
    """[count, vocab] float32, from flat to peaked."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, vocab)) * np.linspace(0.3, 6, count)[:, None]).astype(np.float32)


def by_transformers(logits: np.ndarray, prompt: list[int], generated: list[int], **params: Any) -> np.ndarray:
    """[vocab] the distribution that transformers' processors leave, in the order of its ``generate``."""
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    ids = torch.tensor([prompt + generated])
    scores = torch.from_numpy(logits.copy())[None]
    chain: list[Any] = []
    if params.get("logit_bias"):
        chain.append(process.SequenceBiasLogitsProcessor({(token,): bias for token, bias in params["logit_bias"].items()}))
    if params.get("repetition_penalty"):
        chain.append(process.RepetitionPenaltyLogitsProcessor(params["repetition_penalty"]))
    for each in chain:
        scores = each(ids, scores)
    # transformers has neither of these; they are OpenAI's formula.
    for token in set(generated):
        scores[0, token] -= generated.count(token) * params.get("frequency_penalty", 0) + params.get("presence_penalty", 0)
    chain = [process.TemperatureLogitsWarper(float(params["temperature"]))]
    if params.get("top_k"):
        chain.append(process.TopKLogitsWarper(params["top_k"]))
    if params.get("top_p"):
        chain.append(process.TopPLogitsWarper(params["top_p"]))
    if params.get("min_p"):
        chain.append(process.MinPLogitsWarper(params["min_p"]))
    for each in chain:
        scores = each(ids, scores)
    return scores.softmax(-1)[0].numpy()


def candidates(logits: np.ndarray, params: SamplingParams) -> tuple[np.ndarray, np.ndarray]:
    """The candidates that temperature, top-k, top-p and min-p leave of logits [vocab]: token ids in order, and their probabilities."""
    row = narrowed(logits, params, Weights(len(logits)), masked=False)
    assert row is not None
    weights = kept([row], [params])[0]
    some = np.flatnonzero(weights)
    return row.ids[some], weights[some] / weights[some].sum()


def by_us(logits: np.ndarray, prompt: list[int], generated: list[int], **params: Any) -> np.ndarray:
    """[vocab] the distribution that the sampler draws from."""
    sampling = SamplingParams(**params)
    state = SamplingState(sampling, prompt)
    for token in generated:
        state.accept(token)
    ids, probabilities = candidates(state.changed(logits), sampling)
    full = np.zeros(len(logits))
    full[ids] = probabilities
    return full


BIAS = {3: 4.0, 7: -100.0, 1000: 2.5}
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.4},
    {"temperature": 1.7},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 0.8, "top_k": 40},
    {"temperature": 1.0, "top_k": 1500},
    {"temperature": 1.0, "top_k": 5000},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.0, "top_p": 0.05},
    {"temperature": 1.3, "top_p": 0.999},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 0.7, "min_p": 1.0},
    {"temperature": 1.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "repetition_penalty": 0.8},
    {"temperature": 1.0, "repetition_penalty": 2.0},
    {"temperature": 1.0, "presence_penalty": 1.5},
    {"temperature": 1.0, "frequency_penalty": 0.7},
    {"temperature": 1.0, "logit_bias": BIAS},
    {"temperature": 0.7, "top_k": 50, "top_p": 0.9},
    {"temperature": 0.9, "top_p": 0.95, "min_p": 0.02},
    {"temperature": 1.1, "top_k": 100, "min_p": 0.01, "repetition_penalty": 1.1},
    {
        "temperature": 0.8,
        "top_k": 60,
        "top_p": 0.92,
        "min_p": 0.005,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.2,
        "logit_bias": BIAS,
    },
]


@pytest.mark.parametrize("params", OPTIONS, ids=str)
def test_distribution_is_that_of_transformers(params: dict[str, Any]) -> None:
    """Each option and their combinations leave the distribution that transformers' processors leave, on random rows."""
    rng = np.random.default_rng(5)
    for logits in rows(11):
        prompt = rng.integers(0, VOCAB, 20).tolist()
        generated = rng.integers(0, 40, 12).tolist()
        expected = by_transformers(logits, prompt, generated, **params)
        found = by_us(logits, prompt, generated, **params)
        differs = (expected > 1e-30) != (found > 1e-30)  # float32 loses what is less
        # A border may fall between float32's sums and ours: then one token, of as little weight as the sums' error, is in or out.
        assert differs.sum() <= 1
        assert max(expected[differs].sum(), found[differs].sum()) < 5e-3
        np.testing.assert_allclose(found[~differs], expected[~differs], atol=5e-3 if differs.any() else 2e-6)


def test_border_cases_are_rare() -> None:
    """The kept set is transformers' own on nearly all rows: a wrong border would show on more than one in twenty."""
    params = {"temperature": 0.9, "top_k": 80, "top_p": 0.93}
    differing = sum(
        not np.array_equal(by_transformers(logits, [1], [], **params) > 0, by_us(logits, [1], [], **params) > 0) for logits in rows(23)
    )
    assert differing <= ROWS // 20


@pytest.mark.parametrize("params", [*OPTIONS, {"temperature": 0.0, "repetition_penalty": 1.4, "presence_penalty": 0.3}])
def test_an_engine_is_told_all_that_a_draw_needs(params: dict[str, Any]) -> None:
    """What ``SamplingState.draw`` tells makes the formula of the conformance kit draw the sampler's own tokens, one after the other."""
    state = SamplingState(SamplingParams(seed=3, **params), [5, 6, 5])
    for logits in rows(29):
        token = sample([logits], [state])[0]
        assert token is not None
        assert token in acceptable_tokens(logits, state.draw(), rounding=1e-6)
        state.accept(token)


@pytest.mark.parametrize("vocab", [1, 2, 63, 64, 65, 500, 49152])
@pytest.mark.parametrize("k", [1, 2, 50, 1000])
def test_largest_finds_the_k_largest(vocab: int, k: int) -> None:
    """The k largest values, ties at the border included, whatever the vocabulary."""
    rng = np.random.default_rng(vocab + k)
    values = rng.integers(-50, 50, vocab).astype(np.float32) if vocab < 1000 else rng.standard_normal(vocab).astype(np.float32)
    order = np.lexsort((np.arange(vocab), -values))
    border = values[order[min(k, vocab) - 1]]
    assert largest(values, k).tolist() == np.flatnonzero(values >= border).tolist()


@pytest.mark.parametrize(
    ("params", "plain"),
    [
        ({}, True),
        ({"temperature": 0.7, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "seed": 1}, True),
        ({"repetition_penalty": 2.0}, False),
        ({"presence_penalty": 0.5}, False),
        ({"frequency_penalty": 0.5}, False),
        ({"logit_bias": {3: 1.0}}, False),
    ],
    ids=str,
)
def test_only_what_changes_logits_is_not_plain(params: dict[str, Any], plain: bool) -> None:
    """Logits that nothing changes are the same array; a penalty before any token was generated changes none, in an array of its own."""
    state = SamplingState(SamplingParams(**params), [1, 2])
    logits = np.array([1.0, -2.0, 3.0, 4.0], np.float32)
    assert state.plain is plain
    assert (state.changed(logits) is logits) is plain
    assert not SamplingState(SamplingParams(**params), [1, 2], Everything()).plain
    assert state.changed(logits).tolist() == {
        "repetition_penalty": [1.0, -4.0, 1.5, 4.0],
        "logit_bias": [1.0, -2.0, 3.0, 5.0],
    }.get(next(iter(params), ""), [1.0, -2.0, 3.0, 4.0])


@pytest.mark.parametrize("shift", [-40.0, 0.0, 40.0])
def test_few_tokens_are_cut_exactly_however_large_their_logits_are(shift: float) -> None:
    """Of rows of 1531 top-p of 0.9 leaves some tens, of which a few more than these are looked at."""
    params = SamplingParams(temperature=1.0, top_p=0.9)
    for row in rows(7, 20)[10:]:
        few = narrowed(row + np.float32(shift), params, Weights(VOCAB), masked=False)
        assert few is not None
        count = np.count_nonzero(kept([few], [params]))
        assert 0 < count <= len(few.ids) <= max(48, 2 * count)


def test_forbidden_tokens_are_no_candidates() -> None:
    """Of a row that forbids all but three tokens, top-k of 50 keeps three."""
    logits = np.full(500, -np.inf, np.float32)
    logits[[5, 77, 499]] = [1.0, 3.0, 2.0]
    assert candidates(logits, SamplingParams(temperature=1.0, top_k=50))[0].tolist() == [5, 77, 499]


@pytest.mark.parametrize(
    "params",
    [
        {},
        *(pytest.param(each, marks=pytest.mark.long) for each in ({"top_k": 20}, {"top_p": 0.8}, {"min_p": 0.1})),
        {"top_k": 5, "top_p": 0.5},
    ],
    ids=str,
)
def test_draws_follow_the_distribution(params: dict[str, Any]) -> None:
    """5,000 draws (`make test-long`: 20,000) agree with the distribution they are drawn from (chi-squared, at one in ten thousand)."""
    turns = 100 if settings.default.max_examples >= 500 else 25
    logits = (np.random.default_rng(3).standard_normal(700) * 3).astype(np.float32)
    sampling = SamplingParams(temperature=0.9, **params)
    states = [SamplingState(attrs.evolve(sampling, seed=seed), []) for seed in range(200)]
    drawn = np.zeros(700)
    for _ in range(turns):
        for token, state in zip(sample([logits] * 200, states), states, strict=True):
            assert token is not None
            drawn[token] += 1
            state.accept(token)
    ids, probabilities = candidates(logits, sampling)
    assert drawn.sum() == drawn[ids].sum()
    expected, found = probabilities * turns * 200, drawn[ids]
    often = expected >= 5
    expected = np.append(expected[often], expected[~often].sum())
    found = np.append(found[often], found[~often].sum())
    statistic = ((found - expected) ** 2 / np.maximum(expected, 1e-9))[expected > 0].sum()
    degrees = (expected > 0).sum() - 1
    assert statistic < degrees + 4.5 * np.sqrt(2 * degrees) + 10


def test_a_fresh_seed_is_any_number_of_64_bits() -> None:
    seeds = {SamplingState(SamplingParams(temperature=1.0), []).seed for _ in range(200)}
    assert len(seeds) == 200
    assert 1 << 62 < max(seeds) < 1 << 64


def test_same_seed_gives_the_same_tokens_in_any_company() -> None:
    """A sequence's tokens depend on its logits, seed and past, not on who else is in the batch or in which place."""
    logits = rows(1, 64, 5000)
    kinds: list[dict[str, Any]] = [{"top_k": 40}, {"top_p": 0.9}, {}, {"min_p": 0.1}, {"top_k": 40, "repetition_penalty": 1.2}]

    def run(order: list[int]) -> dict[int, list[int | None]]:
        states = {i: SamplingState(SamplingParams(temperature=1.0, seed=i, **kinds[i % 5]), [1, 2, 3]) for i in order}
        tokens: dict[int, list[int | None]] = {i: [] for i in order}
        for step in range(8):
            for i, token in zip(order, sample([logits[(i + step) % 64] for i in order], [states[i] for i in order]), strict=True):
                assert token is not None
                states[i].accept(token)
                tokens[i].append(token)
        return tokens

    together = run(list(range(40)))
    backwards = run(list(range(39, -1, -1)))
    assert together == backwards
    assert all(run([i])[i] == together[i] for i in range(40))
    assert together[0] != together[5], "Two seeds gave the same tokens; the test proves nothing."


@pytest.mark.parametrize("exponential", ["exp2", "exp"])
@pytest.mark.parametrize("scale", [0.01, 3.0, 40.0, 3000.0])
def test_logits_of_any_size_are_drawn_from_exactly(monkeypatch: pytest.MonkeyPatch, exponential: str, scale: float) -> None:
    """Flat and peaked rows whose exponentials float32 cannot hold, and rows of mostly forbidden tokens, give the tokens of the kit's
    formula in float64, by either of numpy's exponentials."""
    monkeypatch.setattr(cuts, "_exponential", getattr(np, exponential))
    monkeypatch.setattr(cuts, "_UNIT", 1 / np.log(2) if exponential == "exp2" else 1.0)
    rng = np.random.default_rng(8)
    logits = list((rng.standard_normal((8, 3001)) * scale + scale * 2).astype(np.float32))
    for row in logits[4:]:
        row[rng.permutation(3001)[5:]] = -np.inf
    kinds: list[dict[str, Any]] = [{}, {"top_p": 0.9}, {"top_p": 0.9, "top_k": 3}, {"min_p": 0.2}]
    for kind in kinds:
        params = SamplingParams(temperature=0.8, seed=1, **kind)
        states = [SamplingState(params, [], Everything() if place in (6, 7) else None) for place in range(8)]
        for row, state, token in zip(logits, states, sample(logits, states), strict=True):
            assert token is not None
            assert token in acceptable_tokens(row, state.draw(), rounding=2e-6)


@pytest.mark.parametrize(
    ("kernels", "vectors"),
    [
        (["AVX512_SKX"], True),
        (["SSE2 baseline", "AVX2"], True),
        (["baseline(SSE2)"], False),
        (["AVX2", "baseline(SSE2)"], False),
        (None, False),
    ],
    ids=str,
)
def test_base_two_is_taken_where_numpy_computes_it_by_vectors(
    monkeypatch: pytest.MonkeyPatch, kernels: list[str] | None, vectors: bool
) -> None:
    """Of all its kernels; a numpy that does not say is taken for one that does not."""

    def info(**asked: str) -> dict[str, dict[str, dict[str, str]]]:
        assert asked == {"func_name": "^exp2$", "signature": "float32"}
        return {} if kernels is None else {"exp2": {str(place): {"current": each} for place, each in enumerate(kernels)}}

    monkeypatch.setattr(np.lib, "introspect", SimpleNamespace(opt_func_info=info), raising=False)
    assert cuts._vector_exp2() == vectors


class Everything:
    """A mask that forbids nothing more."""

    def allowed(self, vocab_size: int) -> np.ndarray:
        return np.ones(vocab_size, bool)


@pytest.mark.parametrize("params", [{}, {"top_k": 7}, {"top_p": 0.9}, {"min_p": 0.1}], ids=str)
def test_a_point_at_either_end_takes_a_token_that_may_come(monkeypatch: pytest.MonkeyPatch, params: dict[str, Any]) -> None:
    """At the points 0 and almost 1 a row whose first and last blocks are forbidden gives its first and its last candidate."""
    logits = np.full(5000, -np.inf, np.float32)
    logits[[2000, 2001, 3000]] = [1.0, 1.2, 0.9]
    for mask in (None, Everything()):
        found = []
        for point in (0.0, 1 - 2.0**-53):
            monkeypatch.setattr("llmasos_engine.sampler.uniform", lambda *_, point=point: point)
            found += sample([logits], [SamplingState(SamplingParams(temperature=1.0, seed=1, **params), [], mask)])
        assert found == [2000, 3000]


@pytest.mark.parametrize("params", [{}, {"top_k": 700}, {"top_p": 0.99}, {"min_p": 1e-6}], ids=str)
def test_the_last_point_leads_past_no_row(monkeypatch: pytest.MonkeyPatch, params: dict[str, Any]) -> None:
    """However the sums of its weights are rounded; here of rows that end in the middle of a block, and behind which nothing may come."""
    monkeypatch.setattr("llmasos_engine.sampler.uniform", lambda *_: 1 - 2.0**-53)
    logits = list(rows(6, 40, 1100))
    for row in logits[20:]:
        row[600:] = -np.inf
    states = [SamplingState(SamplingParams(temperature=1.0, seed=1, **params), []) for _ in logits]
    for row, token in zip(logits, sample(logits, states), strict=True):
        assert token is not None
        assert row[token] > -np.inf


def test_a_batch_changes_no_token() -> None:
    """Each row of a batch of every kind gets the token that it gets alone."""
    kinds: list[dict[str, Any]] = [{"top_k": 40}, {"top_p": 0.9}, {}, {"min_p": 0.1}, {"repetition_penalty": 1.2}]
    logits = list(rows(4, 20, 5000))
    states = [SamplingState(SamplingParams(temperature=1.0, seed=i, **kinds[i % 5]), [1, 2, 3]) for i in range(20)]
    assert sample(logits, states) == [sample([row], [state])[0] for row, state in zip(logits, states, strict=True)]


def test_greedy_takes_the_likeliest_and_leaves_the_logits_alone() -> None:
    """Temperature 0 is the maximum after penalties; the engine's array is not written to."""
    logits = np.array([1.0, 5.0, 4.9, 0.0], np.float32)
    logits.setflags(write=False)
    plain = SamplingState(SamplingParams(), [1])
    assert sample([logits], [plain]) == [1]
    penalised = SamplingState(SamplingParams(repetition_penalty=1.5, logit_bias={3: 1.0}), [1])
    assert sample([logits], [penalised]) == [2]


def test_a_row_without_a_choice_gives_none() -> None:
    """NaN, or nothing but minus infinity, is no token; the other rows get theirs."""
    bad = np.array([0.0, np.nan, 1.0], np.float32)
    none = np.full(3, -np.inf, np.float32)
    good = np.array([0.0, 2.0, 1.0], np.float32)
    for temperature in (0.0, 1.0):
        states = [SamplingState(SamplingParams(temperature=temperature, seed=1, top_k=1), []) for _ in range(3)]
        assert sample([bad, none, good], states) == [None, None, 1]


def test_uniform_numbers_are_uniform_and_independent() -> None:
    """Means, serial correlation and correlation between neighbouring seeds are what chance allows."""
    stream = np.array([uniform(7, index) for index in range(20_000)])
    neighbour = np.array([uniform(8, index) for index in range(20_000)])
    first = np.array([uniform(seed, 0) for seed in range(20_000)])
    for numbers in (stream, neighbour, first):
        assert 0 <= numbers.min() < 0.01
        assert 0.99 < numbers.max() < 1
        assert abs(numbers.mean() - 0.5) < 0.01
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.03
    assert abs(np.corrcoef(stream, neighbour)[0, 1]) < 0.03


def test_log_probability_is_the_log_softmax() -> None:
    """Log probabilities are the model's own, with the likeliest alternatives in order."""
    logits = rows(9, 1)[0]
    wide = logits.astype(np.float64)
    expected = wide - np.log(np.exp(wide).sum())
    logprob, alternatives = log_probability(logits, 17, 5)
    assert logprob == pytest.approx(expected[17], abs=1e-5)
    best = np.argsort(-wide)[:5]
    assert [token for token, _ in alternatives] == best.tolist()
    np.testing.assert_allclose([value for _, value in alternatives], expected[best], atol=1e-5)


def test_a_batch_of_32_costs_less_than_sorting_it() -> None:
    """Top-k with top-p over 32 rows of 49,152 takes a fraction of the time that sorting those rows takes, in turn in one run."""
    logits = [row.copy() for row in rows(2, 32, 49152)]
    states = [SamplingState(SamplingParams(temperature=0.8, top_k=50, top_p=0.9, seed=i), [1, 2, 3]) for i in range(32)]

    def seconds(action: Any) -> float:
        start = time.perf_counter()
        action()
        return time.perf_counter() - start

    sampling, sorting = [], []
    for _ in range(50):  # on a busy machine, until both were undisturbed once
        sampling.append(seconds(lambda: sample(logits, states)))
        sorting.append(seconds(lambda: [np.sort(row) for row in logits]))
        if len(sampling) >= 7 and min(sampling) < min(sorting) * 0.75:
            return
    assert min(sampling) < min(sorting) * 0.75
