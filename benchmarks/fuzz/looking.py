"""Opening a checkpoint and looking at all that it offers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llmasos_format_gguf
import llmasos_format_legacy
import llmasos_format_quantized
from benchmarks.fuzz.containment import check_sentence
from llmasos.compose.formats import Formats
from llmasos.compose.guarded_checkpoint import GuardedCheckpoint
from llmasos.system.component_calls import ComponentCalls
from llmasos.system.discovery import InstalledComponent, Registry
from llmasos_backend_tf import preset_format
from llmasos_chat_templates.template import ChatTemplate
from llmasos_checkpoint_kit.digests import file_digest
from llmasos_hookspecs import Checkpoint, LLMasOSError, PluginError, Tokenizer

TEXT = "Hello 天气 🙂 2024"


class CoreAlone(Registry):
    """What is installed, but for formats."""

    def entries(self, kind: str | None = None) -> tuple[InstalledComponent, ...]:
        return tuple(entry for entry in super().entries(kind) if entry.kind != "format")


class FuzzedFormats(Formats):
    """The formats that are fuzzed, called here: to describe all that are installed would import them while they are watched."""

    def open(self, path: Path) -> Checkpoint:
        is_gguf = path.suffix == ".gguf" or any(path.glob("*.gguf"))
        name, module = ("gguf", llmasos_format_gguf) if is_gguf else ("quantized", llmasos_format_quantized)
        model = module.llmasos_open(path, SimpleNamespace(file_digest=file_digest, tokenizer=self.tokenizer))
        return super().open(path) if model is None else GuardedCheckpoint(model, f'format "{name}"')

    def tokenizer(self, folder: Path) -> Tokenizer:
        found = preset_format.llmasos_read_tokenizer(folder)
        if found is None and not (folder / "tokenizer.json").is_file():
            found = llmasos_format_legacy.llmasos_read_tokenizer(folder)
        return super().tokenizer(folder) if found is None else found


def formats_here() -> Formats:
    """What opens checkpoints and tokenizers here."""
    return FuzzedFormats(calls=ComponentCalls(registry=CoreAlone()))


def look(path: Path) -> list[str]:
    """Read every tensor, the decoder's config, the digest, the chat template and the tokenizer; what was refused of the last four.

    Raises:
        LLMasOSError: it is no checkpoint, or a tensor cannot be read.
        AssertionError: a format raised something else, which core turned into an error that names the plugin.
    """
    with no_plugin_fails():
        return _look(formats_here().open(path))


@contextmanager
def no_plugin_fails() -> Iterator[None]:
    """A file never makes a format fail, however core contains it."""
    try:
        yield
    except PluginError as error:
        raise AssertionError(str(error)) from error


def _look(checkpoint: Checkpoint) -> list[str]:
    refused = []
    for name in checkpoint.names():
        checkpoint.shape(name)
        checkpoint.tensor(name)
    for part in (lambda: checkpoint.decoder, lambda: checkpoint.digest, lambda: _chat(checkpoint), lambda: speak(checkpoint.tokenizer())):
        try:
            part()
        except PluginError:
            raise
        except LLMasOSError as error:
            check_sentence(error)
            refused.append(str(error))
    return refused


def _chat(checkpoint: Any) -> None:
    template = ChatTemplate.of(checkpoint)
    if template is not None:
        template.render([{"role": "user", "content": TEXT}])


def speak(tokenizer: Any) -> None:
    """Encode a text and decode it."""
    tokens = tokenizer.encode(TEXT)
    tokenizer.decode(tokens)
    for token in tokens[:20]:
        tokenizer.token_bytes(token)
