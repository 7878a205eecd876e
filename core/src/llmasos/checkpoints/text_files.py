"""The text files of a checkpoint: tokenizer, chat template and generation config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmasos.checkpoints.folder import inside, read_json_if_there, read_small
from llmasos_hookspecs import Checkpoint
from llmasos_hookspecs.atomic import write_atomically

#: Files beside the weights that determine what the model says.
TEXT_FILES: Final = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "spiece.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip

#: The longest templates in use have 20 KB; compiling one takes a second for some 200 KB.
MAX_TEMPLATE_BYTES: Final = 128 << 10

_LARGEST: Final = 256 << 20


def write_text_files(base: Checkpoint, folder: Path) -> None:
    """Write the tokenizer's files of a checkpoint of any format into ``folder``."""
    for name, data in base.text_files().items():
        write_atomically(inside(folder, name), data)


def read_text_files(folder: Path) -> dict[str, bytes]:
    """Those of ``TEXT_FILES`` that a folder holds, with their contents."""
    return {name: read_small(folder / name, _LARGEST) for name in TEXT_FILES if inside(folder, name).is_file()}


def template_in_folder(folder: Path) -> str | None:
    """The chat template of a Hugging Face folder; newer models have it in a file of its own. None where it has none."""
    path = inside(folder, "chat_template.jinja")
    if path.is_file():
        return read_small(path, MAX_TEMPLATE_BYTES).decode("utf-8", "replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (source := chosen_template(read_json_if_there(folder, name).get("chat_template"))) is not None:
            return source
    return None


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
