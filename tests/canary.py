"""A process that does one thing with a model and tells everything that it opened, wrote, removed and connected to.

Run as ``python canary.py REPORT REFERENCE LOADER``; ``test_canary`` does.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

SEEN: dict[str, set[str]] = {"read": set(), "written": set(), "network": set(), "started": set()}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate", "shutil.rmtree")
_NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        # A relative name that is not there is one of a folder that is being removed through its descriptor.
        if isinstance(path, (str, bytes)) and (os.path.isabs(path) or flags & _WRITING or os.path.lexists(path)):
            SEEN["written" if flags & _WRITING else "read"].add(os.path.abspath(os.fsdecode(path)))
    elif event in _CHANGES:
        # Relative to the descriptor of a folder, which was told of itself.
        within = event != "os.truncate" and isinstance(arguments[-1], int) and arguments[-1] >= 0
        SEEN["written"].update(os.path.abspath(os.fsdecode(each)) for each in arguments if isinstance(each, (str, bytes)) and not within)
    elif event in _NETWORK:
        SEEN["network"].add(f"{event} {[each for each in arguments if isinstance(each, (str, bytes, int, tuple))]!r}")
    elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        SEEN["started"].add(" ".join(map(str, arguments[1])) if event == "subprocess.Popen" else str(arguments[0]))


if __name__ == "__main__":
    sys.addaudithook(watch)
    report, reference, loader = sys.argv[1:]
    import llmasos

    with llmasos.load_model(reference, loader=loader) as model:
        model.chat([{"role": "user", "content": "hello"}], max_new_tokens=2)
    seen = {kind: sorted(names) for kind, names in SEEN.items()}
    with open(report, "w", encoding="utf-8") as file:
        json.dump(seen, file)
