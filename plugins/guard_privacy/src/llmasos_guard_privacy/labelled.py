"""Dates of birth and passwords: data that only the words before them tell from others."""

from __future__ import annotations

import re
from typing import Final

from llmasos_guard_privacy.detector import CONTEXT

_BIRTH: Final = re.compile(
    r"(?:\bborn\b|birth|\bdob\b|\bd\.o\.b|geboren|geburts|\bgeb\.|\u51fa\u751f|\u751f\u65e5|\u751f\u4e8e)[^\d\n]{0,24}\Z", re.IGNORECASE
)
_MONTH: Final = r"(?:Jan|Feb|M[aä]r|Apr|Ma[iy]|Jun|Jul|Aug|Sep|O[ck]t|Nov|De[cz])[a-zä]*\.?"
_DATE: Final = re.compile(
    r"\d{4} ?[-/.\u5e74] ?\d{1,2} ?[-/.\u6708] ?\d{1,2}(?: ?\u65e5)?"
    r"|\d{1,2}[./-] ?\d{1,2}[./-] ?(?:\d{4}|\d\d)"
    rf"|\d{{1,2}}(?:st|nd|rd|th|\.)? (?:of )?{_MONTH},? \d{{4}}"
    rf"|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}"
)
_PASSWORD: Final = re.compile(
    r"(?:pass(?:word|wort|phrase|code)|\bpwd|kennwort|api[_ -]?key|secret[_ -]?key|access[_ -]?key|\u5bc6\u7801|\u53e3\u4ee4)"
    r"[\"']?(?: ?[:=\uff1a] ?| is:? | ist:? | lautet:? | ?[\u662f\u4e3a] ?)[\"']?\Z",
    re.IGNORECASE,
)
_VALUE: Final = re.compile(r"[!#-&(-\[\]-~]{4,}")


def born(text: str, place: int) -> bool:
    """Whether what stands before says that a date of birth follows."""
    return _BIRTH.search(text, max(0, place - CONTEXT), place) is not None


def date(text: str, place: int, stop: int) -> int:
    """Where the date ends that begins at ``place``, or -1."""
    found = _DATE.match(text, place, stop)
    return -1 if found is None else found.end()


def asked(text: str, place: int) -> bool:
    """Whether what stands before says that a password follows."""
    return _PASSWORD.search(text, max(0, place - CONTEXT), place) is not None


def password(text: str, place: int, stop: int) -> int:
    """Where the password ends that begins at ``place``, or -1: a word of letters alone is none, as in `the password is wrong`."""
    found = _VALUE.match(text, place, stop)
    if found is None:
        return -1
    value = found[0] if stop - place >= found.end() - place == 256 else found[0].rstrip(".,;!?)")
    return place + len(value) if len(value) >= 4 and not value.isalpha() else -1
