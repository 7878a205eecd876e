"""Opening a checkpoint and looking at all that it offers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import llmasos_format_gguf
import llmasos_format_legacy
import llmasos_format_quantized
from benchmarks.fuzz.containment import check_sentence
from llmasos.checkpoints import first_sight
from llmasos.compose.formats import formats, open_model
from llmasos.compose.guarded_checkpoint import GuardedCheckpoint
from llmasos.system import context, descriptions
from llmasos_chat_templates.template import ChatTemplate
from llmasos_checkpoint_kit.digests import file_digest
from llmasos_hookspecs import Checkpoint, LLMasOSError, PluginError, Tokenizer, apart
from llmasos_hookspecs.testing import sandbox

TEXT = "Hello 天气 🙂 2024"


@contextmanager
def probed_here() -> Iterator[None]:
    """What core runs in a child process runs in this one, where it is watched; nothing that was tried is remembered."""

    def here(function: str, *arguments: Any, **_: Any) -> Any:
        return apart.result(apart.answer(apart.named(function), arguments))

    with ExitStack() as stack:
        for module in (first_sight, apart):
            stack.enter_context(mock.patch.object(module, "Remembered", return_value=set()))
        stack.enter_context(mock.patch.object(apart, "_passed", set()))
        for module in (context, descriptions):
            stack.enter_context(mock.patch.object(module, "run_apart", here))
        stack.enter_context(mock.patch.object(sandbox, "run_child", lambda function, arguments, _: here(function, *arguments)))
        yield


def open_here(path: Path) -> Checkpoint:
    """A checkpoint as ``llmasos.compose.formats`` opens it, which reads the descriptions of the formats besides."""
    name, module = ("gguf", llmasos_format_gguf) if path.suffix == ".gguf" else ("quantized", llmasos_format_quantized)
    model = module.llmasos_open(path, SimpleNamespace(file_digest=file_digest, tokenizer=tokenizer_here))
    return open_model(path) if model is None else GuardedCheckpoint(model, f'format "{name}"')


def tokenizer_here(folder: Path) -> Tokenizer:
    """A tokenizer as ``llmasos.compose.formats`` reads it, which reads the descriptions of the formats besides."""
    found = None if (folder / "tokenizer.json").is_file() else llmasos_format_legacy.llmasos_read_tokenizer(folder)
    return formats().tokenizer(folder) if found is None else found


def look(path: Path) -> list[str]:
    """Read every tensor, the decoder's config, the digest, the chat template and the tokenizer; what was refused of the last four.

    Raises:
        LLMasOSError: it is no checkpoint, or a tensor cannot be read.
        AssertionError: a format raised something else, which core turned into an error that names the plugin.
    """
    with no_plugin_fails():
        return _look(open_here(path))


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
