"""Records the picture of README.md from a real run: `python tools/recording.py` writes docs/terminal.svg.

It runs the commands below in a folder of their own, with the models that the store has, and draws what they print; no font is fetched.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

PICTURE: Final = Path(__file__).parents[1] / "docs" / "terminal.svg"
COMMANDS: Final = (
    'llmasos run "What is the capital of Japan?"',
    'echo "The tower was built in 1889." | llmasos run "When was the tower built?"',
    'llmasos run "What is the capital of Japan?" --loader torch --scheduler fair',
    'llmasos task classify --text "Stir the soup." --labels sports --labels cooking',
    'llmasos run "Paris is the capital of" --raw --choices " France, Spain"',
    'llmasos run "Once" --scheduler far',
    "llmasos plugins list --kind scheduler",
)


def transcript() -> list[tuple[str, str]]:
    """Each command with what it prints."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "88",
        "OMP_NUM_THREADS": "1",
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            quiet = command.replace("llmasos run", "llmasos run --no-log")  # the user's own conversations stay as they are
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}  # in the order in which a terminal shows them
            done = subprocess.run(["bash", "-c", quiet], cwd=folder, env=environment, text=True, check=False, **pipes)
            found.append((command, done.stdout))
    return found


def drawn(lines: list[tuple[str, str]]) -> str:
    """The transcript as a terminal, in SVG, with a font that every machine has."""
    console = Console(record=True, width=92, file=io.StringIO(), legacy_windows=False)
    for command, output in lines:
        console.print(Text("$ ", style="bold green") + Text(command, style="bold"))
        for line in output.expandtabs(12).splitlines():
            console.print(Text(line, style="red" if line.startswith("Error") else ""))
    drawing = console.export_svg(title="LLMasOS", unique_id="terminal")
    return re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.S).replace("Fira Code, monospace", "monospace")


if __name__ == "__main__":
    PICTURE.write_text(drawn(transcript()), encoding="utf-8")
