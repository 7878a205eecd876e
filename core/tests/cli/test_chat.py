"""Conversations: at a terminal (a pseudo-terminal that the test types into) and through pipes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from core.tests.cli.fork_server import LLMASOS
from core.tests.forked_children import ForkedChild

from llmasos_conversations.store import ConversationStore

pytestmark = pytest.mark.slow

#: Seconds after which something that must come has not come.
PATIENCE = 60.0
#: The command line in a session of its own, whose controlling terminal its standard input is: only then is Ctrl-C a signal.
AT_TERMINAL = f"""
import fcntl, os, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
{LLMASOS}
"""


@attrs.define
class Terminal:
    """One end of a pseudo-terminal, with ``llmasos chat`` at the other."""

    process: ForkedChild
    file: int
    seen: str = ""

    def shows(self, pattern: str, *, after: str) -> bool:
        """Whether the pattern comes within a second after a key; what came is not forgotten."""
        self.send(after)
        with contextlib.suppress(AssertionError):
            self.seen = self.expect(pattern, patience=1.0) + self.seen
        return re.search(pattern, self.seen) is not None

    def expect(self, pattern: str, *, patience: float = PATIENCE) -> str:
        """Read until the pattern comes; returns what came up to its end, and forgets it."""
        until = time.monotonic() + patience
        while (found := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < until, f"{pattern!r} never came after {self.seen!r}"
            if not select.select([self.file], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self.file, 65536)
            except OSError:  # the other end is closed
                data = b""
            assert data, f"The conversation ended before {pattern!r} came, after {self.seen!r}"
            self.seen += data.decode(errors="replace")
        text, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return text

    def send(self, text: str) -> None:
        os.write(self.file, text.encode())

    def end(self) -> int:
        """The exit code; what is still written is thrown away, so that nobody waits for a full terminal."""
        while self.process.poll() is None:
            if select.select([self.file], [], [], 0.05)[0]:
                try:
                    os.read(self.file, 65536)
                except OSError:
                    break
        return self.process.wait(PATIENCE)


@pytest.fixture
def own(cli, home) -> Path:
    """A home of one test's own, for conversations, which shares with the others' what was built."""
    (home / "cache").mkdir(exist_ok=True)
    (cli.folder / "home").mkdir()
    (cli.folder / "home" / "cache").symlink_to(home / "cache")
    return cli.folder / "home"


@pytest.fixture
def terminal(cli, model, own) -> Iterator[Terminal]:
    """A conversation that is ready for the first message."""
    ours, theirs = pty.openpty()
    env = {**cli.env, "LLMASOS_HOME": str(own), "TERM": "dumb"}
    process = cli.start("chat", *model, "-n", "8", code=AT_TERMINAL, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    talk = Terminal(process, ours)
    talk.expect(r"/help lists the commands.*\n")
    talk.expect("> ")
    yield talk
    if process.poll() is None:
        process.kill()
    process.wait()
    os.close(ours)


def conversation(home: Path, name: str) -> list[dict[str, str]]:
    """The messages of a kept conversation."""
    return list(ConversationStore(home / "data" / "conversations").find(name).messages)


def test_a_conversation_is_kept_and_resumed(terminal, cli, model, own):
    """Two turns, several lines, saved, listed, and resumed by another process; Ctrl-D ends with 0."""
    terminal.send("Hello\n")
    terminal.expect("\n> ")
    terminal.send('"""two\n')
    terminal.expect(r"\.\.\. ")
    terminal.send('lines"""\n')
    terminal.expect("\n> ")
    terminal.send("/save first\n")
    terminal.expect(r"Kept as first; .*\n> ")
    terminal.send("/list\n")
    terminal.expect(r"first  \(2 turns\)  Hello\r?\n> ")
    terminal.send("/undo\n")
    terminal.expect("\n> ")
    terminal.send("\x04")
    assert terminal.end() == 0
    shown = cli("chat", "--resume", "first", *model, "-n", "4", stdin="/history\nMore\n/exit\n", LLMASOS_HOME=str(own))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("user: Hello\nassistant: ")
    kept = conversation(own, "first")
    assert [each["content"] for each in kept if each["role"] == "user"] == ["Hello", "More"]
    assert "Hello" in (own / "data" / "chat_history").read_text()


def test_an_interrupted_reply_keeps_what_was_shown(terminal, own):
    """Ctrl-C in a reply ends the reply and not the conversation."""
    terminal.send("/set max_new_tokens 900\n")
    terminal.expect("\n> ")
    terminal.send("/set ignore_eos true\n")
    terminal.expect("\n> ")
    for _ in range(10):
        terminal.send("Hello\n")
        terminal.expect(r"Hello\r?\n")
        terminal.expect(r"[\s\S]{20}")
        terminal.send("\x03")
        if "[interrupted]" in terminal.expect(r"\n> "):
            break
        # The reply was whole before Ctrl-C came: once more.
        terminal.send("/undo\n/history\n")
        terminal.expect(r"/history\r?\n> ")
    terminal.send("/save cut\n")
    terminal.expect(r"Kept as cut; .*\n> ")
    terminal.send("/exit\n")
    assert terminal.end() == 0
    messages = conversation(own, "cut")
    assert [each["role"] for each in messages] == ["user", "assistant"]
    assert messages[1]["content"]


def test_ctrl_c_at_the_prompt_harms_nothing(terminal):
    """A line that is given up is no message, and an unknown command is told with the nearest one."""
    terminal.send("half a mess")
    terminal.expect("half a mess")
    # Between two keys readline overlooks a signal until the next one comes.
    while not terminal.shows("> ", after="\x03"):
        pass
    terminal.send("/hepl\n")
    terminal.expect(r'/hepl is no command; did you mean "/help"\?\r?\n> ')
    terminal.send("/history\n")
    assert "half" not in terminal.expect("\n> ")
    terminal.send("/set\n")
    terminal.expect("max_new_tokens 8\r?\n> ")
    terminal.send("/exit\n")
    assert terminal.end() == 0


def test_commands_through_a_pipe(cli, model, own):
    """A script can talk too: its answers are all that is on standard output, and a refused command harms nothing."""
    script = "/set temperature hot\n/save ../x\n/load none\nHello\n/retry\n/system Be brief.\n/history\n/new\n/history\n"
    done = cli("chat", *model, "-n", "4", stdin=script, LLMASOS_HOME=str(own))
    assert done.returncode == 0
    assert [line.partition(",")[0].partition(";")[0] for line in done.stderr.splitlines()] == [
        "Error: temperature is 'hot'",
        'Error: "../x" cannot name a conversation',
        'Error: There is no conversation "none".',
    ]
    assert done.stdout.count("system: Be brief.\n") == 2
    assert "user:" not in done.stdout


def test_one_message_is_answered_and_kept_with_a_resumed_conversation(cli, model, own):
    """``chat MESSAGE`` answers once; with --resume both are added to the kept conversation."""
    home = str(own)
    assert cli("chat", *model, "-n", "4", stdin="Hello\n/save it\n", LLMASOS_HOME=home).returncode == 0
    reply = json.loads(cli("chat", "More", "--resume", "it", *model, "-n", "4", "--json", LLMASOS_HOME=home).stdout)
    assert reply["finish_reason"] == "length"
    assert [each["role"] for each in conversation(own, "it")] == ["user", "assistant"] * 2
    (own / "data" / "conversations" / "conversations.db").write_text("no database" * 100)
    damaged = cli("chat", "More", "--resume", "it", *model, LLMASOS_HOME=home)
    assert damaged.returncode == 1
    assert "move a damaged file away" in damaged.stderr


def test_the_oldest_turns_make_room(cli, model):
    """A conversation that outgrows the context goes on, and says what it leaves out."""
    long = "word " * 60
    done = cli("chat", *model, "-n", "4", stdin=f"{long}\n" * 5)
    assert done.returncode == 0
    assert "oldest turns do not fit the context" in done.stderr
    refused = cli("chat", *model, "-n", "4", stdin="word " * 400 + "\n")
    assert "does not fit the model's context of 1024 tokens" in refused.stderr
