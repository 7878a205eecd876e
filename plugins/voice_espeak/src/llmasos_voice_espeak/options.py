"""Options of the speaker."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Options:
    """Options of the speaker ``espeak``."""

    voice: str = attrs.field(
        default="en-us",
        validator=attrs.validators.matches_re(r"[A-Za-z][A-Za-z0-9+_-]*"),
        metadata={"help": "A voice of espeak-ng: en-gb, de, fr."},
    )
    speed: int = attrs.field(
        default=160, validator=[attrs.validators.ge(80), attrs.validators.le(450)], metadata={"help": "Words a minute."}
    )
    pitch: int = attrs.field(default=50, validator=[attrs.validators.ge(0), attrs.validators.le(99)], metadata={"help": "0 to 99."})
    program: str = attrs.field(
        default="", metadata={"help": "Path of the program; empty: espeak-ng on the PATH, else the library of the extra wheel."}
    )
