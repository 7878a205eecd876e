"""Personal data of every kind, invented or published as specimens, in sentences of three languages."""

from __future__ import annotations

from typing import Final

#: Kind -> values.
VALUES: Final = {
    "email": ("mia.otter@example.org", "j_k+news@mail.example.co.uk", "r2d2@example.com", "büro@beispiel.example"),
    "phone": ("+49 30 901820", "+86 138 1234 5678", "(212) 736-5000", "030 901820", "13912345678", "+1-650-253-0000"),
    "card": ("4111 1111 1111 1111", "5555555555554444", "378282246310005", "6011-1111-1111-1117", "6200 0000 0000 0005"),
    "iban": ("DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "FR14 2004 1010 0505 0001 3M02 606"),
    "us_ssn": ("123-45-6789", "536-90-4399", "219 09 9999"),
    "cn_id": ("11010519491231002X", "440524188001010014"),
    "de_tax_id": ("86095742719", "65 929 970 489", "26954371827"),
    "ip": ("203.0.113.7", "192.168.17.44", "2001:db8::8a2e:370:7334", "fe80::1c2d:3e4f"),
    "mac": ("00:1A:2B:3C:4D:5E", "a0-b1-c2-d3-e4-f5"),
    "secret": (
        "AKIAIOSFODNN7" + "EXAMPLE",
        "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8",
        "sk_" + "live_" + "0a1b2c3d4e5f6g7h8i9j0k1l",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJvdHRlciJ9.c2lnbmF0dXJl",
        "sk-" + "proj-" + "Ab12Cd34Ef56Gh78Ij90Kl",
        "hf_" + "OtterOtterOtterOtterOtterOtter12",
    ),
    "private_key": (
        "-----BEGIN " + "PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIOtterOtterOtter\n-----END PRIVATE KEY-----",
        "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEowIBAAKCAQEA1234\nabcd+/==\n-----END RSA PRIVATE KEY-----",
    ),
    "password": ("hunter2", "Otter!2024", "s3cr3t_Fish"),
    "birth_date": (),
}
#: Language -> sentences around a value.
SENTENCES: Final = {
    "en": (
        "Please note {}, and go on.",
        "I gave them {} yesterday; was that right?",
        "{} is what the form says.",
        "The entry ({}) is old.",
    ),
    "de": (
        "Bitte notiere {}, danke.",
        "Ich habe gestern {} angegeben; war das richtig?",
        "{} steht im Formular.",
        "Der Eintrag ({}) ist alt.",
    ),
    "zh": ("请记下{}，谢谢。", "我昨天填写了{}，对吗？", "{}是表格上写的。", "这条记录（{}）很旧。"),
}
#: Those of data that the words before it tell.
LABELLED: Final = {
    ("password", "en"): ("The password is {}, please change it.", "password: {}", "Use passphrase={} for this."),
    ("password", "de"): ("Das Passwort lautet {}, bitte ändern.", "Passwort: {}", "Mein Kennwort ist {}."),
    ("password", "zh"): ("密码是{}，请修改。", "密码：{}", "登录口令为{}。"),
    ("birth_date", "en"): ("She was born on {}, in spring.", "Date of birth: {}", "DOB {}; see the file."),
    ("birth_date", "de"): ("Er wurde geboren am {} in Bonn.", "Geburtsdatum: {}", "Geboren wurde sie am {}."),
    ("birth_date", "zh"): ("出生日期：{}。", "他出生于{}，在北京。", "生日是{}，请核对。"),
}
DATES: Final = {
    "en": ("3 May 1980", "May 3rd, 1980", "1980-05-03", "05/03/1980"),
    "de": ("3. Mai 1980", "03.05.1980", "1. März 1975"),
    "zh": ("1980年5月3日", "1980-05-03", "1975年12月1日"),
}


def planted() -> list[tuple[str, str, str, str]]:
    """``(kind, language, value, text)`` for all of them."""
    return [
        (kind, language, value, sentence.format(value))
        for kind, values in VALUES.items()
        for language, plain in SENTENCES.items()
        for value in (DATES[language] if kind == "birth_date" else values)
        for sentence in LABELLED.get((kind, language), plain)
    ]
