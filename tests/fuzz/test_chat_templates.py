"""Chat templates of any text."""

from __future__ import annotations

from pathlib import Path

from benchmarks.fuzz.targets.texts import PIECES
from hypothesis import strategies as st

from llmasos_chat_templates.template import ChatTemplate


def test_templates_of_any_pieces(fuzz, tmp_path: Path) -> None:
    def case(source, contained) -> None:
        with contained:
            ChatTemplate(source, {"bos_token": "<s>"}, "here").render([{"role": "user", "content": "hello"}])

    fuzz(case, st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=60), folder=tmp_path)
