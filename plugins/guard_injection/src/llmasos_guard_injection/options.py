"""The options of the guard."""

from __future__ import annotations

import attrs

from llmasos_hookspecs.guards import STAGES

#: What is looked for in prompts and results of tools -> what the reason of a block says.
KINDS = {
    "control_tokens": "it holds control tokens of a chat template",
    "hidden_text": "it holds characters that hide text",
    "attacks": "it tries to change or reveal the instructions of the model",
    "documents": "it holds instructions for a model that reads it",
}


@attrs.frozen(kw_only=True)
class Options:
    """Options of the guard ``injection``."""

    kinds: tuple[str, ...] = attrs.field(
        default=tuple(KINDS),
        validator=attrs.validators.deep_iterable(attrs.validators.in_(tuple(KINDS))),
        metadata={"help": "What is looked for in prompts and results of tools; all kinds by default."},
    )
    hidden: str = attrs.field(
        default="remove",
        validator=attrs.validators.in_(("remove", "block")),
        metadata={"help": "`remove` takes hidden characters out of a text, `block` refuses it."},
    )
    canary: str = attrs.field(
        default="",
        metadata={"help": "A random text in the system prompt, of 8 letters and digits or more; what holds it is blocked."},
    )
    stages: tuple[str, ...] = attrs.field(
        default=STAGES,
        validator=[attrs.validators.min_len(1), attrs.validators.deep_iterable(attrs.validators.in_(STAGES))],
        metadata={"help": "Where the guard looks; for the canary in `output` and `tool_call`, for the rest in the others."},
    )

    @canary.validator
    def _long_enough(self, _attribute: object, value: str) -> None:
        if value and sum(each.isalnum() for each in value) < 8:
            raise ValueError("canary has fewer than 8 letters and digits, which an answer could hold by chance; take a longer random text")
