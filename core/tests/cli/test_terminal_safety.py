"""What a model, a file or another user said cannot command the terminal, and belongs to the user alone."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

PRINT = """
from llmasos.cli.console import print_result, print_note, print_table
print_result("a\\x1b]0;title\\x07b\\x9b31mc\\td\\ne\\x7f")
print_note("n\\x1b[2J")
print_table(["x"], [["t\\x1b[31mu"]])
"""


def at_a_terminal(code: str) -> bytes:
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "dumb"})
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        said += piece
    process.wait(60)
    os.close(ours)
    return said


def test_control_characters_are_shown_at_a_terminal_and_not_obeyed() -> None:
    said = at_a_terminal(PRINT)
    text = said.decode()
    assert "a␛]0;title␇b\ufffd31mc\td" in text
    assert "n␛[2J" in text
    assert "t␛[31mu" in text
    assert not any(bytes((code,)) in said for code in (0x1B, 0x07, 0x7F))
    assert "\x9b" not in text


def test_a_pipe_gets_what_was_said() -> None:
    done = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, check=True)
    assert b"a\x1b]0;title\x07b" in done.stdout


def test_control_c_while_the_program_starts_prints_no_traceback() -> None:
    code = "import llmasos.cli as c\ndef stop(*_): raise KeyboardInterrupt\nc.invoke = stop\nc.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")
