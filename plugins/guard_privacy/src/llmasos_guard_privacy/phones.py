"""Phone numbers, by the rules of `phonenumbers`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_NUMBER: Final = re.compile(r"(?:\+|\()?\d(?:[ ()./\u00a0-]{0,3}\d){6,17}")
#: Without a country code a number must look like one: a trunk prefix, an area code set apart, or a Chinese mobile number.
_NATIONAL: Final = re.compile(
    r"\(?0\d[\d ()./\u00a0-]+"
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}"
    r"|1[3-9]\d[ -]?\d{4}[ -]?\d{4}"
)
_DATE: Final = re.compile(r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{4}[./-]\d{1,2}[./-]\d{1,2}")


def phone(text: str, place: int, stop: int, regions: Sequence[str]) -> int:
    """Where the phone number ends that begins at ``place``, or -1."""
    longest = _NUMBER.match(text, place, stop)
    if longest is None:
        return -1
    for end in range(longest.end(), place + 6, -1):
        if text[end - 1].isdigit() and not text[end : min(end + 1, stop)].isdigit() and _valid(text[place:end], regions):
            return end
    return -1


def _valid(number: str, regions: Sequence[str]) -> bool:
    import phonenumbers

    if number.startswith("00"):
        number = f"+{number[2:]}"
    if number.startswith("+"):
        regions = ("ZZ",)
    elif _NATIONAL.fullmatch(number) is None or _DATE.fullmatch(number) is not None:
        return False
    for region in regions:
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(number, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False
