"""Chat templates as configs and metadata hold them: one text, or several with names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

#: The longest templates in use have 20 KB; compiling one takes a second for some 200 KB.
MAX_TEMPLATE_BYTES: Final = 128 << 10


def chosen_template(found: Any) -> str | None:
    """The template: of several named ones ``default``, else the only one, since a template for tools renders chats without tools too.
    Where several are named and none ``default``, a template that refuses every chat with that reason. None where there is none.
    """
    if isinstance(found, Mapping):
        found = [{"name": name, "template": text} for name, text in found.items()]
    if not isinstance(found, list) or not found:
        return found if isinstance(found, str) else None
    entries = [entry for entry in found if isinstance(entry, dict) and isinstance(entry.get("template"), str)]
    named = {str(entry.get("name")): str(entry["template"]) for entry in entries}
    if "default" in named or len(named) == 1:
        return named.get("default", next(iter(named.values())))
    has = f"there are the templates {', '.join(sorted(named))[:120]}" if named else "its templates have no name and text"
    return "{{ raise_exception(" + json.dumps(f"{has}, and none is called default; give that name to the one for plain chats") + ") }}"
