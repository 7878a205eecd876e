"""Check digits of cards, bank accounts and identity numbers. Each takes digits without separators."""

from __future__ import annotations

import datetime
from typing import Final

#: Country -> length of its bank account numbers (ISO 13616).
IBAN_LENGTHS: Final = {
    "AD": 24,
    "AE": 23,
    "AL": 28,
    "AT": 20,
    "AZ": 28,
    "BA": 20,
    "BE": 16,
    "BG": 22,
    "BH": 22,
    "BR": 29,
    "BY": 28,
    "CH": 21,
    "CR": 22,
    "CY": 28,
    "CZ": 24,
    "DE": 22,
    "DK": 18,
    "DO": 28,
    "EE": 20,
    "EG": 29,
    "ES": 24,
    "FI": 18,
    "FO": 18,
    "FR": 27,
    "GB": 22,
    "GE": 22,
    "GI": 23,
    "GL": 18,
    "GR": 27,
    "GT": 28,
    "HR": 21,
    "HU": 28,
    "IE": 22,
    "IL": 23,
    "IS": 26,
    "IT": 27,
    "JO": 30,
    "KW": 30,
    "KZ": 20,
    "LB": 28,
    "LI": 21,
    "LT": 20,
    "LU": 20,
    "LV": 21,
    "MC": 27,
    "MD": 24,
    "ME": 22,
    "MK": 19,
    "MR": 27,
    "MT": 31,
    "MU": 30,
    "NL": 18,
    "NO": 15,
    "PK": 24,
    "PL": 28,
    "PS": 29,
    "PT": 25,
    "QA": 29,
    "RO": 24,
    "RS": 22,
    "SA": 24,
    "SE": 24,
    "SI": 19,
    "SK": 24,
    "SM": 27,
    "TN": 24,
    "TR": 26,
    "UA": 29,
    "VA": 22,
    "VG": 24,
    "XK": 20,
}


def luhn(digits: str) -> bool:
    """ISO/IEC 7812: from the right, every second digit doubled, its digits added."""
    doubled = [int(each) * 2 for each in digits[-2::-2]]
    return (sum(int(each) for each in digits[-1::-2]) + sum(each - 9 if each > 9 else each for each in doubled)) % 10 == 0


def card(digits: str) -> bool:
    """A number that an issuer of payment cards gives out, with its check digit."""
    length, two, four = len(digits), int(digits[:2]), int(digits[:4])
    issued = (
        (digits[0] == "4" and length in (13, 16, 19))
        or (length == 16 and (51 <= two <= 55 or 2221 <= four <= 2720 or two == 35))
        or (length == 15 and two in (34, 37))
        or (length == 14 and two in (36, 38))
        or (digits[0] == "6" and 16 <= length <= 19)
    )
    return issued and luhn(digits)


def iban(number: str) -> bool:
    """ISO 13616: the remainder modulo 97 of the rearranged number is 1."""
    if len(number) != IBAN_LENGTHS.get(number[:2]):
        return False
    return int("".join(str(int(each, 36)) for each in number[4:] + number[:4])) % 97 == 1


def cn_id(number: str) -> bool:
    """GB 11643: a date of birth, and a check digit by ISO 7064 MOD 11-2."""
    try:
        datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    weighted = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(number[:17]))
    return "10X98765432"[weighted % 11] == number[17].upper()


def de_tax_id(digits: str) -> bool:
    """Eleven digits: of the first ten, one stands there two or three times; the last is by ISO 7064 MOD 11,10."""
    times = sorted((digits[:10].count(each) for each in set(digits[:10])), reverse=True)
    if digits[0] == "0" or times[0] not in (2, 3) or times[1] > 1:
        return False
    product = 10
    for digit in digits[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[10])
