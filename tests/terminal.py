"""A terminal that a test types into, as a person does: a shell inside tmux."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

#: The shell's prompt: the number of the command that is typed next, and the exit code of the one before.
_PROMPT: Final = "<\\#:$?>$ "
_READY: Final = re.compile(r"<(\d+):(\d+)>\$ *$")
#: Seconds between looks at the screen, each of which starts a program.
_POLL: Final = 0.1
#: Columns and lines; what is longer wraps, and is read back as one line.
_SIZE: Final = ("-x", "160", "-y", "50")


class Terminal:
    """One shell, in ``folder``. tmux's server is the test's own, beside any that runs.

    Args:
        environment: the shell's variables.
        seconds: that anything may take, on a machine that does much else.
    """

    def __init__(self, folder: Path, socket: Path, environment: Mapping[str, str], seconds: float = 900.0) -> None:
        self._tmux = ["tmux", "-u", "-S", str(socket), "-f", "/dev/null"]
        self._seconds = seconds
        self._typed = 0
        self.folder = folder
        self._environment = {**environment, "PS1": _PROMPT, "HISTFILE": ""}
        shell = ("new-session", "-d", *_SIZE, "-c", str(folder), "bash", "--noprofile", "--norc", "-i")
        self._call("set-option", "-g", "history-limit", "20000", ";", *shell)

    def __enter__(self) -> Terminal:
        self._ready()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._call("kill-server")

    def type(self, text: str) -> None:
        """Type a line, and Enter."""
        self._call("send-keys", "-l", "--", text)
        self._call("send-keys", "Enter")

    def press(self, key: str) -> None:
        """Press a key, by tmux's name of it: ``C-c``."""
        self._call("send-keys", key)

    def screen(self) -> str:
        """All that was shown so far, wrapped lines joined."""
        return self._call("capture-pane", "-p", "-J", "-S", "-").rstrip()

    def until(self, true: Callable[[], object], what: str) -> None:
        """Wait; fails with what is shown where it does not come to be."""
        end = time.monotonic() + self._seconds
        while not true():
            assert time.monotonic() < end, f"{what} did not come to be:\n{self.screen()}"
            time.sleep(_POLL)

    def begin(self, command: str) -> None:
        """Type a command to the shell."""
        self._typed += 1
        self.type(command)

    def end(self) -> tuple[int, str]:
        """Wait for the command to end: its exit code and what it printed."""
        code = self._ready()
        return code, self.printed().rpartition("\n")[0] + "\n"

    def printed(self) -> str:
        """What is shown below the line of the last command."""
        shown = self.screen().splitlines()
        start = max(number for number, line in enumerate(shown) if line.startswith(f"<{self._typed}:"))
        return "\n".join(line.rstrip() for line in shown[start + 1 :])

    def _ready(self) -> int:
        def found() -> re.Match[str] | None:
            match = _READY.search(self.screen())
            return match if match is not None and int(match[1]) == self._typed + 1 else None

        self.until(found, "the shell's prompt")
        match = found()
        assert match is not None
        return int(match[2])

    def _call(self, *arguments: str) -> str:
        command, streams = [*self._tmux, *arguments], {"capture_output": True, "text": True, "encoding": "utf-8"}
        return str(subprocess.run(command, check=True, env=self._environment, timeout=60, **streams).stdout)


def missing() -> str:
    """Why there is no terminal here; empty where there is."""
    return "" if shutil.which("tmux") else "tmux is not installed; make browser installs it where apt is"
