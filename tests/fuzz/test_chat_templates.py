"""Chat templates of any text."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from llmasos.runtime.chat_template import ChatTemplate

PIECES = st.sampled_from([
    "{{", "}}", "{%", "%}", " for a in ", "messages", "range(9999)", " endfor ", " if ", " endif ", " set x = ", "x", "'a'", "*", "**", "~",
    "+", "|", "join", "list", "center(", "999999", ")", "(", ".", "[", "]", "loop", "tojson", "macro f() ", " endmacro ", "f()", "%", "-",
    "raise_exception('no')", "namespace(x=1)", "__class__", "break", "replace", "format", "'%d'", "{#", "#}", " is ", "defined", "\n",
    "strftime_now('%Y')",
])  # fmt: skip


def test_templates_of_any_pieces(fuzz, tmp_path: Path) -> None:
    def case(source, contained) -> None:
        with contained:
            ChatTemplate(source, {"bos_token": "<s>"}, "here").render([{"role": "user", "content": "hello"}])

    fuzz(case, st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=60), folder=tmp_path)
