"""Sampling parameters, as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from llmasos_hookspecs.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ConstraintKind = Literal["json_schema", "regex", "choices", "grammar"]


@attrs.frozen
class Constraint:
    """A form that the generated text must have: a JSON Schema (a dict), a regular expression, a list of choices, or a Lark grammar."""

    kind: ConstraintKind
    value: Any

    def __attrs_post_init__(self) -> None:
        # A text would be read as the list of its characters.
        if self.kind == "choices" and (isinstance(self.value, str) or not isinstance(self.value, Iterable)):
            raise RequestError(f"choices is {self.value!r}, and it must be a list of texts.", "choices")


def plain_number(value: Any) -> Any:
    """A numpy scalar as a Python number; any other value unchanged."""
    if value is None or isinstance(value, int | float | str):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value


@attrs.frozen
class Between:
    """Checks that a field is a number from ``low`` to ``high``; ``sentence`` says so in errors."""

    low: float
    high: float
    sentence: str

    def __call__(self, instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise RequestError(f"{attribute.name} is {value!r}, and it must be {self.sentence}.", attribute.name)


@attrs.frozen
class Whole:
    """Checks that a field is a whole number of at least ``low``, or None where it is ``optional``."""

    low: int
    optional: bool = False

    def __call__(self, instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if self.optional and value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int) or value < self.low:
            raise RequestError(f"{attribute.name} is {value!r}, and it must be a whole number of at least {self.low}.", attribute.name)


_PENALTY: Final = Between(-100.0, 100.0, "a number from -100 to 100")


def _stops(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    if value is not None and not isinstance(value, Iterable):
        raise RequestError(f"stop is {value!r}, and it must be a string or a list of strings.", "stop")
    return tuple(value or ())


def _bias(value: Any) -> dict[int, float]:
    """Token ids may be strings of digits, as JSON has its keys."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RequestError(f"logit_bias is a {type(value).__name__}, and it must map token ids to numbers.", "logit_bias")
    found = {}
    for key, number in value.items():
        token = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key
        if isinstance(token, bool) or not isinstance(token, Integral):
            raise RequestError(f"logit_bias has the key {key!r}, and a key must be a token id.", "logit_bias")
        if isinstance(number, bool) or not isinstance(number, Real) or math.isnan(number):
            raise RequestError(f"logit_bias adds {number!r} to token {token}, and it must be a number.", "logit_bias")
        found[int(token)] = float(number)
    return found


def _check_stops(instance: SamplingParams, attribute: attrs.Attribute[Any], value: tuple[Any, ...]) -> None:
    for stop in value:
        if not isinstance(stop, str) or not stop:
            raise RequestError(f"stop holds {stop!r}, and every stop must be a non-empty string.", "stop")


@attrs.frozen(kw_only=True)
class SamplingParams:
    """How tokens are sampled. The defaults are greedy: always the most likely token.

    Penalties and bias change the logits first, then temperature divides them, then top-k, top-p and min-p cut them, in the order of
    transformers' logits processors.

    Attributes:
        temperature: 0 is greedy; above 0 divides the logits.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of most likely tokens whose probability reaches this (Holtzman et al., 2020).
        min_p: keep tokens at least this fraction as likely as the most likely one.
        repetition_penalty: divides positive logits of tokens already seen, prompt included, and multiplies negative ones
            (CTRL, Keskar et al., 2019).
        presence_penalty: subtracted from the logit of each token generated already.
        frequency_penalty: subtracted once for each time a token was generated.
        logit_bias: token id -> number added to its logit.
        seed: makes a request reproducible; None draws a fresh one.
        stop: strings that end the text; they are not part of it.
        ignore_eos: go on past the model's end-of-sequence tokens.
        logprobs: return the log probability of each token, and this many alternatives; None returns none.
        constraint: a form the text must have.
        skip_special_tokens: control tokens add nothing to the text; False writes them, the end-of-sequence tokens excepted.
        prompt_lookup: draft this many tokens a step from earlier text (prompt lookup decoding); 0 is off.
        copying: the text will repeat much of the prompt, as a summary or an edit does; prompt lookup is then used where the engine has the
            feature ``drafts``, which keeps the text the same.
        num_beams: keep this many hypotheses and return the most likely text (beam search); 1 is off.
        length_penalty: of beam search: the log probability is divided by the length to this power; above 0 favours long texts.
    """

    temperature: float = attrs.field(default=0.0, converter=plain_number, validator=Between(0.0, 1e6, "a number of at least 0"))
    top_k: int = attrs.field(default=0, converter=plain_number, validator=Whole(0))
    top_p: float = attrs.field(default=1.0, converter=plain_number, validator=Between(1e-9, 1.0, "a number above 0 and at most 1"))
    min_p: float = attrs.field(default=0.0, converter=plain_number, validator=Between(0.0, 1.0, "a number from 0 to 1"))
    repetition_penalty: float = attrs.field(default=1.0, converter=plain_number, validator=Between(1e-6, 1e6, "a number above 0"))
    presence_penalty: float = attrs.field(default=0.0, converter=plain_number, validator=_PENALTY)
    frequency_penalty: float = attrs.field(default=0.0, converter=plain_number, validator=_PENALTY)
    logit_bias: Mapping[int, float] = attrs.field(factory=dict, converter=_bias)
    seed: int | None = attrs.field(default=None, converter=plain_number, validator=Whole(0, optional=True))
    stop: tuple[str, ...] = attrs.field(default=(), converter=_stops, validator=_check_stops)
    ignore_eos: bool = False
    logprobs: int | None = attrs.field(default=None, converter=plain_number, validator=Whole(0, optional=True))
    constraint: Constraint | None = None
    skip_special_tokens: bool = True
    prompt_lookup: int = attrs.field(default=0, converter=plain_number, validator=Whole(0))
    copying: bool = False
    num_beams: int = attrs.field(default=1, converter=plain_number, validator=Whole(1))
    length_penalty: float = attrs.field(default=1.0, converter=plain_number, validator=_PENALTY)


@attrs.define(kw_only=True, eq=False)  # a frozen one takes twice as long to make, and a step makes one for each row
class Draw:
    """One token that the engine samples on its own device: the ``SamplingParams``, and the sequence's state that they need.

    Inverse transform sampling: the tokens that temperature, top-k, top-p and min-p leave are sorted by id, and the sampled token is the one
    whose interval of the cumulative probability contains ``point``. Of equal logits at the border of top-k all stay; at that of top-p those
    of the lowest ids do. So the same request gets the same token wherever it is sampled, unless ``point`` is within rounding of a border.

    Attributes:
        params: of the request; the engine ignores ``seed``, ``logprobs``, ``constraint`` and the fields after these.
        point: uniform random number in [0, 1).
        seen: int64 [n], the distinct tokens of prompt and text, for ``repetition_penalty``; empty where that is 1.
        generated: int64 [m], the distinct tokens of the text, for ``presence_penalty`` and ``frequency_penalty``; empty where both are 0.
        counts: float32 [m], how often each of ``generated`` was generated.
    """

    params: SamplingParams
    point: float
    seen: npt.NDArray[np.int64]
    generated: npt.NDArray[np.int64]
    counts: npt.NDArray[np.float32]
