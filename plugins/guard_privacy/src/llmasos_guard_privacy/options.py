"""The options of the guard."""

from __future__ import annotations

import re
from typing import Any, Final

import attrs

from llmasos_guard_privacy.kinds import KINDS
from llmasos_hookspecs.guards import STAGES

#: Placeholders that can be told from the text around them.
_REVERSIBLE: Final = re.compile(r"[^\w\s{}][^{}]*\{kind\}[^{}]*[^\d{}][^{}]*\{number\}[^{}]*[^\w\s{}]")


def _some_of(known: tuple[str, ...]) -> Any:
    """A validator: at least one, and each of ``known``."""
    return [
        attrs.validators.min_len(1),
        attrs.validators.deep_iterable(attrs.validators.in_(known)),
    ]


@attrs.frozen(kw_only=True)
class Options:
    """Options of the guard ``privacy``."""

    kinds: tuple[str, ...] = attrs.field(
        default=tuple(KINDS), validator=_some_of(tuple(KINDS)), metadata={"help": "What is looked for; all kinds by default."}
    )
    action: str = attrs.field(
        default="redact",
        validator=attrs.validators.in_(("redact", "block", "placeholders")),
        metadata={
            "help": "`redact` puts a placeholder in its place, `placeholders` also puts the value back into the answer, "
            "`block` refuses the text."
        },
    )
    placeholder: str = attrs.field(
        default="[{kind}_{number}]",
        validator=attrs.validators.matches_re(r'[^"\\\x00-\x1f]+'),
        metadata={
            "help": "What stands in its place: {kind} is the kind in capitals, {number} counts different values of a kind in a text."
        },
    )
    tools: str = attrs.field(
        default="value",
        validator=attrs.validators.in_(("value", "placeholder")),
        metadata={"help": "What tools get where the action is `placeholders`: the `value`, or its `placeholder`."},
    )
    regions: tuple[str, ...] = attrs.field(
        default=("US", "CN", "DE"),
        validator=attrs.validators.deep_iterable(attrs.validators.matches_re("[A-Z]{2}")),
        metadata={"help": "Countries (ISO 3166) whose phone numbers are found without their country code."},
    )
    stages: tuple[str, ...] = attrs.field(default=STAGES, validator=_some_of(STAGES), metadata={"help": "Where the guard looks."})

    @placeholder.validator
    def _can_be_put_back(self, _: object, value: str) -> None:
        if self.action == "placeholders" and _REVERSIBLE.fullmatch(value) is None:
            raise ValueError(
                f"placeholder is {value!r}, and values can be put back only where it holds {{kind}}, then {{number}}, between two "
                "characters that are no letters, as in [{kind}_{number}]"
            )
