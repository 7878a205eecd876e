"""Characters that are not seen and carry or disguise text."""

from __future__ import annotations

import re
from typing import Final

#: A flag of a region is written with characters of the tags block, and stays.
_FLAG: Final = "\U0001f3f4[\U000e0030-\U000e007a]{2,6}\U000e007f"
_HIDDEN: Final = re.compile(
    f"({_FLAG})"
    "|[\U000e0000-\U000e007f]"  # the tags block: ASCII that is not shown
    "|[\U000e0100-\U000e01ef]{2,}|[\ufe00-\ufe0f]{2,}"  # variation selectors in a row carry bytes
    "|[\u200b\u2060-\u2064\ufeff\u180e\u00ad]"  # no width
    "|[\u202a-\u202e\u2066-\u2069]"  # text runs in another direction than it is read
    "|(?<=[a-zA-Z])[\u200c\u200d](?=[a-zA-Z])"  # joiners, which scripts and emoji need, and Latin letters do not
)


def without_hidden(text: str) -> str:
    """The text without them."""
    return _HIDDEN.sub(lambda found: found[1] or "", text)
