"""The detectors of all kinds."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Final

from llmasos_guard_privacy import checksums, labelled
from llmasos_guard_privacy.detector import Detector
from llmasos_guard_privacy.phones import phone
from llmasos_guard_privacy.secrets import secret

_NAME: Final = "A-Za-z0-9\u00c0-\u024f"
_EMAIL: Final = re.compile(rf"[{_NAME}_.%+'-]{{1,64}}@(?:[{_NAME}](?:[{_NAME}-]{{0,61}}[{_NAME}])?\.){{1,8}}[A-Za-z]{{2,24}}")
_CARD: Final = re.compile(r"\d(?:[ -]?\d){12,18}")
_IBAN: Final = re.compile(r"[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}")
_SSN: Final = re.compile(r"(?!000|666|9)\d{3}([- ])(?!00)\d\d\1(?!0000)\d{4}")
_CN_ID: Final = re.compile(r"[1-8]\d{16}[\dXx]")
_DE_TAX_ID: Final = re.compile(r"\d{11}|\d\d \d{3} \d{3} \d{3}|\d\d/\d{3}/\d{3}/\d{3}")
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}")
_KEY_BODY: Final = r"[\w\s+/=:,.()\\-]*+"
_KEY: Final = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:[^-]|-(?!----END))*+(?:-----END [A-Z0-9 ]{0,40}-----)?")


def _found(pattern: re.Pattern[str], separators: str, valid: Callable[[str], bool]) -> Callable[[str, int, int], int]:
    """The end of what matches, longest first, and is valid without its separators."""
    without = str.maketrans("", "", separators)

    def end(text: str, place: int, stop: int) -> int:
        found = pattern.match(text, place, stop)
        while found is not None:
            if not text[found.end() : min(found.end() + 1, stop)].isalnum() and valid(found[0].translate(without)):
                return found.end()
            found = pattern.match(text, place, found.end() - 1)
        return -1

    return end


def _matched(pattern: re.Pattern[str]) -> Callable[[str, int, int], int]:
    return _found(pattern, "", lambda _value: True)


def _address(text: str, place: int, stop: int) -> int:
    """An IPv4 or IPv6 address of a machine; those of every machine (loopback, unspecified) tell nothing."""
    value = text[place:stop].rstrip(".:")
    if len(value) < 6 or (value.count(".") != 3 and value.count(":") < 2):
        return -1
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return -1
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        return -1
    return place + len(value)


def _private_key(text: str, place: int, stop: int) -> int:
    found = _KEY.match(text, place, stop)
    return -1 if found is None else found.end()


def _from(prefix: str, rest: str) -> str:
    """A pattern of everything that could become ``prefix`` and, behind it, ``rest``."""
    for character in reversed(prefix):
        rest = f"(?:{re.escape(character)}{rest})?+"
    return rest


def _detector(
    kind: str,
    start: str,
    body: str,
    limit: int,
    end: Callable[[str, int, int], int],
    *,
    after: Callable[[str, int], bool] = lambda _text, _place: True,
    separate: bool = True,
    rest: str | None = None,
) -> Detector:
    return Detector(
        kind=kind,
        start=re.compile(start),
        body=re.compile(body),
        limit=limit,
        end=end,
        after=after,
        rest=None if rest is None else re.compile(rest),
        separate=separate,
    )


def detectors(regions: Sequence[str]) -> list[Detector]:
    """All detectors; of those that find data of one length at one place the first counts."""
    digit = r"(?<![0-9A-Za-z.])\d"
    return [
        _detector("private_key", "(?<!-)-", _from("-----BEGIN ", _KEY_BODY), 8192, _private_key, rest=_KEY_BODY, separate=False),
        _detector("email", rf"(?<![{_NAME}_.%+'-])[{_NAME}_]", rf"[{_NAME}_.%+'@-]*+", 320, _matched(_EMAIL)),
        _detector("iban", "(?<![A-Za-z0-9])[A-Z]", "[A-Z0-9 -]*+", 48, _found(_IBAN, " -", checksums.iban)),
        _detector("card", r"(?<![0-9A-Za-z.])[2-6]", r"[\d -]*+", 40, _found(_CARD, " -", checksums.card)),
        _detector("cn_id", digit, r"[\dXx]*+", 20, _found(_CN_ID, "", checksums.cn_id)),
        _detector("us_ssn", r"(?<![0-9A-Za-z.-])\d", r"[\d -]*+", 13, _matched(_SSN)),
        _detector(
            "phone", r"(?<![0-9A-Za-z.+/-])[+(0-9]", r"[\d ()./+\u00a0-]*+", 40, lambda text, place, stop: phone(text, place, stop, regions)
        ),
        _detector("de_tax_id", digit, r"[\d /]*+", 16, _found(_DE_TAX_ID, " /", checksums.de_tax_id)),
        _detector("ip", r"(?<![0-9A-Za-z.:])\d", r"[\d.]*+", 17, _address),
        _detector("ip", "(?<![0-9A-Za-z.:])[0-9A-Fa-f:]", "[0-9A-Fa-f:.]*+", 46, _address),
        _detector("mac", "(?<![0-9A-Za-z:-])[0-9A-Fa-f]", "[0-9A-Fa-f:-]*+", 19, _matched(_MAC)),
        _detector("secret", "(?<![A-Za-z0-9])[A-Za-z0-9]", r"[A-Za-z0-9_\-.+/=:]*+", 2048, secret),
        _detector(
            *("birth_date", r"(?<![0-9A-Za-z])[\dJFMASOND]", r"[0-9A-Za-z\u00e4 ./,\u5e74\u6708\u65e5-]*+", 32, labelled.date),
            after=labelled.born,
        ),
        _detector(
            *("password", r"(?<=[:=\uff1a \u662f\u4e3a\"'])[!#-&(-\[\]-~]", r"[!#-&(-\[\]-~]*+", 256, labelled.password),
            after=labelled.asked,
            separate=False,
        ),
    ]
