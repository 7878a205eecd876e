"""A JSON object that a user wrote is read, or refused in one sentence that says where it stands."""

import pytest

from llmasos_hookspecs import RequestError
from llmasos_hookspecs.json_object import read_object


def test_an_object_is_read() -> None:
    assert read_object('{"text": "天气", "n": [1]}', "--example") == {"text": "天气", "n": [1]}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"text"', "^--example is no JSON: "),
        ("[" * 200_000, r"^--example is no JSON: it is nested too deep\.$"),
        ("[1]", r"^--example is list, and it must be a JSON object\.$"),
        ("null", r"^--example is NoneType, and it must be a JSON object\.$"),
    ],
)
def test_what_is_no_object_is_refused(text: str, match: str) -> None:
    with pytest.raises(RequestError, match=match):
        read_object(text, "--example")
