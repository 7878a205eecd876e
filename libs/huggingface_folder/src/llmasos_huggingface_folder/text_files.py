"""The text files of a checkpoint: tokenizer, chat template, generation config, and how images are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from llmasos_checkpoint_kit.folder import inside, parse_json, read_json_if_there, read_small
from llmasos_checkpoint_kit.templates import MAX_TEMPLATE_BYTES, chosen_template
from llmasos_hookspecs import Checkpoint
from llmasos_hookspecs.atomic import write_atomically

#: Files beside the weights that determine what the model says.
TEXT_FILES: Final = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "spiece.model",
    "source.spm", "target.spm", "sentencepiece.bpe.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "generation_config.json", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip

#: Files by which sentence-transformers says what comes before and after a transformer.
_SENTENCE_FILES: Final = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")

_LARGEST: Final = 256 << 20


def write_text_files(base: Checkpoint, folder: Path) -> None:
    """Write the tokenizer's files of a checkpoint of any format into ``folder``."""
    for name, data in base.text_files().items():
        write_atomically(inside(folder, name), data)


def read_text_files(folder: Path) -> dict[str, bytes]:
    """Those of ``TEXT_FILES`` that a folder holds, with their contents."""
    return {name: read_small(folder / name, _LARGEST) for name in TEXT_FILES if inside(folder, name).is_file()}


def module_files(folder: Path) -> list[str]:
    """The names of the files that a folder of sentence-transformers may have beside those of transformers: its own, and those of each
    module in a folder of its own. Empty where it is no such folder."""
    path = inside(folder, _SENTENCE_FILES[0])
    if not path.is_file():
        return []
    listed = parse_json(read_small(path), str(path))
    places = [each.get("path") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    own = [f"{place}/{name}" for place in places if isinstance(place, str) and place for name in ("config.json", "model.safetensors")]
    return [*_SENTENCE_FILES, *own]


def template_in_folder(folder: Path) -> str | None:
    """The chat template of a Hugging Face folder; newer models have it in a file of its own. None where it has none."""
    path = inside(folder, "chat_template.jinja")
    if path.is_file():
        return read_small(path, MAX_TEMPLATE_BYTES).decode("utf-8", "replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (source := chosen_template(read_json_if_there(folder, name).get("chat_template"))) is not None:
            return source
    return None
