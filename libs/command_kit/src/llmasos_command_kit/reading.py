"""What the user types: messages of one line or several, with editing and history at a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from llmasos_hookspecs import CommandContext, LLMasOSError, RequestError

#: Begins and ends a message of several lines.
MULTILINE: Final = '"""'
#: Lines of the history that are kept.
_HISTORY: Final = 1000


def read_message(interrupted: Callable[[], None]) -> str | None:
    """The next message or command; None at the end of the input, and an empty text after Ctrl-C, of which ``interrupted`` is told.

    Raises ``RequestError`` where the input is not in UTF-8.
    """
    prompt = "> " if sys.stdin.isatty() and sys.stdout.isatty() else ""
    lines: list[str] = []
    try:
        line = input(prompt)
        if not line.startswith(MULTILINE):
            return line
        lines.append(line.removeprefix(MULTILINE))
        while not lines[-1].endswith(MULTILINE):
            lines.append(input("... " if prompt else ""))
        lines[-1] = lines[-1].removesuffix(MULTILINE)
        return "\n".join(lines)
    except EOFError:
        return "\n".join(lines) if lines else None
    except UnicodeDecodeError as error:
        raise RequestError(f"The message is not in UTF-8 ({error.reason}).") from error
    except KeyboardInterrupt:
        interrupted()
        return ""


def read_messages(
    context: CommandContext,
    history: Path,
    greeting: str,
    *,
    say: Callable[[str], object],
    command: Callable[[str], bool],
    interrupted: str = " [interrupted]",
) -> None:
    """Read messages and commands until the user ends; what is refused is told.

    Args:
        history: keeps what was typed at a terminal.
        greeting: is told first at a terminal.
        say: gets each message.
        command: gets each line that begins with ``/``; True: end.
        interrupted: is told where Ctrl-C ends one of them.
    """
    with contextlib.ExitStack() as opened:
        if sys.stdin.isatty():
            opened.enter_context(line_editing(history))
            context.note(greeting)
        while (text := read_message(lambda: context.note(""))) is not None:
            if not text.strip():
                continue
            try:
                if not text.startswith("/"):
                    say(text)
                elif command(text.strip()):
                    break
            except LLMasOSError as error:
                context.note(f"Error: {error}")
            except KeyboardInterrupt:  # perhaps when what it was meant for had just ended
                context.note(interrupted)


@contextlib.contextmanager
def line_editing(file: Path) -> Iterator[None]:
    """Editing and history for ``input``, kept in ``file`` from one conversation to the next; nothing where Python lacks readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        readline.set_history_length(_HISTORY)
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
            os.chmod(file, 0o600)
            readline.write_history_file(file)
