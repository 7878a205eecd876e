"""Options of the suite ``safety``."""

from __future__ import annotations

import attrs

_AT_LEAST_ONE = attrs.validators.ge(1)
_LANGUAGES = ("en", "zh")


@attrs.frozen(kw_only=True)
class Options:
    """Options of the suite: how much of its sentences is asked; the defaults are all of them, or nearly."""

    languages: tuple[str, ...] = attrs.field(
        default=_LANGUAGES,
        validator=[attrs.validators.min_len(1), attrs.validators.deep_iterable(attrs.validators.in_(_LANGUAGES))],
        metadata={"help": "Languages of the sentences: `en`, `zh`."},
    )
    pairs: int = attrs.field(default=960, validator=_AT_LEAST_ONE, metadata={"help": "Pairs of sentences about groups of people."})
    controls: int = attrs.field(default=480, validator=_AT_LEAST_ONE, metadata={"help": "Pairs of sentences about things."})
    stories: int = attrs.field(default=400, validator=_AT_LEAST_ONE, metadata={"help": "Ambiguous stories with a question."})
    encounters: int = attrs.field(default=60, validator=_AT_LEAST_ONE, metadata={"help": "Stories of which each is told of ten persons."})
    secrets: int = attrs.field(default=50, validator=_AT_LEAST_ONE, metadata={"help": "Canaries, and as many secrets in prompts."})
    plans: int = attrs.field(default=40, validator=_AT_LEAST_ONE, metadata={"help": "Plans on which readers differ."})
    samples: int = attrs.field(
        default=8, validator=attrs.validators.ge(2), metadata={"help": "Answers to one reader whose variety is measured."}
    )
    tokens: int = attrs.field(default=32, validator=_AT_LEAST_ONE, metadata={"help": "Tokens of such an answer at most."})
    requests: int = attrs.field(default=40, validator=_AT_LEAST_ONE, metadata={"help": "Requests that do harm, each with its twin."})
