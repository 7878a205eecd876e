"""``data:`` URLs: images within a text, as OpenAI's ``image_url`` has them."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from llmasos_hookspecs import RequestError

_HEAD: Final = re.compile(r"data:[\w.+-]*(?:/[\w.+-]*)?(?:;[\w.+-]+=[\w.+-]*)*;base64,", re.IGNORECASE | re.ASCII)
_LONGEST_HEAD: Final = 256
#: Characters of a URL in an error.
_LONGEST_SHOWN: Final = 60


def data_of(url: str, where: str, limit: int) -> bytes:
    """The bytes of a ``data:`` URL in base64.

    Raises:
        RequestError: it is another URL, which is never fetched, no base64, or of more than ``limit`` bytes, which is found before decoding.
    """
    head = _HEAD.match(url[:_LONGEST_HEAD])
    if head is None:
        raise RequestError(f"{where} is {_shown(url)}; give it as data:image/png;base64,... since nothing is fetched from elsewhere.")
    if (len(url) - head.end()) // 4 * 3 > limit + 2:
        raise RequestError(f"{where} has more than {limit} bytes; give a smaller one.")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{where} is a data: URL whose data are no base64 ({error}).") from error


def _shown(url: str) -> str:
    return repr(url if len(url) <= _LONGEST_SHOWN else f"{url[:_LONGEST_SHOWN]}...")
