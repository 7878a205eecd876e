"""The kinds of personal data, and what messages call them."""

from __future__ import annotations

from typing import Final

#: Kind -> what the reason of a block says was found.
KINDS: Final = {
    "email": "an e-mail address",
    "phone": "a phone number",
    "card": "the number of a payment card",
    "iban": "a bank account",
    "us_ssn": "a US social security number",
    "cn_id": "a Chinese resident identity number",
    "de_tax_id": "a German tax identification number",
    "ip": "an IP address",
    "mac": "a hardware address",
    "secret": "a key or token",
    "private_key": "a private key",
    "password": "a password",
    "birth_date": "a date of birth",
}
