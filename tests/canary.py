"""A process that does one thing with a model and tells everything that it opened, wrote, removed and connected to.

Run as ``python canary.py REPORT REFERENCE LOADER [FRAMEWORK]``; ``test_canary`` does. With a framework, which is imported before the watch
begins, the loader's first inspection of the model's files runs in this process, where it is watched, and not in a child.
"""

from __future__ import annotations

import importlib
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
        if event in ("os.link", "os.symlink"):
            arguments = arguments[1:]  # what is linked stays as it is
        # Relative to the descriptor of a folder, which was told of itself.
        within = event != "os.truncate" and isinstance(arguments[-1], int) and arguments[-1] >= 0
        SEEN["written"].update(os.path.abspath(os.fsdecode(each)) for each in arguments if isinstance(each, (str, bytes)) and not within)
    elif event in _NETWORK:
        SEEN["network"].add(f"{event} {[each for each in arguments if isinstance(each, (str, bytes, int, tuple))]!r}")
    elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        SEEN["started"].add(" ".join(map(str, arguments[1])) if event == "subprocess.Popen" else str(arguments[0]))


if __name__ == "__main__":
    report, reference, loader, *framework = sys.argv[1:]
    for name in framework:
        importlib.import_module(name)
    sys.addaudithook(watch)
    import llmasos

    if framework:
        from llmasos.system import context
        from llmasos_hookspecs.apart import named

        INSPECTED: list[str] = []

        def inspect(function: str, *arguments: Any, limits: Any) -> Any:
            INSPECTED.append(f"{function} {limits}")
            return named(function)(*arguments)

        context.run_apart = inspect

    with llmasos.load_model(reference, loader=loader) as model:
        model.chat([{"role": "user", "content": "hello"}], max_new_tokens=2)
    seen = {kind: sorted(names) for kind, names in SEEN.items()} | {"inspected": INSPECTED if framework else []}
    with open(report, "w", encoding="utf-8") as file:
        json.dump(seen, file)
