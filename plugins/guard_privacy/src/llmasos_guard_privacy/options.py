"""The options of the guard."""

from __future__ import annotations

from typing import Any

import attrs

from llmasos_guard_privacy.kinds import KINDS
from llmasos_hookspecs.guards import STAGES


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
        validator=attrs.validators.in_(("redact", "block")),
        metadata={"help": "`redact` puts a placeholder in its place, `block` refuses the text."},
    )
    placeholder: str = attrs.field(
        default="[{kind}_{number}]",
        validator=attrs.validators.matches_re(r'[^"\\\x00-\x1f]+'),
        metadata={
            "help": "What stands in its place: {kind} is the kind in capitals, {number} counts different values of a kind in a text."
        },
    )
    regions: tuple[str, ...] = attrs.field(
        default=("US", "CN", "DE"),
        validator=attrs.validators.deep_iterable(attrs.validators.matches_re("[A-Z]{2}")),
        metadata={"help": "Countries (ISO 3166) whose phone numbers are found without their country code."},
    )
    stages: tuple[str, ...] = attrs.field(default=STAGES, validator=_some_of(STAGES), metadata={"help": "Where the guard looks."})
