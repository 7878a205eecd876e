"""Plain words, in which no detector finds anything: most of what a model writes passes without asking each of them."""

from __future__ import annotations

import re
from typing import Final

#: Every kind of data holds a digit, ``@``, ``:``, ``-``, a token of 20 characters or more without a break, or stands behind a word of
#: ``_ASKING``. So words of fewer letters hold none, and none begins in them, once a character behind them belongs to no data.
_PLAIN: Final = re.compile(
    r"(?:[A-Za-z\u00c0-\u024f.']{0,19}+[ ,;!?\n\u4e00-\u9fff\u3002\uff0c\uff01\uff1f])*+()[A-Za-z\u00c0-\u024f.']{0,19}+"
)
#: Parts of the words behind which a date of birth or a password follows.
_ASKING: Final = re.compile(
    r"born|birth|dob|d\.o\.b|gebor|geburts|geb\.|\u51fa\u751f|\u751f\u65e5|\u751f\u4e8e|pass|pwd|kennw|key|\u5bc6\u7801|\u53e3\u4ee4",
    re.IGNORECASE,
)
_LONGEST: Final = 7  # of them


def asks(text: str, place: int = 0) -> bool:
    """Whether a word that says what follows ends behind ``place``."""
    return _ASKING.search(text, max(0, place - _LONGEST)) is not None


def plain_end(text: str, place: int) -> int:
    """Where the plain words end that are complete, if all from ``place`` on is plain; -1 if not. What stands before must not ask."""
    found = _PLAIN.fullmatch(text, place)
    return -1 if found is None or asks(text, place) else found.start(1)
