"""Errors of ours are one line that can be printed, whatever a file's names hold."""

from __future__ import annotations

import pytest

from llmasos_hookspecs import CheckpointError, ConfigError, LLMasOSError


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\r\x1b[2Jb", r"a\r\x1b[2Jb"),
        ("half \ud800", r"half \ud800"),
        ("turned \u202e round", r"turned \u202e round"),
        ("line\u2028break", r"line\u2028break"),
        ("天气 🙂 C:\\x 'y'", "天气 🙂 C:\\x 'y'"),
    ],
)
@pytest.mark.parametrize("kind", [LLMasOSError, CheckpointError, ConfigError])
def test_what_cannot_be_printed_is_shown_escaped(name: str, shown: str, kind: type[LLMasOSError]) -> None:
    text = str(kind(f"The file names {name}; get it again."))
    assert text == f"The file names {shown}; get it again."
    text.encode("utf-8")
