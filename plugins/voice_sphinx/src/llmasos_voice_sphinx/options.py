"""Options of the transcriber."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen(kw_only=True)
class Options:
    """Options of the transcriber ``sphinx``."""

    commands: tuple[str, ...] = attrs.field(
        default=(), converter=tuple, metadata={"help": "What may be said, each a phrase of English words."}
    )
    grammar: str = attrs.field(default="", metadata={"help": "In place of commands: the path of a grammar in JSGF."})
    words: Mapping[str, str] = attrs.field(
        factory=dict, metadata={"help": "Pronunciations, in ARPAbet, of words that the dictionary lacks."}
    )
    max_seconds: float = attrs.field(default=600.0, validator=attrs.validators.gt(0), metadata={"help": "Longest recording that is taken."})

    def __attrs_post_init__(self) -> None:
        if self.commands and self.grammar:
            raise ValueError("commands and grammar both say what may be said; leave one of them out")
