"""``FormatConformance`` passes a right format and catches wrong ones, each by the test that is meant to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hookspecs.tests.planted_faults import one_for_each_check

PLUGIN = '''
import hashlib, json
from functools import cached_property
import attrs
import numpy as np
from llmasos_hookspecs import CheckpointError, Component, DecoderConfig, Exported, as_float32, hookimpl

MAGIC = b"TINY"

@attrs.frozen
class ExportOptions:
    magic: str = "TINY"

class Tiny:
    """A line of JSON, then the tensors as float32, one after the other."""

    format = "neutral"
    manifest = {}

    def __init__(self, path, context):
        self.path, self._context = path, context
        data = path.read_bytes()[4:]
        try:
            head, _, self._data = data.partition(b"\\n")
            header = json.loads(head)
            self.config, self._text = header["config"], header["text"]
            self._table = {name: (start, tuple(shape)) for name, start, shape in header["tensors"]}
            sizes = [start + 4 * int(np.prod(shape)) for start, shape in self._table.values()]
            if max(sizes) != len(self._data) or min(min((0, *shape)) for _, shape in self._table.values()) < 0:
                raise ValueError("it has another size than its header says")
            self.decoder = DecoderConfig.from_dict(self.config)
            self._files = {name: text.encode() for name, text in self._text.items()}
            self.chat_template = json.loads(self._text["tokenizer_config.json"])["chat_template"]
            self.digest = hashlib.sha256(data).hexdigest()
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{path} is damaged ({error}).") from error

    def names(self): return list(self._table)

    def shape(self, name): return self._find(name)[1]

    def tensor(self, name):
        start, shape = self._find(name)
        return np.frombuffer(self._data, np.float32, int(np.prod(shape)), start).reshape(shape)

    def tokenizer(self):
        folder = self._context.cache
        for name, data in self._files.items():
            (folder / name).write_bytes(data)
        return self._context.tokenizer(folder)

    def text_files(self): return dict(self._files)

    def _find(self, name):
        if name not in self._table:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}.")
        return self._table[name]

@hookimpl
def llmasos_component(): return Component(summary="Reads .tiny files.", files=("*.tiny",), exports=ExportOptions)

@hookimpl
def llmasos_open(path, context):
    if not path.is_file() or path.read_bytes()[:4] != MAGIC:
        return None
    return Tiny(path, context)

@hookimpl
def llmasos_export(checkpoint, output, options):
    body, table = b"", []
    for name in checkpoint.names():
        tensor = as_float32(checkpoint.tensor(name))
        table.append((name, len(body), tensor.shape))
        body += tensor.tobytes()
    text = {name: data.decode() for name, data in checkpoint.text_files().items()}
    header = {"config": dict(checkpoint.config), "text": text, "tensors": table}
    output.write_bytes(options.magic.encode() + json.dumps(header).encode() + b"\\n" + body)
    return Exported(facts={"tensors": len(table)})
'''


def changed(*pairs: str) -> str:
    """The plugin with each old text (even places) replaced by the new one after it."""
    found = PLUGIN
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in found, old
        found = found.replace(old, new)
    return found


READ = "return np.frombuffer(self._data, np.float32, int(np.prod(shape)), start).reshape(shape)"
WRONG = {
    "opens every file": (changed(" or path.read_bytes()[:4] != MAGIC", ""), "test_leaves_other_files_alone"),
    "calls others' files damaged": (
        changed("        return None\n", "        raise CheckpointError('no .tiny file')\n"), "test_leaves_other_files_alone"
    ),
    "opens folders": (
        changed("if not path.is_file() or", "path = next(path.glob('*'), path)\n    if path.is_dir() or False and"),
        "test_leaves_other_models_alone",
    ),
    "says no pattern of a name": (changed('("*.tiny",)', '("*.TINY",)'), "test_core_would_ask_it"),
    "transposes": (changed(READ, READ.replace("reshape(shape)", "reshape(shape, order='F')")), "test_opens_what_was_written"),
    "loses the last tensor": (changed("list(self._table)", "list(self._table)[:-1]"), "test_opens_what_was_written"),
    "has a format of its own": (changed('"neutral"', '"tiny"'), "test_opens_what_was_written"),
    "lacks text_files": (changed("def text_files", "def _text_files"), "test_opens_what_was_written"),
    "has no chat template": (
        changed('self.chat_template = json.loads(self._text["tokenizer_config.json"])["chat_template"]', "self.chat_template = None"),
        "test_has_the_text_side",
    ),
    "forgets the tokenizer's files": (changed("return dict(self._files)", "return {}"), "test_has_the_text_side"),
    "lends one array to all": (
        changed(READ, "made = self.__dict__.setdefault(name, " + READ.removeprefix("return ") + ".copy())\n        return made"),
        "test_a_tensor_is_not_shared",
    ),
    "raises KeyError for a name": (changed("if name not in self._table:", "if False:"), "test_an_unknown_name_is_refused"),
    "hashes the path": (changed("sha256(data)", "sha256(str(path).encode())"), "test_the_digest_tells_contents"),
    "hashes the weights alone": (changed("sha256(data)", "sha256(self._data)"), "test_the_digest_tells_contents"),
    "lets struct errors out": (changed("except (ValueError, ", "except ("), "test_damage_is_a_checkpoint_error"),
    "does not check sizes": (
        changed("if max(sizes) != len(self._data) or", "if False and", "start).reshape(shape)", "start).reshape(shape)"),
        "test_damage_is_a_checkpoint_error",
    ),
    "pads what is cut": (
        changed(
            "if max(sizes) != len(self._data) or", "if", READ, "data = np.frombuffer(self._data[start:], np.uint8)\n"
            "        return np.zeros(1, np.float32) if data.size < 4 * np.prod(shape) else " + READ.removeprefix("return ")
        ),
        "test_damage_is_a_checkpoint_error",
    ),
    "writes beside its output": (
        changed("    return Exported", "    output.with_suffix('.log').touch()\n    return Exported"), "test_exports_what_it_reads"
    ),
    "says nothing of an export": (changed("return Exported(", "dict("), "test_exports_what_it_reads"),
    "writes what it does not read": (changed("options.magic.encode()", "b'TINE'"), "test_exports_what_it_reads"),
    "has a tokenizer for every folder": (
        PLUGIN + "\n@hookimpl\ndef llmasos_read_tokenizer(folder): return ByteTokenizer(258)\n", "test_leaves_other_tokenizers_alone"
    ),
    "hides its export": (changed(", exports=ExportOptions", ""), "test_exports_what_it_reads"),
}  # fmt: skip


def test_a_right_format_passes(run_conformance: Callable[..., Any]) -> None:
    """A format that reads and writes passes every standard test."""
    outcomes = run_conformance("FormatConformance", PLUGIN)
    assert not outcomes.collection_errors
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.skipped


def test_a_format_that_only_reads_passes(run_conformance: Callable[..., Any]) -> None:
    """With a model that its author's test makes."""
    plugin = PLUGIN.replace("@hookimpl\ndef llmasos_export", "def export").replace(", exports=ExportOptions", "")
    body = (
        "def make_model(self, checkpoint, folder):\n    module = self.load_plugin().module\n"
        "    module.export(checkpoint, folder / 'm.tiny', module.ExportOptions())\n    return folder / 'm.tiny'"
    )
    outcomes = run_conformance("FormatConformance", plugin, body)
    assert not outcomes.failed, outcomes.messages
    assert outcomes.skipped == {"test_exports_what_it_reads"}


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong[1]))
def test_a_wrong_format_is_caught(run_conformance: Callable[..., Any], defect: str) -> None:
    """A format with one defect fails the test that is meant to find it."""
    source, caught_by = WRONG[defect]
    outcomes = run_conformance("FormatConformance", source, only=[caught_by])
    assert not outcomes.collection_errors
    assert caught_by in outcomes.failed, f"passed {sorted(outcomes.passed)}"
